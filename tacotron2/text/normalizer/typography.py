"""Typography, emoji, markup and lines: what is typed or pasted becomes blocks of plain characters."""

import html
import re
import unicodedata

_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#[0-9]{1,6});")
_TAG = re.compile(r"</?([a-zA-Z][^\s<>/]{0,80})[^<>\n]{0,200}>|<!--[^<>\n]{0,500}-->")
_BLOCK_TAGS = frozenset("br p div li ul ol tr table blockquote h1 h2 h3 h4 h5 h6 pre hr".split())  # noqa: SIM905

# Before Unicode's own compatibility forms, which would lose what these mean.
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_TO_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_VULGAR_FRACTION = re.compile("([0-9]?)([¼-¾⅐-⅞])")
_PLAIN_KIN = str.maketrans(
    {
        **dict.fromkeys("“”„‟«»〝〞＂❝❞", '"'),
        **dict.fromkeys("‘’‚‛‹›´＇❛❜ʼ", "'"),
        **dict.fromkeys("\u2010\u2011\ufe63\uff0d", "-"),
        **dict.fromkeys("—―⸺⸻", " -- "),
        **dict.fromkeys("‒–", "–"),
        **dict.fromkeys("º˚", "°"),
        **dict.fromkeys("©®™℠†‡¶·¨¸¯¦", " "),
        **dict.fromkeys("→⇒➔➜⟶", " to "),
        **{"…": "...", "№": "No. ", "∓": "±", "‰": " per thousand ", "℅": " care of ", "§": " section ", "\u00ad": ""},
    }
)
_DIGITS_DASH = re.compile(r"(?<=[0-9])\s?–\s?(?=[-$€£¥]?[0-9])")  # an en dash between numbers is a range's
_WORDS_DASH = re.compile(r"(?<=[A-Za-z0-9])–(?=[A-Za-z0-9])")
_EMOJI = re.compile(
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u2300-\u23ff\u25a0-\u25ff\u2500-\u259f\u2190-\u21ff"
    "\ufe00-\ufe0f\u20e3\U000e0000-\U000e007f]+"
)
_EMOTICON = re.compile(
    r"(?<!\S)(?:[:;=]'?[-^]?[)(\]\[DPpOo3/\\|*]{1,5}|[xX]D+|\^_?\^|-_-|¯\\_\(ツ\)_/¯)(?!\w)"
    r"|(?:(?<=[A-Za-z]{2} )|(?<=\bI ))<3(?=\s*(?:$|[.!?,)]|(?:u|you|it|this|that|my|the|him|her|them)\b))"
)
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000e-\u001b\u007f\u0080-\u009f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)

# A line that belongs to no block: the border of a code block, a rule, the underline of a heading or a table.
_BORDER = re.compile(r"[ \t]*(?:(?:```|~~~).*|[-*_=#|+:][-*_=#|+: \t]{2,}|[•·][ \t]*)?")
_QUOTE = re.compile(r"[ \t]*(?:>[ \t]?){1,9}(?![$€£]?[0-9.])")
_HEADING = re.compile(r"[ \t]*#{1,6}[ \t]+")
_BULLET = re.compile(r"[ \t]*[-*+•◦▪‣–][ \t]+(?:\[[ xX]\][ \t]+)?")
_NUMBERED = re.compile(r"[ \t]*(?:[0-9]{1,3}[.)]|[a-z]\))[ \t]")
_LINK = re.compile(r"!?\[([^\[\]\n]{0,300})\](?:\([^()\s]{0,500}(?:[ \t]\"[^\"\n]{0,100}\")?\)|\[[^\[\]\n]{0,50}\])")
_FOOTNOTE = re.compile(r"(?<=[\w.,;!?)])\[(?:\^?[0-9]{1,3}|citation needed)\]")
_STARS = re.compile(r"(?<![0-9 ])\*+|\*+(?![0-9 *])|(?<![0-9]) \*+(?= )")
_UNDERLINES = re.compile(r"(?<![A-Za-z0-9_])_+(?=[A-Za-z0-9*'\"])|(?<=[A-Za-z0-9*.,!?'\")])_+(?![A-Za-z0-9_])")
_PLUS_MINUS = re.compile(r"\+/[-\N{MINUS SIGN}]")
_OPTIONAL_PLURAL = re.compile(r"(?<=[a-z])\(s\)")
_GLUED = re.compile(r"(?<=[0-9 ][ap]\.m\.)(?=[A-Z][a-z])")  # "5 p.m.Then"
_STRUCK = re.compile(r"~~|`+")
_DOTS = re.compile(r"(?<![.])\. \. \.")
_SPACES = re.compile(r"\s+")
_TYPED_DASH = re.compile(r"(?<!-)--(?!-)(?=\s|[A-Za-z])")
_OPTION = re.compile(r"(?<![\S])(--?)(?=[a-z][a-z-]{0,30}(?:[ =,.;:)]|$))")


