"""The normaliser: text as people write it becomes the words that a reader says, before the classic cleaners.

    normalizer = get_normalizer("english")
    normalizer("Dr. Smith paid $5.99 on 12/25/2024")
    # "Doctor Smith paid five dollars and ninety-nine cents on December twenty-fifth, twenty twenty-four"

`{ARPAbet}` groups pass through untouched, and so do words without anything to expand.

Where the text alone can't tell, the commoner reading is taken:

- `1/2` is the fraction, also where a date may be meant; after "on", "by", "until", "since" and the like `12/25` is the
  date, as `03/15` is by its zero. Dates in figures are American (month first) unless the first figure is above 12.
- `3:30` is the time of day; a colon is a ratio or a score where no two figures follow it (`3:1`, `16:9`). `3:05:09` is
  a duration, `12:34:56` the time of day.
- `10-20` is a range ("ten to twenty"), `-5` is negative, `1984` is read as a year and `1,984` as a number.
- `5m` is metres; `$5m` and `5m people` are millions. `5M` and `10K` are millions and thousands beside a noun or a word
  of quantity, except in names (`4K`, `5K`); elsewhere the letter is a letter (`Bus 5B`).
- `90s` are the nineties, `15s` are seconds, `747s` are planes. `St.` is a saint before a name, a street after one;
  `Dr.` likewise.
- A word in capitals is spelt out unless a table calls it a word (`NASA`), or it is pronounceable and longer than
  initialisms are. In a sentence that is all in capitals only the well-known initialisms are spelt out.
- `WHO` is the organisation unless it begins a question or stands before "are you" and the like.
- A capital `I` after a king's name is "the first" only where the sentence can't go on with the pronoun.
- Lines of one paragraph are one text; an empty line, a heading, a list item and a table's row end a sentence.

Where to look; each module has one or two tables of `Rules`, in the order in which they rewrite a text, and `_RULES`
has these in order. "3:45 pm" is read by the last rule of `dates.TIMES`.

- `typography`: characters, markup and lines; `addresses`: of the web, files; `telephones`: what is said digit by digit
- `dates`: dates and times; `money`: sums and groups of figures; `quantities`: units and numbers; `signs`: `=`, `+`
- `abbreviations`: titles, streets, Roman numerals; `capitals`: initials, initialisms and codes
- `say`: how figures and letters are said; `tacotron2.text.tables`: the words that are looked up
"""

import re
from collections.abc import Callable

from common.errors import UserError
from tacotron2.text.normalizer.abbreviations import ABBREVIATIONS, NUMERALS
from tacotron2.text.normalizer.addresses import read_addresses
from tacotron2.text.normalizer.capitals import CAPITALS
from tacotron2.text.normalizer.dates import DATES, MONTHS, TIMES, WEEKDAYS
from tacotron2.text.normalizer.money import MONEY, TICKERS
from tacotron2.text.normalizer.quantities import NUMBERS, UNITS
from tacotron2.text.normalizer.say import FIRST_HELD, HELD, LAST_HELD, text_before
from tacotron2.text.normalizer.signs import SIGNS
from tacotron2.text.normalizer.telephones import TELEPHONES
from tacotron2.text.normalizer.typography import CLOSE_UP, MARKUP, SPACES, blocks
from tacotron2.text.rewriting import Pattern, matched
from tacotron2.text.symbols import ARPABET_GROUP, KEEP_END, KEEP_START

__all__ = ["NORMALIZERS", "get_normalizer"]

_RULES: tuple[Callable[[str], str], ...] = (
    *(MARKUP, SPACES, read_addresses, TELEPHONES, WEEKDAYS, DATES, MONTHS, TIMES, TICKERS, MONEY, UNITS),
    *(ABBREVIATIONS, NUMERALS, NUMBERS, CAPITALS, SIGNS, CLOSE_UP),
)

_UNTOUCHED = Pattern(rf"{ARPABET_GROUP.pattern}|{KEEP_START}([^{KEEP_START}{KEEP_END}]*){KEEP_END}")
_HELD = Pattern(f"[{HELD}]")
_BLOCK = Pattern(r"[^\n]+")
_OUTER_BREAKS = Pattern(r"\A\n+|(?<!\n)\n+\Z")
_BREAKS, _ENDED = Pattern(r"\n+"), Pattern(r"[.!?:;,][\"')\]}]*$")


def _english(text: str) -> str:
    """The text as it will be read, in one line. Each block but the last gets an end if it has none."""
    held: dict[str, str] = {}  # by untouched stretch: the character that stands for it
    text = _UNTOUCHED.sub(lambda match: _hold(match, held), _HELD.sub("", text))
    text = _BLOCK.sub(lambda match: _read(matched(match)), blocks(text))
    text = _BREAKS.sub(
        lambda match: " " if _ENDED.search(text_before(match, 80)) else ". ", _OUTER_BREAKS.sub("", text)
    )
    stretches = {mark: stretch for stretch, mark in held.items()}
    return _HELD.sub(lambda match: stretches.get(match[0], ""), text)


def _hold(match: re.Match[str], held: dict[str, str]) -> str:
    stretch = match[0] if match[1] is not None else match[2]
    if stretch is None or len(held) > LAST_HELD - FIRST_HELD:
        return match[0]  # TeX; or more different stretches than there are characters
    return held.setdefault(stretch, chr(FIRST_HELD + len(held)))


def _read(block: str) -> str:
    for rules in _RULES:
        block = rules(block)
    return block


_NORMALIZERS: dict[str, Callable[[str], str]] = {"english": _english, "none": lambda text: text}
NORMALIZERS = tuple(_NORMALIZERS)


def get_normalizer(name: str = "english") -> Callable[[str], str]:
    """A function that reads any text as words, in one line; that of "none" returns the text as it is.

    Safe to share between threads. Takes linear time. To read its result again changes nothing in most texts;
    it may where marks and letters crowd (`M/.com* x`).

    Raises:
        UserError: the name is not in `NORMALIZERS`.
    """
    if name not in _NORMALIZERS:
        raise UserError(f'unknown text normaliser "{name}": choose {", ".join(NORMALIZERS)}')
    return _NORMALIZERS[name]
