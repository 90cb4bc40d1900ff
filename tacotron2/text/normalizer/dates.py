"""Dates, years, decades and times of day."""

import re
from collections.abc import Sequence

from tacotron2.text.normalizer.say import FIGURES, cardinal, count, letters, number, plural, text_before, two_digits
from tacotron2.text.numbers import ordinal
from tacotron2.text.rewriting import Pattern, Rules
from tacotron2.text.tables import table

# Weekdays, also without a date.
WEEKDAYS = Rules()

_WEEKDAY = r"(?i:Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)"
_BEFORE_WEEKDAY = Pattern(r"\b(?:on|by|until|every|next|closed|EOD) $", re.IGNORECASE)
_JOINTS = {"-": "to", "/": "to", "&": "and"}


WEEKDAYS.add(r"M(?<!\w.) ?- ?(F|Th)\b", lambda match: f"Monday to {'Friday' if match[1] == 'F' else 'Thursday'}")


@WEEKDAYS.rule(rf"\b({_WEEKDAY})\.? ?(-|/|&|and|or|to|through) ?({_WEEKDAY})((?:/{_WEEKDAY}){{0,5}})\b\.?(?![A-Za-z])")
def _weekdays(match: re.Match[str]) -> str:
    first, joint, last, more = match.groups()
    if not (_is_name(first) and _is_name(last)):
        return match[0]
    if joint == "/" and more:
        return ", ".join(map(_weekday, match[0].split("/")))
    return f"{_weekday(first)} {_JOINTS.get(joint, joint)} {_weekday(last)}"


@WEEKDAYS.rule(
    rf"\b({_WEEKDAY})\b"
    r"(\.? (?=(?:night|morning|afternoon|evening|noon)s?\b)|\.(?= [a-z0-9(&]|[,;:)])|(?=\.?(?:\s*$|[,;:!?)])|\. [A-Z]))"
)
def _weekday_alone(match: re.Match[str]) -> str:
    day, after = match.groups()
    is_another_word = day.lower() in ("mon", "wed", "sat", "sun")
    if not _is_name(day) or (is_another_word and not after and not _BEFORE_WEEKDAY.search(text_before(match, 8))):
        return match[0]
    return _weekday(day) + (" " if after[-1:] == " " else "")


# Dates, years and decades. They leave a month alone as it is.
DATES = Rules(needs=FIGURES)

_LETTERED = Pattern(r"(?:\b(?&Before-a-letter) |\bb\. .*)$")


@DATES.rule(
    r"(?<![\w.])(?<![0-9] )(c)\. ?(?=[$£€]?[1-9][0-9,]+)|((?<=[(,;] )[bdr]|(?<=\()[bdr]|\bfl)\. ?(?=[1-9][0-9]{2,3}\b)"
)
def _before_year(match: re.Match[str]) -> str:
    """ "c. 1500" and "c. 80 kg", but not "vitamin c. 1500 people" or "b. 40 c. 50"."""
    lettered = match[1] and _LETTERED.search(text_before(match, 40))
    return match[0] if lettered else f"{table('before-years')[match[1] or match[2]]} "


# In any case: "Jan", "JAN", "jan". For "may", "mar" and "dec" the neighbours decide.
MONTH = (
    r"(?i:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\b"
)
_YEAR = r"[12][0-9]{3}"
_DAY = r"(?:3[01]|[12][0-9]|0?[1-9])"
_NTH = r"(?:st|nd|rd|th|ST|ND|RD|TH)?"
_DAYS = rf"({_DAY}){_NTH}(?:( ?- ?| to | and | & )({_DAY}){_NTH})?"
_AFTER_WEEKDAY = Pattern(rf"\b{_WEEKDAY}(?:day|nesday|rsday|urday)?\.?, ?$")  # with a comma, as in mail
# After "may 6" or "march 15" in lower case: shows that "march" is no verb ("march 15 miles").
_AFTER_A_DATE = Pattern(r" *(?:$|[^\w\s]|(?&after-a-date)\b)")


