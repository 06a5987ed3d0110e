"""Free-list rows out of samples and writes: when pages entered and left, and how sure that is.

A sample says of each page that it was free, or in use, at some moment of a walk. Of all histories
that agree with the samples and in which no write falls on a free page, the one with the fewest
transitions is taken: it is found in one run forward (see `FreelistTracker`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from tracer.rows import Int64s

_NEVER = np.iinfo(np.int64).min
_MOVED, _OVERRULED, _REFREED = range(3)


@dataclass(frozen=True)
class FreeRows:
    """Rows of a sampled `freelist.arrow`: int64 arrays and `free` bool, ascending in t."""

    t: Int64s
    page: Int64s
    count: Int64s
    free: npt.NDArray[np.bool_]
    since: Int64s


class FreelistTracker:
    """Turns samples and writes, fed in order of time, into free-list rows.

    - A page free in one sample and in use in the next left in (begin of the one walk, end of the
      other]; the row stands at the end, or at the first write in between.
    - A page in use in one and free in the next entered in the same window, after its last write;
      the row stands at the window's end.
    - A page free in both and written in between was taken at the write and freed after its last
      one. If the write fell into the later walk, that walk saw the page before it was taken.
    """

    def __init__(self, pages: int, start: Int64s, count: Int64s):
        self._free = np.zeros(pages, np.uint8)
        mark_runs(self._free, start, count)
        self._seen = self._free.copy()
        self._last = np.full(pages, _NEVER, np.int64)
        self._taken = np.full(pages, _NEVER, np.int64)
        self._begin = 0
        self._counts = np.zeros(3, np.int64)
        self._rows: list[FreeRows] = []
        self._started = False

    @property
    def moved(self) -> int:
        """Takes that were moved to a write."""
        return int(self._counts[_MOVED])

    @property
    def overruled(self) -> int:
        """Pages seen free by a walk during which they were taken and written."""
        return int(self._counts[_OVERRULED])

    @property
    def refreed(self) -> int:
        """Pages free in two samples in a row and written, hence taken and freed, in between."""
        return int(self._counts[_REFREED])

    def start(self) -> npt.NDArray[np.bool_]:
        """Write the rows of the initial state, at time 0, and return it: bool by page.

        Call it once, when all writes at or before 0 have been fed.
        """
        start, count = runs_of(self._free)
        zero = np.zeros(len(start), np.int64)
        self._rows = [FreeRows(zero, start, count, np.ones(len(start), np.bool_), zero)]
        self._counts[:] = 0
        return self._free.astype(np.bool_)

    def writes(self, t: Int64s, page: Int64s) -> None:
        """Take writes: guest ns, ascending, and pages."""
        out = np.empty((3, len(t)), np.int64)
        rows = _write(t, page, self._free, self._last, self._taken, self._begin, self._counts, out)
        times, pages, since = out[:, :rows].copy()
        ones = np.ones(rows, np.int64)
        self._rows.append(FreeRows(times, pages, ones, np.zeros(rows, np.bool_), since))

    def sample(self, begin: int, end: int, start: Int64s, count: Int64s) -> None:
        """Take a sample: its walk's begin and end in guest ns, the runs of pages it saw free."""
        saw = np.zeros(len(self._free), np.uint8)
        mark_runs(saw, start, count)
        changed = int(np.count_nonzero(saw != self._free)) + 1
        out = np.empty((4, changed), np.int64)
        rows = _sample(
            saw, self._seen, self._free, self._last, self._taken, self._begin, begin, self._counts,
            out,
        )  # fmt: skip
        pages, counts, free, since = out[:, :rows].copy()
        times = np.full(rows, end, np.int64)
        self._rows.append(FreeRows(times, pages, counts, free.astype(np.bool_), since))
        self._seen, self._begin = saw, max(begin, 0)

    def take_rows(self) -> list[FreeRows]:
        """Return the rows made since the last call."""
        rows, self._rows = self._rows, []
        return rows


def mark_runs(flags: npt.NDArray[np.uint8], start: Int64s, count: Int64s) -> None:
    """Set the flags of runs of pages."""
    for first, pages in zip(start.tolist(), count.tolist(), strict=True):
        flags[first : first + pages] = 1


def runs_of(flags: npt.NDArray[np.uint8]) -> tuple[Int64s, Int64s]:
    """Return starts and counts, int64, of the runs of set flags."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags, [0])).astype(np.int8)))
    return edges[::2], edges[1::2] - edges[::2]


@njit(cache=True, nogil=True)
def _write(t, page, free, last, taken, begin, counts, out):  # type: ignore[no-untyped-def]
    rows = 0
    for i in range(len(t)):
        p = page[i]
        if free[p]:
            free[p] = 0
            taken[p] = t[i]
            counts[_MOVED] += 1
            out[0, rows], out[1, rows] = t[i], p
            out[2, rows] = min(max(begin, last[p]), t[i])
            rows += 1
        last[p] = t[i]
    return rows


@njit(cache=True, nogil=True)
def _sample(saw, seen, free, last, taken, before, begin, counts, out):  # type: ignore[no-untyped-def]
    """Write rows (page, count, free, since) for the pages whose state the sample changes."""
    rows = 0
    for p in range(len(saw)):
        if saw[p] == free[p]:
            continue
        if saw[p]:
            if taken[p] > begin:
                counts[_OVERRULED] += 1
                continue
            if seen[p]:
                counts[_REFREED] += 1
                since = max(last[p], 0)
            else:
                since = max(before, last[p])
        else:
            since = max(before, last[p])
        free[p] = saw[p]
        joins = rows > 0 and out[0, rows - 1] + out[1, rows - 1] == p
        if joins and out[2, rows - 1] == saw[p] and out[3, rows - 1] == since:
            out[1, rows - 1] += 1
            continue
        out[0, rows], out[1, rows], out[2, rows], out[3, rows] = p, 1, saw[p], since
        rows += 1
    return rows
