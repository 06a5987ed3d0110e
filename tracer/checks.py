"""Whether rows are rows of a trace: the checks that stand between a file and a kernel.

The rules are the model's, section 1. A check is fed batch after batch and keeps what it must
remember between them: the last time, and for the free list one bit a page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from tracer.compiled import compiled

if TYPE_CHECKING:
    import numpy.typing as npt

    from tracer.format import Meta, TableName
    from tracer.rows import Int64s, Rows

_OK, _BACK, _PAST, _EMPTY, _OUTSIDE, _AGAIN, _SINCE, _BETWEEN = range(8)


class TableCheck:
    """Checks the rows of one table of a trace with header `meta` and these epoch times."""

    def __init__(self, name: TableName, meta: Meta, epochs: Int64s):
        self._name = name
        self._meta = meta
        # A row of an `epoch` trace stands for the epoch that ends at its time.
        self._ends = epochs if name == "dirty" and meta.resolution == "epoch" else epochs[:0]
        self._row = 0
        self._last = np.iinfo(np.int64).min
        self._free: npt.NDArray[np.uint64] | None = None

    def feed(self, rows: Rows) -> tuple[int, str] | None:
        """Check the next rows; return None, or the bad row's number and what is wrong with it."""
        if not len(rows.t):
            return None
        at, code = _check_times(rows.t, self._last, self._meta.duration_ns)
        if not code and self._name != "epochs":
            at, code = check_runs(rows.page, rows.count, self._meta.pages)
        if not code and self._name == "freelist":
            if self._free is None:
                self._free = np.zeros((self._meta.pages + 63) // 64, np.uint64)
            at, code = _check_free(rows.page, rows.count, rows.free, self._free)
            if not code and len(rows.since):
                late = np.flatnonzero(rows.since > rows.t)
                at, code = (int(late[0]), _SINCE) if len(late) else (0, _OK)
        if not code and len(self._ends):
            stray = np.flatnonzero((rows.t > 0) & ~np.isin(rows.t, self._ends))
            at, code = (int(stray[0]), _BETWEEN) if len(stray) else (0, _OK)
        if code:
            return self._row + at, self._describe(rows, at, code)
        self._row += len(rows.t)
        self._last = int(rows.t[-1])
        return None

    def _describe(self, rows: Rows, at: int, code: int) -> str:
        t = int(rows.t[at])
        if code == _BACK:
            before = int(rows.t[at - 1]) if at else self._last
            return f"t_ns goes back from {before} to {t}; rows ascend in time"
        if code == _PAST:
            return f"t_ns is {t}, past the trace's duration_ns {self._meta.duration_ns}"
        if code == _BETWEEN:
            return f"t_ns is {t}, which is no time of epochs.arrow; an epoch row stands at its end"
        if code == _SINCE:
            return f"since_ns is {int(rows.since[at])}, later than its t_ns {t}"
        page, count = int(np.uint64(rows.page[at])), int(np.uint64(rows.count[at]))
        if code == _EMPTY:
            return "count is 0; a run holds at least one page"
        if code == _OUTSIDE:
            return f"run {page}+{count} is outside the guest's {self._meta.pages} pages"
        verb, state = ("freed", "free") if rows.free[at] else ("taken", "in use")
        return f"a page of run {page}+{count} is {verb} while {state}"


@compiled
def _check_times(t, last, duration):  # type: ignore[no-untyped-def]
    # All rows are looked at, without a way out of the loop, so that many are at once.
    back = t[0] < last
    for i in range(1, len(t)):
        back |= t[i] < t[i - 1]
    if not back and t[-1] <= duration:
        return 0, _OK
    for i in range(len(t)):
        if t[i] < last:
            return i, _BACK
        last = t[i]
    for i in range(len(t)):
        if t[i] > duration:
            return i, _PAST
    return 0, _OK


@compiled
def check_runs(page, count, pages):  # type: ignore[no-untyped-def]
    """Return the first row whose run is empty or outside the guest, and what is wrong with it."""
    wrong = False
    for i in range(len(page)):
        wrong |= _wrong_run(page[i], np.int64(count[i]), pages)
    if not wrong:
        return 0, _OK
    for i in range(len(page)):
        if count[i] == 0:
            return i, _EMPTY
        if _wrong_run(page[i], np.int64(count[i]), pages):
            return i, _OUTSIDE
    return 0, _OK


@njit(cache=True, nogil=True, inline="always")
def _wrong_run(page, count, pages):  # type: ignore[no-untyped-def]
    # Without a branch; `pages - page` cannot overflow where it decides.
    return (count <= 0) | (page < 0) | (page >= pages) | (count > pages - max(page, 0))


@compiled
def _check_free(page, count, free, bits):  # type: ignore[no-untyped-def]
    one, full = np.uint64(1), ~np.uint64(0)
    for i in range(len(page)):
        p, end = page[i], page[i] + np.int64(count[i])
        while p < end:
            word, low = p >> 6, p & 63
            width = min(64 - low, end - p)
            mask = full if width == 64 else ((one << np.uint64(width)) - one) << np.uint64(low)
            was = bits[word] & mask
            if free[i]:
                if was != 0:
                    return i, _AGAIN
                bits[word] |= mask
            else:
                if was != mask:
                    return i, _AGAIN
                bits[word] &= ~mask
            p += width
    return 0, _OK