@DATES.rule(
    rf"(?<![\w.,:/$£€-]){_DAYS}( of| OF)? ({MONTH})\.?(?:,? ({_YEAR}))?(?![\w%°]|[.:/-][0-9]| [0-9]{{1,2}}(?![0-9]))"
)
def _day_month(match: re.Match[str]) -> str:
    first, joint, last, of, month, year = match.groups()
    if not (_is_name(month) or year or of or _AFTER_A_DATE.match(match.string, match.end())):
        return match[0]
    before = text_before(match, 12)
    if _AFTER_WEEKDAY.search(before):
        words = f"{_month(month)} {_days(first, joint, last)}"
    else:
        the = "" if before.lower().endswith("the ") else "the "
        words = f"{the}{_days(first, joint, last)} of {_month(month)}"
    return f"{words}, {count(year)}" if year else words


DATES.add(
    rf"\b({_WEEKDAY})\b(?:\.,?|,)? (?={MONTH}\.? (?:[0-9]|[a-z-]+(?:st|nd|rd|th)\b)"
    rf"|the [a-z-]+ (?:to [a-z-]+ )?of {MONTH}"
    r"|[0-9]{1,2}(?:[:/]|st|nd|rd|th| ?[ap]\.?m|-[0-9]{1,2}\b))",
    lambda match: f"{_weekday(match[1])}, ",
)
_START, _END = r"(?<![\w.,:/'-])", r"(?![\w%°]|[.,:/-][0-9])"


DATES.add(
    rf"{_START}({_YEAR})([-/])(1[0-2]|0?[1-9])\2({_DAY})(?:[T ](?=[0-9]{{2}}:[0-9]{{2}})|(?![\w/-]))",
    lambda match: _date(match[3], match[4], match[1]) + " " * (match[0][-1] in "T "),
)


@DATES.rule(
    rf"\b([Ee])(?:xp|XP)\.?((?: date)?:? )(?:(1[0-2]|0[1-9])/([0-9]{{2}})(?![\w/-]|[.,][0-9])"
    rf"|(?=[0-9]{{1,2}}/[0-9]|{MONTH}\.? [0-9]))"
)
def _expiry(match: re.Match[str]) -> str:
    """ "exp. 03/27" is a month and a year of two figures, as cards have them."""
    first, date, month, year = match.groups()
    words = f"{first}{'xpiration' if 'date' in date else 'xpires'}{date}"
    return f"{words}{date_words('my', (month, year))}" if month else words


@DATES.rule(rf"{_START}([0-3]?[0-9])([/.-])([0-3]?[0-9])\2({_YEAR}|[0-9]{{2}})(?![\w/-]|\.[0-9])")
def _slashed(match: re.Match[str]) -> str:
    first, mark, second, year = match.groups()
    if mark == "." and len(year) == 2:
        return match[0]  # a version
    day_first = mark == "." or int(first) > 12
    month, day = (second, first) if day_first else (first, second)
    return _date(month, day, year) or match[0]


DATES.add(
    rf"{_START}({_DAY})[-/]({MONTH})[-/]({_YEAR}|[0-9]{{2}})(?![\w/-])",
    lambda match: _date(match[2], match[1], match[3]),
)


@DATES.rule(rf"\b({MONTH})(?:\.? |-){_DAYS}(?:(?:,? |-)({_YEAR}))?{_END}")
def _month_day(match: re.Match[str]) -> str:
    month, first, joint, last, year = match.groups()
    if not _is_name(month) and not year and not _AFTER_A_DATE.match(match.string, match.end()):
        return match[0]
    words = f"{_month(month)} {_days(first, joint, last)}"
    return f"{words}, {count(year)}" if year else words


