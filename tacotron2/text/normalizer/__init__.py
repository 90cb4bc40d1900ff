"""Text as people write it, in the words that a reader would say: what stands before the classic cleaners.

    normalizer = get_normalizer("english")
    normalizer("Dr. Smith paid $5.99 on 12/25/2024")
    # "Doctor Smith paid five dollars and ninety-nine cents on December twenty-fifth, twenty twenty-four"

`{ARPAbet}` groups pass through untouched, and so do words without anything to expand.

What the text alone can't tell is decided by the commoner reading:

- `1/2` is the fraction, also where a date may be meant; after "on", "by", "until", "since" and the like `12/25` is the
  date. Dates in figures are American (month first) unless the first figure is above 12.
- `3:30` is the time of day; a colon is a ratio or a score where no two figures follow it (`3:1`) and for the shapes of
  screens (`16:9`).
- `10-20` is a range ("ten to twenty"), `-5` is negative, `1984` is read as a year and `1,984` as a number.
- `5m` is metres; `$5m` is millions. `5M` and `10K` are millions and thousands, but for what is called so (`4K`, `5K`).
- `90s` are the nineties, `15s` are seconds. `St.` is a saint before a name and a street after one; `Dr.` likewise.
- A word in capitals is spelt out unless `tables` has it among the words (`NASA`) or it is pronounceable and longer than
  an initialism is; within a sentence in capitals the same letters are words, but for the well-known initialisms.
- A capital `I` after a king's name is "the first" only where the sentence can't go on with the pronoun.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache

from common.errors import UserError

NORMALIZERS = ("english", "none")

KEEP_START, KEEP_END = "\ue000", "\ue001"  # around what passes through untouched, as braces do; private use characters

# What some rule may rewrite. A text without any of this is words and plain punctuation, and comes back as it is.
_FOR_RULES = re.compile(
    r"[^A-Za-z ,;!?'.-]|[A-Z]{2}|[a-z][A-Z]|\.(?!\Z)|(?<![a-z]{7})\.|--|  |[A-Za-z] I\b|[.,;!?]{2}"
    r"|\b[Oo]k\b|(?<![A-Za-z'])[bcdfghj-np-tv-xz]{2,5}(?![A-Za-z'])"
    r"|(?<![A-Za-z'-])[B-HJ-Zb-z](?![A-Za-z'-])|[A-Z][a-z]{2} ?- ?[A-Z]|\A | \Z"
)
_UNTOUCHED = re.compile(rf"\{{[^{{}}]*\}}|{KEEP_START}([^{KEEP_START}{KEEP_END}]*){KEEP_END}")
HELD = "\ue002"  # stands for an untouched stretch while the rules work around it
_HELD = re.compile(HELD)


class Normalizer:
    """Reads numbers, dates, money, units, addresses, abbreviations, symbols and typography as words.

    Cheap to make and safe to share between threads: it has no state. The rules are loaded by the first text that needs
    them. Takes linear time. What comes out needs no further normalisation: words come back as they are.
    """

    def __init__(self, name: str = "english") -> None:
        """Raises UserError for a name that is not in `NORMALIZERS`."""
        if name not in NORMALIZERS:
            raise UserError(f'unknown text normaliser "{name}": choose {", ".join(NORMALIZERS)}')
        self.name = name

    def __call__(self, text: str) -> str:
        """The text as it will be read; any run of white space that a rule touches becomes one space."""
        if self.name == "none" or not _FOR_RULES.search(text):
            return text
        held: list[str] = []

        def hold(match: re.Match[str]) -> str:
            held.append(match[0] if match[1] is None else match[1])
            return HELD

        text = _UNTOUCHED.sub(hold, text.replace(HELD, ""))
        for rule in _rules():
            text = rule(text)
        stretches = iter(held)
        return _HELD.sub(lambda _: next(stretches), text)

    def __repr__(self) -> str:
        return f"Normalizer({self.name!r})"


@lru_cache(maxsize=len(NORMALIZERS))
def get_normalizer(name: str = "english") -> Normalizer:
    """The one normaliser of that name. Raises UserError for a name that is not in `NORMALIZERS`."""
    return Normalizer(name)


@cache
def _rules() -> tuple[Callable[[str], str], ...]:
    from tacotron2.text.normalizer.rules import RULES  # compiles some hundred patterns: plain texts don't wait for it

    return RULES
