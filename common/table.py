"""Tables for people: plain text on a terminal, Markdown in reports."""

import unicodedata
from collections.abc import Sequence


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Plain text, a line a row; `align` has an 'l' or 'r' for each column (left where it says nothing)."""
    widths = [max(display_width(row[i]) for row in (headers, *rows)) for i in range(len(headers))]
    lines = [headers, ["-" * width for width in widths], *rows]
    align = align.ljust(len(headers), "l")
    return "\n".join(
        "  ".join(_padded(cell, width, side) for cell, width, side in zip(line, widths, align, strict=True)).rstrip()
        for line in lines
    )


def format_markdown(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table; `align` as in `format_table`."""
    align = align.ljust(len(headers), "l")
    rule = ["---:" if side == "r" else "---" for side in align]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headers, rule, *rows))


def shorten(text: str, width: int) -> str:
    """The text, cut to `width` columns with an ellipsis where it is longer."""
    if display_width(text) <= width:
        return text
    while display_width(text) > width - 3:
        text = text[:-1]
    return text.rstrip() + "..."


def display_width(text: str) -> int:
    """Columns that a terminal gives a text: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _padded(cell: str, width: int, side: str) -> str:
    fill = " " * (width - display_width(cell))
    return fill + cell if side == "r" else cell + fill