DATES.add(rf"\b({MONTH})\.?,? ({_YEAR}){_END}", lambda match: f"{_month(match[1])} {count(match[2])}")
DATES.add(
    r"\b((?:(?&Before-a-date) (?:the )?|(?:[MFS]|Tue|Wedne|Thur)[a-z]{1,4}day,? ))"
    r"(1[0-2]|0?[1-9])/(3[01]|[12][0-9]|0?[1-9])(?![\w/]|[.,][0-9])",
    lambda match: match[1] + _date(match[2], match[3]),
)
_MONTH_YEAR = r"(1[0-2]|0?[1-9])/((?:19|20)[0-9]{2})"


# A month of one figure needs a word before it: "3/2000" is a fraction.
@DATES.rule(rf"(\b(?&Before-a-date) |{_START}(?=[01][0-9])){_MONTH_YEAR}(?:( ?- ?){_MONTH_YEAR})?(?![\w/-]|[.,][0-9])")
def _month_year(match: re.Match[str]) -> str:
    before, *first, joint, month, year = match.groups()
    more = f" to {date_words('my', (month, year))}" if joint else ""
    return f"{before}{date_words('my', first)}{more}"


@DATES.rule(r"(?<![\w/.-])([0-9]{2})/([0-9]{2})(?= (?&seasons))")
def _season(match: re.Match[str]) -> str:
    first, last = match.groups()
    if (int(first) + 1) % 100 != int(last):
        return match[0]
    return f"{two_digits(first)} {two_digits(last)}"


# A zero before a figure shows a date: "03/15".
DATES.add(
    rf"{_START}(?=0|[0-9]{{1,2}}/0)(1[0-2]|0?[1-9])/(3[01]|[12][0-9]|0[1-9])(?![\w/-]|[.,][0-9])",
    lambda match: _date(match[1], match[2]),
)


@DATES.rule(rf"{_START}({_YEAR})(?: ?- ?|/)({_YEAR}|[0-9]{{2}})(?![\w-]|[.,:/][0-9])")
def _years(match: re.Match[str]) -> str:
    first, last = match.groups()
    return f"{count(first)} to {count(last) if len(last) == 4 else two_digits(last)}"


DATES.add(
    r"(?<![\w.,$-])(10{1,3}|10{0,2},000)'?s(?= of\b)",
    lambda match: " of ".join(map(plural, cardinal(match[1].replace(",", "")).removeprefix("one ").split())),
)
DATES.add(
    r"(?<![\w.,:$£€])('?)((?:1[0-9]|20)?[0-9]0)'?s ?- ?'?((?:1[0-9]|20)?[0-9]0)'?s\b",
    lambda match: f"{_decade_words(match[1], match[2])} to {_decade_words('', match[3])}",
)


@DATES.rule(r"(?<![\w.,:$£€])(?<![0-9]-)('?)((?:1[0-9]|20)?[0-9]0)'?s\b(?!\.?[0-9])")
def _decade(match: re.Match[str]) -> str:
    apostrophe, figures = match.groups()
    short = len(figures) == 2 and not apostrophe
    if short and (int(figures) < 20 or is_seconds(match)):
        return match[0]
    return _decade_words(apostrophe, figures)


DATES.add(r"(?<![\w'])'([0-9]{2})(?![\w'\"])", lambda match: two_digits(match[1]))

MONTHS = Rules()


MONTHS.add(
    rf"\b({MONTH})\.? ?- ?({MONTH})(?:\.(?=[,;:)]| [a-z]))?",
    lambda match: f"{_month(match[1])} to {_month(match[2])}" if all(map(_is_name, match.groups())) else match[0],
)


# Times of day, and durations in hours and minutes.
TIMES = Rules(needs=FIGURES)


_BOOK = Pattern(r"\b(?&scriptures)\.? $")


@TIMES.rule(r"(?<= )([0-9]{1,3}):([1-9][0-9]{0,2})(?: ?- ?([0-9]{1,3}))?(?![\w:]| ?-[0-9]+:)")
def _verse(match: re.Match[str]) -> str:
    chapter, first, last = match.groups()
    if not _BOOK.search(text_before(match, 20)):
        return match[0]
    return f"{cardinal(chapter)} {cardinal(first)}{f' to {cardinal(last)}' if last else ''}"


