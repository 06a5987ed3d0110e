"""Rows of a trace as runs of pages, and what every reader of page lists does with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tracer.rows import Int64s
from tracer.writer import TraceWriter

_BATCH = 1 << 17


def runs(t: Int64s, page: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Join rows of one instant whose pages follow each other; return times, pages and counts."""
    if not len(t):
        return t, page, t
    first = np.flatnonzero(np.r_[True, (t[1:] != t[:-1]) | (page[1:] != page[:-1] + 1)])
    return t[first], page[first], np.diff(np.r_[first, len(t)])


def write_pages(writer: TraceWriter, table: str, t: Int64s, page: Int64s) -> int:
    """Write dirty or zero rows of single pages, ascending in t; return how many rows they make."""
    if not len(t):
        return 0
    t, page, count = runs(t, page)
    writer.write(table, t_ns=t, page=page, count=count)  # type: ignore[arg-type]
    return len(t)


def write_runs(writer: TraceWriter, table: str, t: int, page: Int64s, count: Int64s) -> int:
    """Write dirty or zero rows of one instant, a run each; return how many there are."""
    if len(page):
        writer.write(table, t_ns=np.full(len(page), t, np.int64), page=page, count=count)  # type: ignore[arg-type]
    return len(page)


def write_at(writer: TraceWriter, table: str, t: int, page: Int64s) -> int:
    """As `write_pages`, for pages of one instant in any order, each counted once."""
    page = np.unique(page)
    return write_pages(writer, table, np.full(len(page), t, np.int64), page)


def batched(parts: Iterable[tuple[Int64s, ...]]) -> Iterator[tuple[Int64s, ...]]:
    """Join small tuples of arrays to large ones, so that none is written for a single page."""
    held: list[tuple[Int64s, ...]] = []
    size = 0
    for part in parts:
        held.append(part)
        size += sum(map(len, part))
        if size >= _BATCH:
            yield tuple(np.concatenate(column) for column in zip(*held, strict=True))
            held, size = [], 0
    if held:
        yield tuple(np.concatenate(column) for column in zip(*held, strict=True))


def write_epochs(writer: TraceWriter, t: Int64s) -> int:
    """Write the times at which the log was harvested, each once."""
    t = np.unique(t)
    writer.write("epochs", t_ns=t)
    return len(t)
