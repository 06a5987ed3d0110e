"""One history of a page, of all that a recording allows, that loses it.

`replay.doubt` says that some history loses a page, but not which. Here its question is asked again
and again with windows made smaller, until each is one instant: what the answer `loses` still holds
for is one history. It is then played through step by step, so that what is told is what would be.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from replay.doubt import question
from replay.doubt_kernels import (
    LOSES,
    MAX_STATES,
    SNAPSHOT,
    follow,
    move_windows,
    write_windows,
    zero_at_start,
)
from replay.hints import Report
from replay.life import Supposition, life
from replay.observe import Observation
from replay.sequence import PageRow, rows_of


class _Window(NamedTuple):
    """A span of guest ns in which the page is written; on_free: even while on the free list."""

    low: int
    high: int
    on_free: bool = False


def losing_history(observation: Observation) -> Supposition | None:
    """Return a history that loses the one page that is watched; None if none was singled out.

    The observed migration must have switched over.
    """
    search = _Narrowing(observation)
    if not search.loses() or not (search.place_moves() and search.place_writes()):
        return None
    for supposed in search.told():
        happened = life(observation, 0, supposed)
        last = happened[-1].after
        taken = max((i for i, one in enumerate(happened) if one.kind == "take"), default=0)
        written = any(one.kind == "write" for one in happened[taken:])
        skipped = any(one.cleared for one in happened)
        if skipped and written and not (last.free or last.pending or last.synced):
            return supposed
    return None


class _Narrowing:
    """The windows of one page's transitions and writes, as small as they have been made so far.

    must: windows that need a write; may: those that may have some.
    """

    def __init__(self, observation: Observation):
        self._observation = observation
        self._asked = asked = question(observation)
        moves, writes, zeros = (columns[1:] for columns in (asked.moves, asked.writes, asked.zeros))
        self._recorded = moves[0]
        self._low, self._high, self._free = move_windows(*moves, asked.quantum)
        low, high, on_free, may_low, may_high = write_windows(
            writes[0], moves[0], moves[2], asked.epochs, asked.resolution, asked.quantum, asked.stop
        )
        self._must = [
            _Window(*one) for one in zip(low.tolist(), high.tolist(), on_free.tolist(), strict=True)
        ]
        self._may = [_Window(*one) for one in zip(may_low.tolist(), may_high.tolist(), strict=True)]
        self._zeros = zeros[0]
        self._zero = zero_at_start(writes[0], zeros[0])
        of_chunk, chunk = asked.of_chunk, asked.chunk[0]
        self._clears = asked.clears[of_chunk[chunk] : of_chunk[chunk + 1]]
        self._states = np.empty(MAX_STATES, np.int64)

    def loses(self) -> bool:
        """Whether some history within the windows loses the page."""
        asked, must, may = self._asked, self._must, self._may
        found = follow(
            *asked.schedule, asked.common, self._clears, asked.passed[0],
            asked.names[:, 0].copy(), asked.misses[:, 0].copy(), asked.segments,
            self._low, self._high, self._free,
            np.array([one.low for one in must], np.int64),
            np.array([one.high for one in must], np.int64),
            np.array([one.on_free for one in must], np.bool_),
            np.array([one.low for one in may], np.int64),
            np.array([one.high for one in may], np.int64),
            self._zero, self._zeros, asked.stop, asked.manual, asked.hint_clears, asked.ack,
            self._states,
        )  # fmt: skip
        return bool(found == LOSES)

    def place_moves(self) -> bool:
        """Put each transition at one instant, where it was recorded if that will do."""
        recorded = self._recorded[len(self._recorded) - len(self._low) :]
        for i, t in enumerate(recorded.tolist()):
            low, high = int(self._low[i]), int(self._high[i])
            if low <= t <= high and self._move(i, t, t):
                continue
            while low < high:
                middle = (low + high) // 2
                if self._move(i, low, middle):
                    high = middle
                elif self._move(i, middle + 1, high):
                    low = middle + 1
                else:
                    return False
        return True

    def _move(self, i: int, low: int, high: int) -> bool:
        """Whether the page is lost with transition i in that span; if so, leave it there."""
        before = self._low.copy(), self._high.copy()
        self._low[i], self._high[i] = low, high
        np.maximum(self._low[i:], low, out=self._low[i:])  # in their order
        if bool(np.all(self._low <= self._high)) and self.loses():
            return True
        self._low, self._high = before
        return False

    def place_writes(self) -> bool:
        """Leave out the writes that are not needed, and put the others at one instant each."""
        for window in self._may[::-1]:
            self._try(self._may, window)
        return all(
            self._place(windows, window) for windows in (self._may, self._must)
            for window in list(windows)
        )  # fmt: skip

    def _place(self, windows: list[_Window], window: _Window) -> bool:
        while window.low < window.high:
            middle = (window.low + window.high) // 2
            first, second = window._replace(high=middle), window._replace(low=middle + 1)
            if self._try(windows, window, first):
                window = first
            elif self._try(windows, window, second):
                window = second
            elif self._try(windows, window, first, second):
                return self._place(windows, first) and self._place(windows, second)
            else:
                return False
        return True

    def _try(self, windows: list[_Window], window: _Window, *parts: _Window) -> bool:
        """Whether the page is lost with these in the window's place; if so, leave them there."""
        before = windows.copy()
        windows.remove(window)
        for part in parts:
            insort(windows, part)
        if self.loses():
            return True
        windows[:] = before
        return False

    def told(self) -> Iterator[Supposition]:
        """Yield the history that is left; what falls on one instant in either order."""
        stop = self._asked.stop
        begin = [row for row in rows_of(self._observation, 0) if row.t <= 0]
        frees = self._free.tolist()[1:]
        moves = [
            PageRow(t, "free" if free else "take")
            for t, free in zip(self._low.tolist(), frees, strict=True)
        ]
        writes = [PageRow(one.low, "write") for one in (*self._must, *self._may)]
        zeros = [PageRow(t, "zero") for t in self._zeros.tolist() if t > 0]
        for first in (moves + writes, writes + moves):
            rows = sorted((row for row in first + zeros if row.t <= stop), key=lambda row: row.t)
            yield Supposition((*begin, *rows), self._barred())

    def _barred(self) -> frozenset[Report]:
        """Return the reports that cannot name the page, whether it is free or not."""
        if not len(self._asked.names):
            return frozenset()
        reports = [
            event.report
            for event in self._observation.migration.events
            if event.kind == "snapshot" and event.report is not None
            and event.report.outcome == "handled"
        ]  # fmt: skip
        assert len(reports) == int((self._asked.schedule.kind == SNAPSHOT).sum())
        named = self._asked.names[:, 0].tolist()
        return frozenset(r for r, may in zip(reports, named, strict=True) if not may)
