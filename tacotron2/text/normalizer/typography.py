"""Typography, emoji, markup and lines: typed or pasted text becomes blocks of plain characters."""

import html
import re
import unicodedata
from collections.abc import Set

from tacotron2.text.rewriting import Pattern, Rules, matched

_ENTITY = Pattern(r"&(?:[a-zA-Z]{2,8}|#[0-9]{1,6});")
# A tag, or what else stands between angle brackets: "<jane@doe.com>", "<your name>".
_TAG = Pattern(
    r"<(/?)([a-zA-Z][\w:-]{0,80})((?:\s[^<>\n]{0,200})?/?)>"
    r"|<([a-zA-Z][^<>\n]{0,280}|[^<>@\s]{1,99}@[^<>\s]{1,99})>|<!--[^<>\n]{0,500}-->"
)
_CLOSING_TAG = Pattern(r"</([a-zA-Z][\w:-]{0,80})\s?>")
_BLOCK_TAGS = frozenset("br p div li ul ol tr table blockquote h1 h2 h3 h4 h5 h6 pre hr".split())  # noqa: SIM905
_INLINE_TAGS = frozenset("a b i u s em strong small span sub sup code font".split())  # noqa: SIM905
# Read before Unicode's compatibility forms, which would lose their meaning.
_SUPERSCRIPT = Pattern("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_TO_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_VULGAR_FRACTION = Pattern("([0-9]?)([¼-¾⅐-⅞])")
_PLAIN_KIN = {
    **dict.fromkeys("“”„‟«»〝〞＂❝❞", '"'),
    **dict.fromkeys("‘’‚‛‹›´＇❛❜ʼ", "'"),
    **dict.fromkeys("\u2010\u2011\ufe63\uff0d", "-"),
    **dict.fromkeys("—―⸺⸻", " -- "),
    **dict.fromkeys("‒–", "–"),
    **dict.fromkeys("º˚", "°"),
    **dict.fromkeys("©®™℠†‡¶·¨¸¯¦", " "),
    **dict.fromkeys("→⇒➔➜⟶", " to "),
    **{"…": "...", "№": "No. ", "∓": "±", "‰": " per thousand ", "℅": " care of "},
    **{"§§": " sections ", "§": " section ", "♭": " flat ", "♯": " sharp ", "\u00ad": ""},
}
_KIN = Pattern(f"§§|[{''.join(_PLAIN_KIN)}]")
# Unicode's compatibility forms may change these, and the letter before, which an accent may join.
_COMPATIBLE = Pattern(r"[^\S\x00-\x7f]|\S?[^\x00-\x7f\s]+")
_DIGITS_DASH = Pattern(r"(?<=[0-9])\s?–\s?(?=[-$€£¥]?[0-9])")  # an en dash between numbers is a range's
_EN_DASH = Pattern("–")
_EMOJI = Pattern(
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u2300-\u23ff\u25a0-\u25ff\u2500-\u259f\u2190-\u21ff"
    "\ufe00-\ufe0f\u20e3\U000e0000-\U000e007f]+"
)
_INVISIBLE = Pattern(
    "[\u0000-\u0008\u000e-\u001b\u007f\u0080-\u009f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
_BREAK_CHARACTERS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_BREAK = Pattern(rf"\r\n|[{_BREAK_CHARACTERS}]")
_LINE = Pattern(rf"[^{_BREAK_CHARACTERS}]*(?:{_BREAK.pattern})|[^{_BREAK_CHARACTERS}]+")
# A line outside all blocks: the border of a code block, a rule, the underline of a heading or a table.
_BORDER = Pattern(rf"[ \t]*(?:(?:```|~~~).*|[-*_=#|+:][-*_=#|+: \t]{{2,}}|[•·][ \t]*)?(?:{_BREAK.pattern})?")
_QUOTE = Pattern(r"\A[ \t]*(?:>[ \t]?){1,9}(?!=|[$€£]?[0-9.])")
# What begins a heading, an item of a list, one with a number, or a table's row.
_MARK = Pattern(
    r"\A[ \t]*(?:(#{1,6}[ \t]+)|[-*+•◦▪‣–][ \t]+(?:\[[ xX]\][ \t]+)?|((?:[0-9]{1,3}[.)]|[a-z]\))[ \t])|(\s*\|))"
)
_ROW_ENDS = Pattern(rf"\A[ \t|]+|(?<![ \t|])[ \t|]*(?:{_BREAK.pattern}|\Z)")


def blocks(text: str) -> str:
    """The text's paragraphs, headings, list items and table rows, each a line, in plain characters.

    Quotation marks are straight, dashes are hyphens; emoji, tags and invisible characters are gone.
    """
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    if not text.isascii():
        text = _in_plain_kin(text)
    text = _INVISIBLE.sub("", text)
    if "<" in text:
        known = _INLINE_TAGS.union(map(str.lower, _CLOSING_TAG.findall(text)))
        text = _TAG.sub(lambda match: _tag(match, known), text)
    return _LINE.sub(_line, text)


def _tag(match: re.Match[str], known: Set[str]) -> str:
    """White space for a tag. A placeholder's words: it has no attributes, no known name, and doesn't close."""
    closing, name, rest, other = match.groups()
    if (name or "").lower() in _BLOCK_TAGS:
        return "\n\n"
    if name and not (closing or "=" in rest or rest.endswith("/") or name.lower() in known):
        return f" {name}{rest} "
    return f" {other or ''} "


def _line(match: re.Match[str]) -> str:
    """A line with a line break where a block begins or ends, and a space where the next line may go on."""
    line = _QUOTE.sub("", matched(match))
    if _BORDER.fullmatch(line):
        return "\n"
    mark = _MARK.match(line)
    if mark is None:
        return _BREAK.sub(" ", line)
    heading, number, row = mark.groups()
    if row:
        return _ROW_ENDS.sub("\n", line)
    return _MARK.sub(f"\n{number or ''}", _BREAK.sub("\n" if heading else " ", line))


def _in_plain_kin(text: str) -> str:
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_TO_DIGITS), text)
    text = _VULGAR_FRACTION.sub(_fraction, _KIN.sub(lambda match: _PLAIN_KIN[match[0]], text))
    text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _INVISIBLE.sub("", _EMOJI.sub(" ", text))
    return _EN_DASH.sub("-", _DIGITS_DASH.sub("-", text))


