"""Columns and paragraphs that lose nothing, however narrow the place they are shown in.

Rich's own tables drop columns and cut cells where they do not fit, and a pipe is 80 columns wide.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

Cell = Text | str


@dataclass(frozen=True)
class Column:
    """A column of a grid; numbers stand to the right."""

    title: str
    right: bool = True


@dataclass(frozen=True)
class Span:
    """A cell that takes its own column and all that follow."""

    text: Text


Row = Sequence[Cell | Span]


def grid(columns: Sequence[Column], rows: Sequence[Row], gap: int = 2) -> list[Text]:
    """Return the header and one line for each row, all of one width.

    A row may end early with a Span. The last column grows where a span needs it.
    """
    table: list[Row] = [[Text(column.title, style="dim") for column in columns], *rows]
    widths = [
        max((_length(row[i]) for row in table if i < len(row)), default=0)
        for i in range(len(columns))
    ]
    whole = sum(widths) + gap * (len(widths) - 1)
    for row in table:
        if isinstance(span := row[-1], Span):
            before = sum(widths[: len(row) - 1]) + gap * (len(row) - 1)
            widths[-1] += max(0, before + span.text.cell_len - whole)
            whole = max(whole, before + span.text.cell_len)
    return [_line(columns, widths, row, gap, whole) for row in table]


def beside(*blocks: Sequence[Text], gap: int = 2) -> list[Text]:
    """Return blocks of equally many lines side by side."""
    return [Text(" " * gap).join(parts) for parts in zip(*blocks, strict=True)]


def labelled(label: Cell, body: str, width: int, indent: int) -> Iterator[Text]:
    """Yield a label and a wrapped text that hangs `indent` columns in."""
    head = Text("  ").append_text(label if isinstance(label, Text) else Text(label, style="dim"))
    head.pad_right(max(1, indent - head.cell_len))
    lines = wrap(body, width, first=head.cell_len, others=indent)
    yield head.append(lines[0][head.cell_len :])
    yield from map(Text, lines[1:])


def wrap(body: str, width: int, *, first: int = 0, others: int = 0) -> list[str]:
    """Return indented lines of at most `width` columns, but never cut a word."""
    return textwrap.wrap(
        body,
        max(width, others + 20),
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def _length(cell: Cell | Span) -> int:
    if isinstance(cell, Span):
        return 0
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)


def _line(columns: Sequence[Column], widths: Sequence[int], row: Row, gap: int, whole: int) -> Text:
    parts = []
    for column, width, cell in zip(columns, widths, row, strict=False):
        if isinstance(cell, Span):
            parts.append(cell.text.copy())
            break
        text = cell.copy() if isinstance(cell, Text) else Text(cell)
        room = width - text.cell_len
        parts.append(Text(" " * room).append_text(text) if column.right else text)
        if not column.right:
            text.pad_right(room)
    line = Text(" " * gap).join(parts)
    line.pad_right(whole - line.cell_len)
    return line
