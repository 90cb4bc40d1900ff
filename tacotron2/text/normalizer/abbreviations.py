"""Titles, street names, Latin abbreviations, states and Roman numerals."""

import re

from tacotron2.text.normalizer.say import HELD, cardinal, code, digits, join, text_before
from tacotron2.text.numbers import ordinal
from tacotron2.text.rewriting import Pattern, Rules
from tacotron2.text.tables import table

# What has two meanings is read by what stands beside it.
ABBREVIATIONS = Rules()

ABBREVIATIONS.add(r"\.(?=[A-Z][a-z])(?:(?<=\b(?:Mr|Ms|Dr|St).)|(?<=\bMrs.)|(?<=\bProf.))", ". ")
_ENDS_HERE = Pattern(r"\s*$|\s+(?&openers)\b")  # where the point of an abbreviation ends a sentence, too


@ABBREVIATIONS.rule(r"(?<![\w/.])((?&latin))(?![A-Za-z])", re.IGNORECASE)
def _latin(match: re.Match[str]) -> str:
    """ "e.g." and the like; capitals before a name are initials: "C.F. Gauss"."""
    short = match[1]
    if short.isupper() and short.count(".") > 1 and match.string[match.end() : match.end() + 2].strip().isupper():
        return match[0]
    return _ended(match, _as_typed(short, table("latin")[short.lower()]), short.lower() == "ph.d.")


ABBREVIATIONS.add(
    r"(?<![\w.'/-])((?&Short-words))(?:\.(?= [a-z]|:))?(?![\w'/-])",
    lambda match: _as_typed(match[1], table("short-words")[match[1].lower()]),
)


@ABBREVIATIONS.rule(r"\b([Pp]p?)\. ?([ivxl]{1,8})(?: ?- ?([ivxl]{1,8}))?\b(?!\.\w)")
def _roman_pages(match: re.Match[str]) -> str:
    short, first, last = match.groups()
    values = [roman(numeral.upper()) for numeral in (first, last) if numeral]
    if not all(values):
        return match[0]
    return f"{table('before-numbers')[short.lower()]} {' to '.join(cardinal(str(value)) for value in values)}"


ABBREVIATIONS.add(r"\((ii|iii|iv|vii|viii|ix)\)", lambda match: f"({cardinal(str(roman(match[1].upper())))})")
_FIGURE, _DECIMAL = Pattern(" ?[0-9]"), Pattern(r"[0-9]+\.[0-9]")


@ABBREVIATIONS.rule(
    r"\b(?=[A-Za-z]+\.? ?[#(0-9IVX])((?i:(?&before-numbers)))"
    r"(?:\.? ?(?=[#(]?[0-9])|(?<!\bNo)(?:\. ?| )(?=[IVX]+\b(?!')))"
)
def _before_number(match: re.Match[str]) -> str:
    short = match[1].lower()
    if "." not in match[0]:
        known = short in table("before-numbers-without-point") or match[1] in table("before-numbers-with-capital")
        if not known or not match[0].endswith(" "):
            return match[0]
    if short == "v" and _DECIMAL.match(match.string, match.end()):
        return match[0]  # a version
    if short == "v" and re.search("[A-Z][a-z]* $", text_before(match, 16)):
        return "versus "
    return f"{_as_typed(match[1], table('before-numbers')[short])} "


@ABBREVIATIONS.rule(
    r"(?<![\w.,-])([0-9]{1,5})( (?&directions)\.?)?"
    r"((?: (?:[A-Z][A-Za-z']+|[0-9]{1,3}(?:st|nd|rd|th))\.?){1,3}?) ((?&streets)|(?&street-words))\b(\.?)(?![a-z])",
    re.IGNORECASE,
)
def _numbered_street(match: re.Match[str]) -> str:
    house, direction, name, street, point = match.groups()
    if not name.strip()[0].isupper() and not name.strip()[0].isdigit():
        return match[0]
    if not street[0].isupper():
        return match[0]
    towards = f" {table('directions')[direction.strip(' .').upper()]}" if direction else ""
    words = f"{code(house)}{towards}{name} {table('streets').get(street.lower(), street)}"
    return _ended(match, words, bool(point) and street.lower() in table("streets"))


_TOWN, _TOWN_WITHIN_A_SENTENCE = Pattern(r"[A-Z][\w.'-]+, $"), Pattern(r"[\w,] [A-Z][\w.'-]+, $")