TIMES.add(
    r"(?<![\w.:])([0-9]{1,3}) ?h(?:rs?)? ?([0-5]?[0-9])(?: ?m(?:in)?s?)?(?: ?([0-5]?[0-9]) ?s(?:ec)?s?)?(?!\w|\.\w)",
    lambda match: _duration(match[1], match[2], match[3]),
)
TIMES.add(
    r"(?<![\w.:])([0-9]{1,3}) ?m(?:in)? ?([0-5]?[0-9]) ?s(?:ec)?s?(?![\w])",
    lambda match: _duration("", match[1], match[2]),
)


@TIMES.rule(r"\b(UTC|GMT)([+-])([0-9]{1,2})(?::?([0-9]{2}))?\b")
def _offset(match: re.Match[str]) -> str:
    zone, sign, hours, minutes = match.groups()
    words = f"{letters(zone)} {'plus' if sign == '+' else 'minus'} {cardinal(hours)}"
    return f"{words} {two_digits(minutes)}" if minutes and minutes != "00" else words


TIMES.add(
    r"(?<![\w:.-])([0-9]):([0-5][0-9]):([0-5][0-9])(?:\.[0-9]+)?(?![\w:]| ?[AaPp]\.?[Mm]\b)",
    lambda match: _duration(*(figures.lstrip("0") for figures in match.groups())) or match[0],
)
TIMES.add(
    r"(?<![\w:.-])([0-9]{1,2}):([0-5][0-9]\.[0-9]{1,3})(?![\w:]|\.[0-9])",  # of a race: "1:23.456"
    lambda match: f"{_duration('', match[1], '')} and {number(match[2])} seconds",
)
_CLOCK = r"[0-9]{1,2}(?:[:.][0-5][0-9])?"
_HALF = r"[AaPp](?:\. ?[Mm]\.|\.?[Mm]\b)"
TIMES.add(
    rf"(?<![\w:.$-])({_CLOCK}(?: ?{_HALF})?) ?- ?"
    rf"(?={_CLOCK} ?{_HALF}(?![0-9])|[0-9]{{1,2}}:[0-5][0-9](?![0-9])|(?:noon|midnight)\b)"
    r"|\b(noon|midnight) ?- ?(?=[0-9])",
    lambda match: f"{re.sub('(?<=[0-9])[.](?=[0-9])', ':', match[1] or match[2])} to ",
)
TIMES.add(r"(?:(?<=:[0-9])|(?<=:[0-9]{2})) ?- ?(?=[0-9]{1,3}(?![\w:-]|[.,][0-9]))", " to ")
_SENTENCE_GOES_ON = Pattern(
    r"[ ,;:!?)]*(?:[a-z0-9,;:!?(]|EST|EDT|CST|CDT|MST|MDT|PST|PDT|GMT|UTC|BST|CET|E|P|C|M|I |on |-)"
)


@TIMES.rule(
    rf"(?<![\w:.$-])([01]?[0-9]|2[0-4])(?:[:.]([0-5][0-9])(?::([0-5][0-9])(?:[.,][0-9]+)?)?)? ?({_HALF})"
    r"(?![A-Za-z0-9])"
    r"|(?<![\w:.$-])([01]?[0-9]|2[0-4]):([0-5][0-9])(?::([0-5][0-9])(?:[.,][0-9]{1,6})?)?(Z\b)?(?![\w:]|\.[0-9]|,[0-9]{3})"
)
def _time(match: re.Match[str]) -> str:
    hour, minute, second, half, hour24, minute24, second24, zulu = match.groups()
    if half is None:
        words = _clock(hour24, minute24, second24)
        return f"{words} {letters('UTC')}" if zulu else words
    words = cardinal(hour)
    if minute and (minute != "00" or second):
        words += f" {two_digits(minute)}"
    if second:
        words += f" and {_duration(None, None, second)}"
    words += f" {letters(half)}"
    rest = match.string[match.end() : match.end() + 8]
    return words + "." if match[0].endswith(".") and not _SENTENCE_GOES_ON.match(rest) else words