def _fraction(match: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[2]).partition("\N{FRACTION SLASH}")
    return f"{match[1]} {numerator}/{denominator}"


# Within a block.
MARKUP = Rules(needs=r"[^A-Za-z0-9\s.,!?']|[xX]D|\. \.|\.m\.")
MARKUP.add(
    r"!?\[([^\[\]\n]{0,300})\]\([^()\s]{0,500}(?:[ \t]\"[^\"\n]{0,100}\")?\)"
    r"|(?<!\w)\[([^\[\]\n]{0,300})\]\[[^\[\]\n]{0,50}\]",
    r"\1\2",
)
MARKUP.add(r"(?<=[\w.,;!?)])\[(?:\^?[1-9][0-9]{0,2}|citation needed)\]", "")
MARKUP.add(
    r"(?<!\S)(?:[:;=]'?[-^]?[)(\]\[DPpOo3/\\|*]{1,5}|[xX]D+|\^_?\^|-_-|¯\\_\(ツ\)_/¯)(?!\w)"
    r"|(?:(?<=[A-Za-z.!?]{2} )|(?<=\bI ))<3(?=\s*(?:$|[.!?,)]|(?:it|this|that|my|the|him|her|them)\b))"
    r"|(?:(?<=\bI )|(?<=\b[Ww]e ))<3(?= [A-Za-z])|(?<= )(?<!if . )(?<!when . )<3(?= (?:u|you)\b)",
    " ",
)
MARKUP.add(r"(?<![0-9 ])\*+|\*+(?![0-9 *])|(?<![0-9]) \*+(?= )", "")
MARKUP.add(r"(?<![A-Za-z0-9_])_+(?=[A-Za-z0-9*'\"])|(?<=[A-Za-z0-9*.,!?'\")])_+(?![A-Za-z0-9_])", "")
MARKUP.add(r"\[(?<=[a-z]{2}\[)((?&endings))\]", r"\1")  # in quotations: "repeat[ing]"
MARKUP.add(r"(?<!\w)\[([A-Za-z])\](?=[a-z])", r"\1")  # and "[t]he"
MARKUP.add(r"(?<=\w)(?:[\[\]]+|~~)(?=\w)", " ")  # "sshd[1234]"
MARKUP.add(r"`(?<=[A-Za-z]`)(?=[A-Za-z])", "'")  # "don`t"
MARKUP.add(r"~~|`+", "")
MARKUP.add(r"(?:(?<!\S)--?|(?<=\()--)(?=[a-z][a-z-]{0,30}(?:[ =,.;:)]|$))", lambda match: "dash " * len(match[0]))
MARKUP.add(r"(?<=[a-z])\(s\)", "s")
MARKUP.add(r"(?<=[a-z0-9]{2})\((?:TM|R)\)", "")
MARKUP.add(r"\+/[-\N{MINUS SIGN}]", "±")
MARKUP.add(r"(?<=[0-9 ][ap]\.m\.)(?=[A-Z][a-z])", " ")  # "5 p.m.Then"
MARKUP.add(r"(?<![.])\. \. \.", "...")
MARKUP.add(r"(?<!-)--(?!-)(?=\s|[A-Za-z])", " -- ")

# But single spaces, which stay. Where a pattern begins with a character, other ones are passed over fast.
_SPACES, _ENDS = Pattern(r"\s(?:\s+|(?<! ))"), Pattern(r"\s(?:\Z|(?<=\A\s))")
SPACES = Rules()
SPACES.add(_SPACES, " ")
SPACES.add(_ENDS, "")

# Punctuation once, single spaces, and none before punctuation.
CLOSE_UP = Rules()
CLOSE_UP.add(r"([!?,;:])\1{2,}|\.{4,}|-{3,}", lambda match: match[1] or ("..." if match[0][0] == "." else "--"))
CLOSE_UP.add(_SPACES, " ")
CLOSE_UP.add(r" (?=[,.!?;:)](?:[ ,.!?;:)]|$))", "")
CLOSE_UP.add(r"(?<=[,;:]),+|\( ?\)|(?<=\() ", "")
CLOSE_UP.add(_ENDS, "")