def blocks(text: str) -> list[str]:
    """The text's paragraphs, headings, list items and table rows, in plain characters.

    Quotation marks are straight, dashes are hyphens; emoji, markup and invisible characters are gone. Any white space
    within a block is one space.
    """
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    if not text.isascii():
        text = _in_plain_kin(text)
    text = _INVISIBLE.sub("", text)
    if "<" in text:
        text = _TAG.sub(_tag, text)
    return [tidied for block in _lines_joined(text) if (tidied := _SPACES.sub(" ", _without_markup(block)).strip())]


def _tag(match: re.Match[str]) -> str:
    return "\n\n" if (match[1] or "").lower() in _BLOCK_TAGS else " "


def _lines_joined(text: str) -> list[str]:
    """The text cut where lines are structure; a line that goes on from the one before is joined to it."""
    done: list[list[str]] = [[]]
    for written in text.splitlines():
        quote = _QUOTE.match(written)
        line = written[quote.end() :] if quote else written
        if _BORDER.fullmatch(line):
            done.append([])
            continue
        heading, bullet, row = _HEADING.match(line), _BULLET.match(line), line.lstrip().startswith("|")
        if heading or bullet or row or _NUMBERED.match(line):
            done.append([])
        mark = heading or bullet
        done[-1].append(line[mark.end() :] if mark else line.strip(" \t|") if row else line)
        if heading or row:
            done.append([])
    return [" ".join(lines) for lines in done]


def _in_plain_kin(text: str) -> str:
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_TO_DIGITS), text)
    text = _VULGAR_FRACTION.sub(_fraction, text.translate(_PLAIN_KIN))
    text = _INVISIBLE.sub("", _EMOJI.sub(" ", unicodedata.normalize("NFKC", text)))
    return _WORDS_DASH.sub("-", _DIGITS_DASH.sub("-", text)).replace("–", "-")


def _fraction(match: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[2]).partition("\N{FRACTION SLASH}")
    return f"{match[1]} {numerator}/{denominator}"


def _without_markup(text: str) -> str:
    text = _LINK.sub(r"\1", text)
    text = _FOOTNOTE.sub("", text)
    text = _EMOTICON.sub(" ", text)
    text = _STRUCK.sub("", _UNDERLINES.sub("", _STARS.sub("", text)))
    text = _OPTION.sub(lambda match: "dash " * len(match[1]), text)
    text = _OPTIONAL_PLURAL.sub("s", text)
    text = _GLUED.sub(" ", _PLUS_MINUS.sub("±", text))
    return _TYPED_DASH.sub(" -- ", _DOTS.sub("...", text))


def close_up(text: str) -> str:
    """Single spaces, and none before punctuation that something was taken out in front of."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r" (?=[,.!?;:)](?:[ ,.!?;:)]|$))", "", text)
    text = re.sub(r"(?<=[,;:]),+|\( ?\)", "", text)
    return text.strip()
