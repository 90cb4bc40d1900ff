"""Tables for people: plain text on a terminal, Markdown in reports."""

import unicodedata
from collections.abc import Sequence

ELLIPSIS = "..."


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Plain text, a line a row; `align` has an 'l' or 'r' for each column (left where it says nothing)."""
    widths = [max(map(display_width, column)) for column in zip(headers, *rows, strict=True)]
    lines = [headers, ["-" * width for width in widths], *rows]
    align = align.ljust(len(headers), "l")
    return "\n".join(
        "  ".join(_padded(cell, width, side) for cell, width, side in zip(line, widths, align, strict=True)).rstrip()
        for line in lines
    )


def format_markdown(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table; `align` as in `format_table`. A cell's own bars and line breaks don't break the table."""
    align = align.ljust(len(headers), "l")
    rule = ["---:" if side == "r" else "---" for _, side in zip(headers, align, strict=True)]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in (headers, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (cells[0], rule, *cells[1:]))


def counted(number: int, noun: str) -> str:
    """A number with its noun, singular or with an s: "1 line", "2,000 lines"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shorten(text: str, width: int) -> str:
    """The text on one line of at most `width` columns, with an ellipsis where it had to be cut.

    White space becomes single spaces, and whatever else a terminal would act on instead of showing it, '?'.
    """
    line = ""
    columns = 0
    for char in " ".join(text.split()):
        shown = char if char.isprintable() else "?"
        line += shown
        columns += _columns(shown)
        if columns > width:
            while display_width(line) > width - len(ELLIPSIS):
                line = line[:-1]
            return line.rstrip() + ELLIPSIS
    return line


def display_width(text: str) -> int:
    """Columns that a terminal gives a text: East Asian wide characters take two, combining marks none."""
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _padded(cell: str, width: int, side: str) -> str:
    fill = " " * (width - display_width(cell))
    return fill + cell if side == "r" else cell + fill
