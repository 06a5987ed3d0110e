"""When the host let QEMU's sender and vCPUs run, as a recording shows it.

A migration that is foretold from its own recording takes that as recorded, as it takes the guest's
writes: what is sent, when to sync and when to throttle stays the loop's to find out.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

MS_NS = 1_000_000
#: Half of a window (BUFFER_DELAY): a moment is taken for the recorded one that it is nearest to.
_NEAR_NS = 50 * MS_NS
_WINDOW_MS = 100
#: A sender that does nothing for so long slept (migration_rate_limit sleeps whole ms), ...
_SLEPT_NS = MS_NS
#: ... and a sync of a throttled guest that takes so long waited for a vCPU to wake.
_WAITED_NS = MS_NS
#: How fine the phase of QEMU's clock is looked for.
_STEP_NS = 10_000


@dataclass(frozen=True)
class Sender:
    """The recorded course, all in host ns since the first sync, ascending.

    iterations: (begin, end, pages with content, zero pages) of each: the look at what is pending,
    the last page with content, and what was sent. syncs: (begin, end). Raises ValueError where
    times go back or counts are negative.
    """

    iterations: tuple[tuple[int, int, int, int], ...]
    syncs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        moments = [(begin, end) for begin, end, *_ in self.iterations]
        for spans in (moments, self.syncs):
            flat = [moment for span in spans for moment in span]
            if any(after < before for before, after in pairwise([0, *flat])):
                raise ValueError("its times go back")
        if any(min(counts) < 0 for _, _, *counts in self.iterations):
            raise ValueError("it sent fewer than 0 pages")

    @cached_property
    def wakes(self) -> list[int]:
        """When it went on after a sleep: at an iteration's begin, or the sync's before it."""
        found = []
        for (_, before, *_), look in pairwise(self._looks):
            if look[0] - before >= _SLEPT_NS:
                found.append(look[0])
        return found

    @cached_property
    def _looks(self) -> list[tuple[int, int, int]]:
        """Of each iteration when its look began (with a sync or not), its last page, its begin."""
        begins = [begin for begin, _ in self.syncs]
        looks, done = [], -1
        for begin, end, *_ in self.iterations:
            at = bisect_left(begins, done)
            sync = at < len(begins) and begins[at] <= begin
            looks.append((begins[at] if sync else begin, end, begin))
            done = end
        return looks

    @cached_property
    def _ends(self) -> list[tuple[int, bool]]:
        """When each iteration was over: at the next look, or if it then slept with its last page.

        True with the latter: that page was begun then.
        """
        ends = []
        for (_, end, _), (after, *_) in pairwise(self._looks):
            ends.append((end, True) if after - end >= _SLEPT_NS else (after, False))
        return [*ends, (self._looks[-1][1], True)]

    @cached_property
    def phase_ns(self) -> int:
        """How far QEMU's clock was into a whole ms at the first sync.

        It counts a window in whole ms, and none is shorter than it has to be: the middle of the
        phases at which the fewest between two wakes are.
        """
        wakes = np.array(self.wakes, np.int64)[:, None] + np.arange(0, MS_NS, _STEP_NS)
        short = (np.diff(wakes // MS_NS, axis=0) < _WINDOW_MS).sum(axis=0)
        if not short.any():
            return 0
        # The phases go round; begin where most are short.
        first = int(short.argmax())
        best = np.flatnonzero(np.roll(short, -first) == short.min())
        return (int(best[len(best) // 2]) + first) % len(short) * _STEP_NS

    @cached_property
    def late_ns(self) -> int:
        """By how much the windows without a sync outlasted what they had to last, in all."""
        begins = [begin for begin, _ in self.syncs]
        spans = [b - a for a, b in pairwise(self.wakes)
                 if bisect_left(begins, a) == bisect_left(begins, b + 1)]  # fmt: skip
        return sum(max(span - _WINDOW_MS * MS_NS, 0) for span in spans)

    def wake(self, due: int) -> int | None:
        """Return when a sender woke that had to at `due`, None where the recording does not say.

        That may be up to a ms before, as QEMU counts whole ms.
        """
        at = bisect_left(self.wakes, due - _NEAR_NS)
        if at == len(self.wakes):
            return None
        woke = self.wakes[at]
        return woke if woke > due - MS_NS else due

    def slowness(self, begin: int, page_ns: int, zero_ns: int) -> tuple[int, int] | None:
        """Return how long an iteration from `begin` on took, and how long it takes at these times.

        Both in ns; None where the recording does not say.
        """
        at = bisect_left(self._begins, begin - _NEAR_NS)
        near = range(at, bisect_left(self._begins, begin + _NEAR_NS))
        if not near:
            return None
        nearest = min(near, key=lambda number: abs(self._begins[number] - begin))
        (start, _, normal, zero), (end, begun) = self.iterations[nearest], self._ends[nearest]
        usual = (normal - begun) * page_ns + zero * zero_ns
        return (end - start, usual) if usual > 0 and end > start else None

    @cached_property
    def _begins(self) -> list[int]:
        return [begin for begin, *_ in self.iterations]

    def vcpu_wakes(self) -> list[int]:
        """When a sync that waited for a throttled vCPU ended, so that the vCPU woke."""
        return [end for begin, end in self.syncs if end - begin >= _WAITED_NS]
