"""Free-list rows out of every allocation and every free of a guest's kernel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from tracer.rows import Flags, Int64s

_NEVER, _TAKEN_FIRST, _FREED_FIRST = 0, 1, 2
_AGAIN_TAKEN, _AGAIN_FREED = 0, 1
_ROOM = 1 << 18


class PageStates:
    """Which pages are free, followed from event to event.

    First all events are shown to `see`: a page that is allocated first was free before, one that
    is freed first was in use. Then `start` says what was free at the start, and `rows` follows.
    """

    def __init__(self, pages: int):
        self._first = np.zeros(pages, np.uint8)
        self._free = np.zeros(pages, np.uint8)
        self._again = np.zeros(2, np.int64)

    @property
    def taken_again(self) -> int:
        """Pages allocated while in use: their free was not recorded. They make no row."""
        return int(self._again[_AGAIN_TAKEN])

    @property
    def freed_again(self) -> int:
        """Pages freed while free: their allocation was not recorded. They make no row."""
        return int(self._again[_AGAIN_FREED])

    def see(self, page: Int64s, count: Int64s, taken: Flags) -> None:
        """Take events, in order: runs of dense pages that lie in the guest, taken or freed."""
        _see(page, count, taken, self._first)

    def start(self, sample: npt.NDArray[np.uint8] | None) -> tuple[npt.NDArray[np.uint8], int, int]:
        """Return what is free at the start (a flag a page) and two counts of pages.

        `sample` is what was free in a sample before, None where there is none. The first count is
        of pages that nothing told (taken as the sample says, else as in use), the second of pages
        of which sample and first event disagree (the event counts).
        """
        told = self._first != _NEVER
        free = (self._first == _TAKEN_FIRST).astype(np.uint8)
        differ = 0
        if sample is not None:
            differ = int(np.count_nonzero(told & (sample != free)))
            free = np.where(told, free, sample)
        self._free = free.copy()
        return free, int(np.count_nonzero(~told)), differ

    def rows(
        self, t: Int64s, page: Int64s, count: Int64s, taken: Flags
    ) -> list[tuple[Int64s, Int64s, Int64s, Flags]]:
        """Return rows (t, page, count, free) of some events: the pages whose state changed."""
        made = []
        at, room = 0, max(_ROOM, int(count.max(initial=0)))
        while at < len(t):
            out = np.empty((4, room), np.int64)
            at, rows = _rows(t, page, count, taken, at, self._free, self._again, out)
            made.append(
                (out[0, :rows], out[1, :rows], out[2, :rows], out[3, :rows].astype(np.bool_))
            )
        return made


@njit(cache=True, nogil=True)
def _see(page, count, taken, first):  # type: ignore[no-untyped-def]
    for i in range(len(page)):
        for p in range(page[i], page[i] + count[i]):
            if first[p] == _NEVER:
                first[p] = _TAKEN_FIRST if taken[i] else _FREED_FIRST


@njit(cache=True, nogil=True)
def _rows(t, page, count, taken, at, free, again, out):  # type: ignore[no-untyped-def]
    """Take events from `at` on; return where it stopped for want of room, and the rows made."""
    rows = 0
    while at < len(t) and rows + count[at] <= out.shape[1]:
        goal = 0 if taken[at] else 1
        run = 0
        for p in range(page[at], page[at] + count[at] + 1):
            if p < page[at] + count[at] and free[p] != goal:
                free[p] = goal
                run += 1
                continue
            if p < page[at] + count[at]:
                again[_AGAIN_FREED if goal else _AGAIN_TAKEN] += 1
            if run:
                out[0, rows], out[1, rows] = t[at], p - run
                out[2, rows], out[3, rows] = run, goal
                rows += 1
                run = 0
        at += 1
    return at, rows
