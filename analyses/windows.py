"""Counting pages by window of time: a trace gone through once, one bit a page, compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from replay.kernels import popcount, run_mask
from tracer.format import TableName
from tracer.rows import Int64s, Rows
from tracer.trace import Trace

#: Columns of `state`: one uint64 row for 64 pages.
EVER, WINDOW, FREE = range(3)
#: Slots of the control vector `ctl` (int64).
DIRTY_ROW, FREE_ROW, AT, EVER_PAGES, FREE_PAGES = range(5)
#: Columns of `counts`, int64 of shape (windows + 1, 4); row 0 is the start.
WRITTEN, DISTINCT, ON_FREE, FREE_AT_END = range(4)
#: Why `account` came back.
DONE, NEED_DIRTY, NEED_FREE = range(3)


class Account:
    """Goes through a validated trace and counts pages in windows of guest time.

    edges: int64 ns, ascending; window i reaches from just after edges[i] up to and with
    edges[i + 1]. Rows up to edges[0] are the initial state and dirty nothing. After `run`,
    `counts` has one row for the start and one for each window, `ever` counts distinct pages.
    """

    def __init__(self, trace: Trace, edges: Int64s):
        self._trace = trace
        self._edges = edges
        self._state = np.zeros(((trace.meta.pages + 63) // 64, 3), np.uint64)
        self._ctl = np.zeros(5, np.int64)
        self.counts = np.zeros((len(edges), 4), np.int64)

    @property
    def ever(self) -> int:
        """Distinct pages written in all windows."""
        return int(self._ctl[EVER_PAGES])

    def run(self) -> Iterator[int]:
        """Count; yield the rows gone through so far, batch by batch."""
        dirty, free = _Batches(self._trace, "dirty"), _Batches(self._trace, "freelist")
        status = NEED_DIRTY
        while status != DONE:
            status = account(
                self._state, self._edges, self.counts, self._ctl,
                dirty.t, dirty.page, dirty.count, dirty.more,
                free.t, free.page, free.count, free.free, free.more,
            )  # fmt: skip
            if status == NEED_DIRTY:
                dirty.advance()
                self._ctl[DIRTY_ROW] = 0
            elif status == NEED_FREE:
                free.advance()
                self._ctl[FREE_ROW] = 0
            yield dirty.before + free.before


def zero_at_start(trace: Trace) -> int:
    """Return how many pages of a validated trace are all zeros at the start."""
    bits = np.zeros((trace.meta.pages + 63) // 64, np.uint64)
    pages = 0
    for rows in trace.rows("zero"):
        start = int(np.searchsorted(rows.t, 0, side="right"))
        pages += mark(bits, rows.page[:start], rows.count[:start])
        if start < len(rows.t):
            break
    return pages


class _Batches:
    """One table's rows, batch by batch, as the kernel takes them."""

    def __init__(self, trace: Trace, table: TableName):
        self._rows = trace.rows(table)
        self._next: Rows | None = next(self._rows, None)
        self.before = 0
        counts: npt.NDArray[Any] = np.empty(0, np.uint32 if table == "dirty" else np.int64)
        # Mapped columns are read-only; equal types spare a second compilation.
        self.t, self.page, self.count = (
            _locked(a) for a in (np.empty(0, np.int64), np.empty(0, np.int64), counts)
        )
        self.free: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
        self.advance()

    @property
    def more(self) -> bool:
        return self._next is not None

    def advance(self) -> None:
        rows = self._next
        if rows is None:
            return
        self.before += len(self.t)
        self.t, self.page, self.count = (_locked(a) for a in (rows.t, rows.page, rows.count))
        self.free = rows.free
        self._next = next(self._rows, None)


def _locked(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@njit(cache=True, nogil=True, inline="always")
def _ones(word):  # type: ignore[no-untyped-def]
    return np.int64(popcount(word))  # type: ignore[call-arg]


@njit(cache=True, nogil=True)
def mark(bits, page, count):  # type: ignore[no-untyped-def]
    """Set the bits of runs of pages; return how many were not set before."""
    new = np.int64(0)
    for i in range(len(page)):
        p, end = page[i], page[i] + np.int64(count[i])
        while p < end:
            low = p & 63
            width = min(64 - low, end - p)
            mask = run_mask(low, width)
            new += _ones(mask & ~bits[p >> 6])
            bits[p >> 6] |= mask
            p += width
    return new


@njit(cache=True, nogil=True)
def _write(state, counts, page, end):  # type: ignore[no-untyped-def]
    """Count a write in its window's `counts`; return how many pages are new in the trace."""
    new = np.int64(0)
    counts[WRITTEN] += end - page
    while page < end:
        low = page & 63
        width = min(64 - low, end - page)
        mask = run_mask(low, width)
        row = state[page >> 6]
        counts[DISTINCT] += _ones(mask & ~row[WINDOW])
        counts[ON_FREE] += _ones(mask & row[FREE])
        new += _ones(mask & ~row[EVER])
        row[WINDOW] |= mask
        row[EVER] |= mask
        page += width
    return new


@njit(cache=True, nogil=True)
def _list(state, page, end, free):  # type: ignore[no-untyped-def]
    while page < end:
        low = page & 63
        width = min(64 - low, end - page)
        if free:
            state[page >> 6, FREE] |= run_mask(low, width)
        else:
            state[page >> 6, FREE] &= ~run_mask(low, width)
        page += width


@njit(cache=True, nogil=True)
def account(  # type: ignore[no-untyped-def]
    state, edges, counts, ctl,
    dirty_t, dirty_page, dirty_count, dirty_more,
    free_t, free_page, free_count, free_free, free_more,
):  # fmt: skip
    """Merge dirty and free-list rows in time order (free-list rows first) and count them."""
    i, j, at = ctl[DIRTY_ROW], ctl[FREE_ROW], ctl[AT]
    status = DONE
    while True:
        if i == len(dirty_t) and dirty_more:
            status = NEED_DIRTY
            break
        if j == len(free_t) and free_more:
            status = NEED_FREE
            break
        if i == len(dirty_t) and j == len(free_t):
            break
        listed = j < len(free_t) and (i == len(dirty_t) or free_t[j] <= dirty_t[i])
        t = free_t[j] if listed else dirty_t[i]
        while t > edges[at]:
            counts[at, FREE_AT_END] = ctl[FREE_PAGES]
            state[:, WINDOW] = 0
            at += 1
        if listed:
            end = free_page[j] + np.int64(free_count[j])
            _list(state, free_page[j], end, free_free[j])
            ctl[FREE_PAGES] += end - free_page[j] if free_free[j] else free_page[j] - end
            j += 1
        else:
            if at > 0:
                end = dirty_page[i] + np.int64(dirty_count[i])
                ctl[EVER_PAGES] += _write(state, counts[at], dirty_page[i], end)
            i += 1
    if status == DONE:
        counts[at:, FREE_AT_END] = ctl[FREE_PAGES]
    ctl[DIRTY_ROW], ctl[FREE_ROW], ctl[AT] = i, j, at
    return status