@ABBREVIATIONS.rule(
    r"(?:(?<=[a-z.], )((?&states))\b|\b((?&states))(?= [0-9]))(?:,? ([0-9]{5})(?:-([0-9]{4}))?(?![\w,.-]*[0-9]))?"
)
def _state(match: re.Match[str]) -> str:
    """ "Portland, OR" and "Albany NY 12207", but not "it is, OR" and "Sure, OK"."""
    state, before_zip, zip_code, more = match.groups()
    if not zip_code:
        is_word = state == "OK" or state in table("common-short-words")
        town = _TOWN_WITHIN_A_SENTENCE if state == "OK" else _TOWN
        if not state or (is_word and not town.search(text_before(match, 40))):
            return match[0]
    return join(table("states")[state or before_zip], digits(zip_code or "")) + (f", {digits(more)}" if more else "")


_CAPITAL = f"[A-Z{HELD}]"


# A street after a name, unless a second name follows: else a saint or a doctor.
@ABBREVIATIONS.rule(
    rf" (?:(?<=[a-z] )(?:(St)(?=,|\s*$)|(St|Dr)\.(?= +(?!{_CAPITAL})|[,;:!?)]|\s*$| (?&openers)\b))"
    r"|(?<=[a-z.] )((?!(?&Streets-or-others)\b)(?&Streets))\b\.?(?! ?[0-9]))"
)
def _street(match: re.Match[str]) -> str:
    short = match[1] or match[2] or match[3]
    return _ended(match, f" {table('streets')[short.lower()].capitalize()}", match[0].endswith("."))


ABBREVIATIONS.add(
    r"[NS][EW]\b(?:(?<=[a-z.,] ..)(?= of\b)|(?<=(?:[Ss]treet|[Aa]venue) ..))",
    lambda match: table("directions")[match[0]].lower(),
)
ABBREVIATIONS.add(
    rf"\b((?&before-a-name))\.? (?={_CAPITAL}[a-z.{HELD}]|[{HELD}]|(?:and|&) (?:Mrs?|Ms|Dr)\b)",
    lambda match: f"{table('before-a-name')[match[1]]} ",
)
_NOT_BEFORE_PROF = Pattern(r"\b(?:my|the|a|our|his|her|your|their|this|that|dash|dot|slash) $")
_BEFORE_SMALL = Pattern(r"(?:^|[:,] |\b(?:and|hi|by|to|dear|with|from|in|at|of|near) )$")  # "ms smith"


@ABBREVIATIONS.rule(r"\b(?:(Mr|Mrs|Ms|Dr|Prof)(?= [A-Z])|(mr|mrs|dr)\b\.?(?= [A-Za-z])|(ms|st|prof)\b\.?(?= [a-z]{2}))")
def _unpointed_title(match: re.Match[str]) -> str:
    short = (match[1] or match[2] or match[3]).lower()
    before = text_before(match, 8)
    if match[3] and (_NOT_BEFORE_PROF.search(before) if short == "prof" else not _BEFORE_SMALL.search(before)):
        return match[0]
    return {"dr": "Doctor", "st": "saint"}.get(short) or table("titles")[short]


ABBREVIATIONS.add(
    r"(?<=[0-9](?:st|nd|rd|th) )(ed|c|cent)\.(?=(\s*$)?)",
    lambda match: f"{table('after-ordinals')[match[1]]}{'.' * (match[2] is not None)}",
)


@ABBREVIATIONS.rule(r"\b([A-Za-z]{2,12})\.(?=(\s*$)|\s|[,;:!?)/])")
def _title(match: re.Match[str]) -> str:
    short = match[1].lower()
    words = table("titles").get(short)
    if words is None or (match[1][0].islower() and short not in ("mr", "mrs", "ms", "prof")):
        return match[0]
    return f"{words}{'.' * (match[2] is not None)}"


@ABBREVIATIONS.rule(rf"\b([A-Za-z]{{2,6}})\.(?![A-Za-z0-9])(\s*(?:[A-Z{HELD}\"(]|$))?")
def _ending(match: re.Match[str]) -> str:
    short, follows = match[1].lower(), match[2]
    if short not in table("ending"):
        return match[0]
    words = _as_typed(match[1], table("ending")[short])
    alone = follows is not None and not follows.strip()  # at the end
    if alone and match[1].islower() and short in table("small-at-the-end"):
        return match[0]
    if short == "est" and not _FIGURE.match(match.string, match.end(1) + 1):
        return match[0]  # a time zone
    if follows is None:
        return words
    goes_on = short in table("followed-by-names") and not _ENDS_HERE.match(match.string, match.end(1) + 1)
    return words + ("" if goes_on else ".") + follows


