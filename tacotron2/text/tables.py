"""The words that the rules look up: the tables in `tacotron2/text/english`, by the name between brackets above each."""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.resources import files


@cache
def table(name: str) -> dict[str, str]:
    """The rest of each row by its first column; where there are no columns, each word by itself.

    All callers share it: don't change it. Safe to call from several threads.
    """
    return _tables()[name] | (dict(_prefixed()) if name == "units" else {})


@cache
def alternatives(name: str) -> str:
    """A regular expression for the first column of a table, the longest first.

    "name" finds words as they are written; "Name" also with a capital; "NAME" also with a capital and in capitals.
    """
    found = set(table(name.lower()))
    if not name.islower():
        found |= {word[0].upper() + word[1:] for word in found} | {word.upper() for word in found if name.isupper()}
    return f"(?:{'|'.join(re.escape(word) for word in sorted(found, key=lambda word: (-len(word), word)))})"


def _prefixed() -> Iterator[tuple[str, str]]:
    """Units with their prefixes."""
    for unit, row in table("prefixed-units").items():
        words, prefixes = row.split("\t")
        yield from ((prefix + unit, table("prefixes")[prefix] + words) for prefix in prefixes.split())


@cache
def _tables() -> dict[str, dict[str, str]]:
    tables: dict[str, dict[str, str]] = defaultdict(dict)
    name = ""
    for file in files("tacotron2.text").joinpath("english").iterdir():
        for line in file.read_text(encoding="utf-8").splitlines():
            first, tab, said = line.partition("\t")
            if line.startswith("[") and not tab:
                name = line.strip("[]")
            elif tab and not line.startswith("# "):
                tables[name][first] = said
            elif not line.startswith("#"):
                tables[name].update((word, word) for word in line.split())
    return dict(tables)
