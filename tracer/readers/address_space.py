"""A process's virtual pages as a trace's dense ones: only the regions that were seen are kept."""

from __future__ import annotations

import numpy as np

from tracer.errors import TraceError
from tracer.format import MAX_PAGES, Block
from tracer.rows import NO_TIMES, Int64s

_BRIDGE_BYTES = 1 << 20


class AddressSpace:
    """Regions of pages: `see` all of them, `close`, then ask.

    Pages less than 1 MiB apart are one region; each region is a block, named by its address.
    """

    def __init__(self, page_size: int):
        self._page_size = page_size
        self._bridge = max(_BRIDGE_BYTES // page_size, 1)
        self._first: Int64s = NO_TIMES
        self._end: Int64s = NO_TIMES
        self._base: Int64s = NO_TIMES
        self.pages = 0

    def see(self, page: Int64s, count: Int64s | int = 1) -> None:
        """Take runs of virtual pages, in any order."""
        if not len(page):
            return
        first = np.concatenate((self._first, page))
        end = np.concatenate((self._end, page + count))
        order = np.argsort(first, kind="stable")
        first, end = first[order], np.maximum.accumulate(end[order])
        apart = np.r_[True, first[1:] >= end[:-1] + self._bridge]
        self._first = first[apart]
        self._end = end[np.r_[np.flatnonzero(apart)[1:] - 1, len(end) - 1]]

    def close(self) -> None:
        """Number the pages. Raises TraceError where none was seen, or more than any trace has."""
        counts = self._end - self._first
        self.pages = int(counts.sum())
        if not 1 <= self.pages <= MAX_PAGES:
            raise TraceError(f"{self.pages} pages were written; that makes no trace")
        self._base = np.cumsum(counts) - counts

    def page_of(self, page: Int64s) -> Int64s:
        """Return the dense pages of virtual pages that were seen."""
        at = np.searchsorted(self._first, page, side="right") - 1
        return self._base[at] + page - self._first[at]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """A block for each region."""
        names = [f"{first * self._page_size:#x}" for first in self._first.tolist()]
        counts = (self._end - self._first).tolist()
        return tuple(map(Block, names, self._base.tolist(), counts))

    def note(self) -> str:
        """Return what to say of the regions."""
        return (
            f"the trace's pages are those of {len(self._first)} regions of the address space that "
            "were seen, each a block named by its address; pages less than 1 MiB apart are one "
            "region"
        )