ABBREVIATIONS.add(r"v(?:s(?<![\w.'-]..)(?=\s)|\.(?<=\s..)(?=\s[A-Z])|(?<=[a-z]\s.)(?=\s[A-Z][a-z]))", "versus")

# Roman numerals.
NUMERALS = Rules(needs=r"\b[MDCLXVI]{1,15}(?:th|st|nd|rd|TH)?\b")


def _nth(match: re.Match[str]) -> str:
    return ordinal(str(roman(match[1]))) if roman(match[1]) else match[0]


NUMERALS.add(r"\b([XVI]{1,6})(?:th|st|nd|rd)?(?= [Cc]entur)", _nth)
NUMERALS.add(r"\b([IVXL]{2,8}|[VX])(?:th|st|nd|rd|TH)\b", _nth)
_ROMAN = "[MDCLXVI]{1,15}"
# After "volume I" in lower case: shows that the I is no pronoun.
_NO_PRONOUN_AFTER = Pattern(r"\s*(?:$|[,.;:)\]-]|(?:of|is|and|to|was|or|in|at|on|by|for)\b)")


@NUMERALS.rule(rf"\b((?&COUNTED-IN-ROMANS)) (?!(?<=[Ss]eries )X\b)({_ROMAN})(?!'[a-rt-z]|\.?[A-Za-z])")
def _counted(match: re.Match[str]) -> str:
    noun, numeral = match[1], match[2]
    value = roman(numeral)
    pronoun = numeral == "I" and noun[0].islower() and not _NO_PRONOUN_AFTER.match(match.string, match.end())
    return f"{noun} {cardinal(str(value))}" if value and not pronoun else match[0]


# The third of a family: "John Smith III".
NUMERALS.add(
    r"\b((?:(?:(?&rulers)|(?&given-names)) (?:[A-Z]\. )?[A-Z][a-z]+|[A-Z][a-z]+ [A-Z][a-z]+,) )"
    r"(I{2,3}|IV)\b(?!['-]?\w)",
    lambda match: f"{match[1]}the {ordinal(str(roman(match[2])))}",
)


@NUMERALS.rule(
    rf"\b(?:((?&ruler-titles)) )?([A-Z][a-z]{{1,15}}) ({_ROMAN})(?![A-Za-z])"
    r"(?=('s|[,.;:)]|\s(?:of|and|or|at|in|on|to|from|by|with)\b|\s*$|\s(?!(?&pronoun-verbs)\b)"
    r"(?:[a-z]{2,}ed|[a-z]{3,}s|(?&ruler-verbs))\b)?)"
)
def _ruler(match: re.Match[str]) -> str:
    title, name, numeral, after = match.groups()
    value = roman(numeral)
    if not value or not (title or name in table("rulers")):
        return match[0]
    if numeral == "I" and after is None and not title:
        return match[0]  # the pronoun
    if not title and len(numeral) == 1 and numeral not in "IVX":
        return match[0]
    return f"{f'{title} ' if title else ''}{name} the {ordinal(str(value))}"


@NUMERALS.rule(r"(?<![A-Za-z.'&])(?<![a-z0-9]-)([XVI]{2,8}|[MDCLXVI]{4,12})(?![A-Za-z.'&-]?[A-Za-z])")
def _alone(match: re.Match[str]) -> str:
    value = roman(match[1])
    before = text_before(match, 20)
    follows_name = bool(re.search(r"[A-Z][A-Za-z]+ $", before))
    in_a_row = bool(re.search(r"\bI{1,3},? ", before))
    initialism = match[1] in table("numeral-initialisms") and not follows_name and not in_a_row
    if not value or match[1] in table("no-numerals") or initialism:
        return match[0]
    return cardinal(str(value))


_USUAL = Pattern("M*(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def _ended(match: re.Match[str], words: str, has_point: bool = True) -> str:
    """The words for an abbreviation with a point, which stays where it ends a sentence, too."""
    return f"{words}." if has_point and _ENDS_HERE.match(match.string, match.end()) else words


def _as_typed(short: str, words: str) -> str:
    """The words with a capital where the abbreviation began a sentence."""
    return words[0].upper() + words[1:] if short[0].isupper() else words


def roman(numeral: str) -> int:
    """The value of a Roman numeral; 0 if it is not written in the usual way."""
    if not _USUAL.fullmatch(numeral):
        return 0
    values = [_VALUES[letter] for letter in numeral]
    return sum(
        -value if value < following else value for value, following in zip(values, [*values[1:], 0], strict=True)
    )
