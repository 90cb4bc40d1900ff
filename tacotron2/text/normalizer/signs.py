"""Signs: those with a name, and those without a sound."""

import re

from tacotron2.text.normalizer.say import count
from tacotron2.text.rewriting import Rules
from tacotron2.text.tables import table

# Mathematical and commercial signs; quotation marks and others without a sound are dropped.
SIGNS = Rules(needs=r"[^A-Za-z\s.,;:!?'()-]")

SIGNS.add(r"(?<=[A-Za-z]) ?#(?=:)", " number")
SIGNS.add("[0-9]+", lambda match: f" {count(match[0])} ")  # that no rule knows
SIGNS.add("(?<![<>=!-])(?&comparisons)(?![<>=])", lambda match: f" {table('comparisons')[match[0]]} ")
SIGNS.add(r"(?<![-=<])(?:<?[-=]{1,9}>|<[-=]{1,9})", " to ")
SIGNS.add(r"\b(and|either)/or\b", r"\1 or", re.IGNORECASE)
SIGNS.add(r"\b((?&Alternatives))/(?=[A-Za-z])", r"\1 or ")
SIGNS.add(r"(?<=[\w.)]) ?/ ?(?=[\w(])", " slash ")
SIGNS.add(r"(?<=[a-z)])( ?)\*{1,2}\1(?=[a-z(])", " times ")
SIGNS.add(r"\|+", ", ")
SIGNS.add("[′″¿¡]", " ")


@SIGNS.rule("(?&signs)")
def _said(match: re.Match[str]) -> str:
    """The word for a sign between words or numbers; a sign among letters of its own script, or alone, is left."""
    before = match.string[match.start() - 1 : match.start()]
    after = match.string[match.end() : match.end() + 1]
    if "\u0370" <= match[0] <= "\u03ff" and any("\u0370" <= neighbour <= "\u03ff" for neighbour in before + after):
        return match[0]
    return f" {table('signs')[match[0]]} "


# What has no sound parts words.
SIGNS.add(r"(?<=[\w}])[\"*_~^`\\/|<>=#+@%&$\[\]]+(?=[\w{])", " ")
SIGNS.add(r"[\"*_~^`\\/|<>=#+@%&$\[\]]", "")
SIGNS.add(r"(?<=[\w}])(?=\{)|(?<=\})(?=\w)", " ")
