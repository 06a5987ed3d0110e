"""Free-list samples and writes put together in order of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.readers.freelist_rows import FreelistTracker, FreeRows
from tracer.rows import Int64s


@dataclass(frozen=True)
class Walk:
    """A sample in guest ns: the walk's begin and end, and the runs of pages that it saw free."""

    begin: int
    end: int
    start: Int64s
    count: Int64s


class FreelistMerge:
    """Feeds a tracker with walks and, between them, with the writes that come in.

    The last walk that ends at or before 0 is the state at the start; where there is none the first
    one stands in (`assumed_start`). Walks that end after `duration` are not used.
    """

    def __init__(self, walks: Sequence[Walk], pages: int, duration: int):
        early = [walk for walk in walks if walk.end <= 0]
        self.assumed_start = bool(walks) and not early
        self._walks = [walk for walk in walks if 0 < walk.end <= duration]
        self.used = len(self._walks) + bool(early)
        self._duration = duration
        self._next = 0
        self.at_start: npt.NDArray[np.bool_] | None = None
        self._tracker: FreelistTracker | None = None
        self._known_from = 0
        if walks:
            first = early[-1] if early else walks[0]
            self._known_from = first.end if early else 0
            self._tracker = FreelistTracker(pages, first.start, first.count)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Takes moved to a write, pages freed anew in between, samples overruled by a write."""
        if self._tracker is None:
            return 0, 0, 0
        return self._tracker.moved, self._tracker.refreed, self._tracker.overruled

    def take(self, t: Int64s, page: Int64s) -> list[FreeRows]:
        """Take writes, int64 guest ns ascending and pages; return the rows that are settled."""
        tracker = self._tracker
        if tracker is None or not len(t):
            return []
        inside = (t >= self._known_from) & (t <= self._duration)
        t, page = t[inside], page[inside]
        now = int(np.searchsorted(t, 0, side="right"))
        if self.at_start is None:
            tracker.writes(t[:now], page[:now])
        if now < len(t):
            self._begin()
        while now < len(t):
            walk = self._walks[self._next] if self._next < len(self._walks) else None
            # At one instant the free list goes before the writes (the model, section 2).
            until = len(t) if walk is None else int(np.searchsorted(t, walk.end))
            tracker.writes(t[now:until], page[now:until])
            now = until
            if walk is not None and now < len(t):
                self._sample(walk)
        return tracker.take_rows() if self.at_start is not None else []

    def finish(self) -> list[FreeRows]:
        """Take the walks that are left; return the last rows."""
        if self._tracker is None:
            return []
        self._begin()
        for walk in self._walks[self._next :]:
            self._sample(walk)
        return self._tracker.take_rows()

    def _begin(self) -> None:
        if self.at_start is None and self._tracker is not None:
            self.at_start = self._tracker.start()

    def _sample(self, walk: Walk) -> None:
        assert self._tracker is not None
        self._tracker.sample(walk.begin, walk.end, walk.start, walk.count)
        self._next += 1