# Beside these, "30s" means seconds.
_AFTER_SECONDS = Pattern(r" (?&after-seconds)\b")
_BEFORE_SECONDS = Pattern(r"(?:[:=~<>]|\b(?i:(?&before-seconds)|(?&lengths-of-time) of)) ?$")


def _month(written: str) -> str:
    """The name of a month, from its beginning or from figures."""
    months = table("months")
    return list(months.values())[int(written) - 1] if written.isdecimal() else months[written[:3].lower()]


def _weekday(written: str) -> str:
    return table("weekdays")[written[:3].lower()]


def _is_name(written: str) -> bool:
    """Whether letters name a month or a weekday: "mar", "sat" and the like do only with a capital."""
    return written[0].isupper() or written not in ("may", "mar", "march", "dec", "sat", "sun", "wed")


def _full_year(written: str) -> str:
    """Two figures are of this century up to 69, as in POSIX."""
    if len(written) != 2:
        return written
    return ("20" if int(written) < 69 else "19") + written


def _date(month: str, day: str, year: str = "") -> str:
    """ "December twenty-fifth, twenty twenty-four"; empty if there is no such date."""
    if not 1 <= int(day) <= 31 or (month.isdecimal() and not 1 <= int(month) <= 12):
        return ""
    words = f"{_month(month)} {ordinal(day)}"
    return f"{words}, {count(_full_year(year))}" if year else words


def date_words(order: str, figures: Sequence[str]) -> str:
    """A date whose figures stand in an order like "mdy", "ymd", "md", "my" or "y"; empty if there is no such date."""
    if len(figures) != len(order) or set(order) - set("ymd") or max(map(len, figures)) > 4:
        return ""
    parts = dict(zip(order, figures, strict=True))
    month, year = parts.get("m", "0"), parts.get("y", "")
    if "d" in parts:
        return _date(month, parts["d"], year)
    if "m" not in parts:
        return count(_full_year(year))
    return f"{_month(month)} {count(_full_year(year))}" if year and 1 <= int(month) <= 12 else ""


def _days(first: str, joint: str | None, last: str | None) -> str:
    words = ordinal(first)
    if joint and last:
        words += f" {_JOINTS.get(joint.strip(), joint.strip())} {ordinal(last)}"
    return words


def is_seconds(match: re.Match[str]) -> bool:
    """Whether the neighbours of "30s" and the like show that they are seconds."""
    return bool(_BEFORE_SECONDS.search(text_before(match, 16)) or _AFTER_SECONDS.match(match.string, match.end()))


def _decade_words(apostrophe: str, figures: str) -> str:
    if figures == "00" and apostrophe:
        return "two thousands"
    return plural(cardinal(figures) if len(figures) == 2 else count(figures))


def _clock(hour: str, minute: str, second: str | None) -> str:
    if second:
        minutes = two_digits(minute) if minute != "00" else "hundred"
        return f"{cardinal(hour)} {minutes} and {_duration(None, None, second)}"
    if minute != "00":
        return f"{cardinal(hour)} {two_digits(minute)}"
    if hour in ("0", "00", "24"):
        return "midnight"
    if hour.startswith("0"):
        return f"oh {cardinal(hour)} hundred"
    return f"{cardinal(hour)} o'clock" if int(hour) < 13 else f"{cardinal(hour)} hundred"


def _duration(hours: str | None, minutes: str | None, seconds: str | None) -> str:
    said = [
        f"{cardinal(figures)} {unit}{'' if int(figures) == 1 else 's'}"
        for figures, unit in ((hours, "hour"), (minutes, "minute"), (seconds, "second"))
        if figures
    ]
    return " and ".join(said) if len(said) < 3 else f"{said[0]}, {said[1]} and {said[2]}"
