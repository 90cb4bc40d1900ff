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
- A capital `I` after a king's name is "the first" only where the sentence can't go on with the pronoun.
- Lines of one paragraph are one text; an empty line, a heading, a list item and a table's row end a sentence.

Where to look; each module has one or two tables of `Rules`, in the order in which they rewrite a text, and `rules`
calls them in order. "3:45 pm" is read by the last rule of `dates.TIMES`.

- `typography`: characters, markup and lines; `addresses`: of the web, files; `telephones`: what is said digit by digit
- `dates`: dates and times; `money`: sums and groups of figures; `quantities`: units and numbers; `signs`: `&`, `=`
- `abbreviations`: titles, streets, Roman numerals; `capitals`: initials, initialisms and codes
- `say`: how figures and letters are said; `tacotron2.text.tables`: the words that are looked up
"""

from collections.abc import Callable

from common.errors import UserError
from tacotron2.text.normalizer.rules import normalize

__all__ = ["NORMALIZERS", "get_normalizer"]

_NORMALIZERS: dict[str, Callable[[str], str]] = {"english": normalize, "none": lambda text: text}
NORMALIZERS = tuple(_NORMALIZERS)


def get_normalizer(name: str = "english") -> Callable[[str], str]:
    """A function that reads any text as words, in one line; that of "none" returns the text as it is.

    Safe to share between threads. Takes linear time. To read its result again changes nothing.

    Raises:
        UserError: the name is not in `NORMALIZERS`.
    """
    if name not in _NORMALIZERS:
        raise UserError(f'unknown text normaliser "{name}": choose {", ".join(NORMALIZERS)}')
    return _NORMALIZERS[name]
