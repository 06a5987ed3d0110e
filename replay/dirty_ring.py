"""A dirty ring: the guest's writes as KVM would have logged them in one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from replay.feed import Feed
from tracer.rows import Int64s
from tracer.trace import Trace

_USED, _TOTAL, _SLOTS = 0, 1, 2


class DirtyRing:
    """A ring of `size` entries that follows a trace's writes as guest time goes on.

    A page enters it when it is first written since the ring was emptied, which happens when it is
    full and at each harvest.
    """

    def __init__(self, trace: Trace, passes: int, size: int):
        self.size = size
        self._feed = Feed(trace, "dirty", passes)
        self._row = 0
        self._pages = trace.meta.pages
        self._listed = np.zeros(0, np.uint64)
        self._ring = np.zeros(size, np.int64)
        self._ctl = np.zeros(_SLOTS, np.int64)

    def begin(self, guest: int) -> None:
        """Start with an empty ring, after all writes up to guest ns."""
        self._listed = np.zeros((self._pages + 63) // 64, np.uint64)
        feed = self._feed
        while feed.more and not (len(feed.t) and feed.t[-1] > guest):
            feed.advance()
        self._row = int(np.searchsorted(feed.t, guest, side="right"))

    def harvest(self, guest: int) -> None:
        """Take the writes up to guest ns, then empty the ring."""
        feed = self._feed
        while True:
            self._row = _enter(
                feed.t, feed.page, feed.count, self._row, guest, self._listed, self._ring, self._ctl
            )
            if self._row < len(feed.t) or not feed.more:
                break
            feed.advance()
            self._row = 0
        _empty(self._listed, self._ring, self._ctl)

    def taken(self) -> int:
        """Return how many entries there were since this was last asked."""
        entries = int(self._ctl[_TOTAL])
        self._ctl[_TOTAL] = 0
        return entries


@njit(cache=True, nogil=True)
def _empty(listed: npt.NDArray[np.uint64], ring: Int64s, ctl: Int64s) -> None:
    for slot in range(ctl[_USED]):
        listed[ring[slot] >> 6] = 0
    ctl[_USED] = 0


@njit(cache=True, nogil=True)
def _enter(
    t: Int64s,
    page: Int64s,
    count: npt.NDArray[np.uint32],
    row: int,
    guest: int,
    listed: npt.NDArray[np.uint64],
    ring: Int64s,
    ctl: Int64s,
) -> int:
    """Enter the rows from `row` on that are not after guest ns; return the first that is."""
    while row < len(t) and t[row] <= guest:
        first = page[row]
        for number in range(first, first + np.int64(count[row])):
            word, bit = number >> 6, np.uint64(1) << np.uint64(number & 63)
            if listed[word] & bit:
                continue
            listed[word] |= bit
            ring[ctl[_USED]] = number
            ctl[_USED] += 1
            ctl[_TOTAL] += 1
            if ctl[_USED] == len(ring):
                _empty(listed, ring, ctl)
        row += 1
    return row
