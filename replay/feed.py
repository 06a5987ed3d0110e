"""The rows of a trace as the kernel takes them: a batch at a time, in time order.

A trace that is asked to loop is one endless feed: the times of its later passes are shifted, and
at each seam the free list's difference stands as rows, so that no page is freed while free.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracer.format import TableName
from tracer.rows import Int64s, Rows
from tracer.trace import Trace


class Feed:
    """The current batch of one table, and how to get the next.

    `t`, `page`, `count`, `free` are the current batch's columns, `more` says whether `advance`
    may yet bring rows, `base` is the number of rows in the batches before this one.
    """

    def __init__(self, trace: Trace, table: TableName, passes: int = 1):
        self._trace, self._table, self._passes = trace, table, passes
        self._source = _looped(trace, table, passes) if passes > 1 else trace.rows(table)
        self.base = 0
        self.more = trace.num_rows(table) > 0
        count = np.uint32 if table == "dirty" else np.int64
        self._nothing = Rows(np.empty(0, np.int64), count=np.empty(0, count))
        self._take(None)

    def advance(self) -> None:
        """Replace the current batch by the next; after the last, `more` is false."""
        self.base += len(self.t)
        rows = next(self._source, None)
        self.more = rows is not None
        self._take(rows)

    def between(self, start: int, stop: int | None) -> Iterator[Rows]:
        """Yield rows `start` to `stop` (None: all) of the feed, numbered from its beginning."""
        if self._passes == 1:
            yield from self._trace.rows(self._table, start, stop)
            return
        base = 0
        for rows in _looped(self._trace, self._table, self._passes):
            low = max(start - base, 0)
            high = len(rows.t) if stop is None else min(stop - base, len(rows.t))
            if low < high:
                yield rows.part(low, high)
            base += len(rows.t)
            if stop is not None and base >= stop:
                return

    def _take(self, rows: Rows | None) -> None:
        rows = self._nothing if rows is None else rows
        self.t, self.page, self.count, self.free = rows.t, rows.page, rows.count, rows.free
        for column in (self.t, self.page, self.count, self.free):
            # Mapped columns are read-only; the others too, so that one compiled kernel serves all.
            column.flags.writeable = False


def _looped(trace: Trace, table: TableName, passes: int) -> Iterator[Rows]:
    yield from trace.rows(table)
    turn_back = seam(trace) if table == "freelist" else None
    for turn in range(1, passes):
        shift = turn * trace.meta.duration_ns
        if turn_back is not None and len(turn_back.t):
            yield _part(turn_back, slice(None), shift)
        for rows in trace.rows(table):
            # Rows at the start are the first pass's initial state, and contents are kept.
            first = int(np.searchsorted(rows.t, 0, side="right"))
            if first < len(rows.t):
                yield _part(rows, slice(first, None), shift)


def _part(rows: Rows, part: slice, shift: int) -> Rows:
    since = rows.since if len(rows.since) else rows.t
    return Rows(
        rows.t[part] + shift,
        rows.page[part],
        rows.count[part],
        rows.free[part],
        since[part] + shift,
    )


def looped_epochs(trace: Trace, passes: int) -> Int64s:
    """Return the epoch ends of `passes` passes; a seam ends an epoch."""
    if passes == 1:
        return trace.epochs
    duration = trace.meta.duration_ns
    each = np.union1d(trace.epochs[trace.epochs > 0], np.array([duration], np.int64))
    return np.concatenate([each + turn * duration for turn in range(passes)])


def seam(trace: Trace) -> Rows:
    """Return the rows, at time 0, that turn the free list at the end into the one at the start."""
    pages = trace.meta.pages
    begin, end = np.zeros(pages, np.bool_), np.zeros(pages, np.bool_)
    for rows in trace.rows("freelist"):
        for t, page, count, free in zip(rows.t, rows.page, rows.count, rows.free, strict=True):
            end[page : page + count] = free
            if t <= 0:
                begin[page : page + count] = free
    columns = [_runs(end & ~begin, free=False), _runs(begin & ~end, free=True)]
    page, count, free = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Rows(np.zeros(len(page), np.int64), page, count, free)


def _runs(flags: np.ndarray, *, free: bool) -> tuple[Int64s, Int64s, np.ndarray]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    first, past = edges[0::2].astype(np.int64), edges[1::2].astype(np.int64)
    return first, past - first, np.full(len(first), free)
