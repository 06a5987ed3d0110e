"""When the host let QEMU's sender and vCPUs run, as a recording shows it.

A migration that is foretold from its own recording takes that as recorded, as it takes the guest's
writes: what is sent, when to sync and when to throttle stays the loop's to find out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from replay.link import ZERO_PAGE_BYTES

MS_NS = 1_000_000
#: Half of a window (BUFFER_DELAY): a moment is taken for the recorded one that it is nearest to.
_WINDOW_MS, _WINDOW_NS, _NEAR_NS = 100, 100 * MS_NS, 50 * MS_NS
#: A sync of a throttled guest that takes so long waited for a vCPU to wake.
_WAITED_NS = MS_NS
#: Within which the look is over that a sync was made in.
_SOON_NS = 5 * MS_NS
#: MAX_WAIT: an iteration ends when it has lasted longer than so many whole ms.
MAX_WAIT_MS = 50
#: How fine the phase of QEMU's clock is looked for, and in how many windows.
_STEP_NS, _ENOUGH = 10_000, 10_000


@dataclass(frozen=True)
class Pace:
    """How an iteration went: in how many ns, and how many it takes where nothing keeps the sender.

    pages: after how many, zero pages included, MAX_WAIT ended it; None if it did not, or if the one
    that is known began at another ms.
    """

    took: int
    usual: int
    pages: int | None


@dataclass(frozen=True)
class Course:
    """The recorded course, all in host ns since the first sync, ascending.

    iterations: (begin, end, pages with content, zero pages) of each: the look at what is pending,
    the beginning of the last page with content, and what was sent. syncs: (begin, end).
    page_bytes: of a page with content on the wire. bandwidth: max-bandwidth. hinted: of zero pages
    some may have been hinted and not sent. Raises ValueError where times go back or counts are
    negative.
    """

    iterations: tuple[tuple[int, int, int, int], ...]
    syncs: tuple[tuple[int, int], ...]
    page_bytes: int
    bandwidth: int
    hinted: bool = False

    def __post_init__(self) -> None:
        moments = [(begin, end) for begin, end, *_ in self.iterations]
        # The first sync may have begun before the first write that it could see.
        for first, spans in (([0], moments), ([], self.syncs)):
            flat = [moment for span in spans for moment in span]
            if any(after < before for before, after in pairwise([*first, *flat])):
                raise ValueError("its times go back")
        if any(min(counts) < 0 for _, _, *counts in self.iterations):
            raise ValueError("it sent fewer than 0 pages")

    @cached_property
    def wakes(self) -> list[int]:
        """When it went on after a sleep: at an iteration's begin, or the sync's before it."""
        return [look for slept, look in zip(self._slept, self._looks[1:], strict=False) if slept]

    @cached_property
    def _looks(self) -> list[int]:
        """When the look began with which each iteration begins: with a sync, or at once.

        A sync that was over long before was made by a timer while the sender slept.
        """
        begins = [begin for begin, _ in self.syncs]
        looks, done = [], -1
        for begin, end, *_ in self.iterations:
            at = bisect_right(begins, begin) - 1
            sync = at >= 0 and begins[at] >= done and begin - self.syncs[at][1] < _SOON_NS
            looks.append(begins[at] if sync else begin)
            done = end
        return looks

    @cached_property
    def _slept(self) -> list[bool]:
        """Whether it slept after each iteration: with the window's budget spent.

        (migration_rate_limit; a window that is over by then leaves nothing to sleep for.)
        """
        slept, start, sent, zeros = [], self._looks[0], 0, 0
        # With less than a page left it is spent, what is around the pages included.
        budget = self.bandwidth * _WINDOW_MS // 1000 - self.page_bytes
        for (_, end, normal, zero), after in zip(self.iterations, self._looks[1:], strict=False):
            sent += normal * self.page_bytes
            zeros += zero * ZERO_PAGE_BYTES
            # A sleep lasts whole ms.
            doubt = self.hinted and after - end < MS_NS
            spent = sent + (0 if doubt else zeros) > budget
            slept.append(spent and end - start < _WINDOW_NS)
            if slept[-1] or after - start >= _WINDOW_NS:
                start, sent, zeros = after, 0, 0
        return [*slept, False]

    @cached_property
    def _ends(self) -> list[int]:
        """When each iteration was over: at the next look, or where it slept with its last page."""
        afters = zip(self.iterations, self._looks[1:], self._slept, strict=False)
        ends = [end if slept else look for (_, end, *_), look, slept in afters]
        return [*ends, self.iterations[-1][1]]

    @cached_property
    def phase_ns(self) -> int:
        """How far QEMU's clock was into a whole ms at the first sync.

        It counts a window in whole ms, and none is shorter than it has to be: the middle of the
        phases at which the fewest between two wakes are.
        """
        wakes = np.array(self.wakes[:_ENOUGH], np.int64)[:, None] + np.arange(0, MS_NS, _STEP_NS)
        short = (np.diff(wakes // MS_NS, axis=0) < _WINDOW_MS).sum(axis=0)
        if not short.any():
            return 0
        # The phases go round; begin where most are short.
        first = int(short.argmax())
        best = np.flatnonzero(np.roll(short, -first) == short.min())
        return (int(best[len(best) // 2]) + first) % len(short) * _STEP_NS

    @cached_property
    def lost(self) -> tuple[int, ...]:
        """By how many ns each window outlasted what was sent in it; 0 for less than a ms.

        Also where a sync took as long, which may have waited for a vCPU.
        """
        full = self.bandwidth * _WINDOW_MS // 1000
        waits = [begin for begin, end in self.syncs if end - begin >= _WAITED_NS]
        found, at = [], bisect_left(self._looks, self.wakes[0]) if self.wakes else 0
        for begin, end in pairwise(self.wakes):
            past = bisect_left(self._looks, end, at)
            sent = sum(normal * self.page_bytes + zero * ZERO_PAGE_BYTES
                       for _, _, normal, zero in self.iterations[at:past])  # fmt: skip
            at = past
            lost = end - begin - max(sent, full) * _WINDOW_NS // full
            waited = bisect_left(waits, begin) < bisect_left(waits, end + 1)
            found.append(lost if lost >= MS_NS and not waited else 0)
        return tuple(found)

    def wake(self, now: int, due: int) -> int | None:
        """Return when a sender woke that slept at `now` and had to wake at `due`.

        It may have woken before: what keeps it between a window's begin and the look at what is
        pending shows in the next window. None where the recording does not say.
        """
        at = bisect_left(self.wakes, max(now, due - _NEAR_NS))
        return self.wakes[at] if at < len(self.wakes) else None

    def near(self, begin: int, page_ns: int, zero_ns: int) -> Pace | None:
        """Return how the iteration went that began nearest to `begin`.

        Pages take page_ns, zero pages zero_ns, where nothing keeps the sender. None where the
        recording does not say.
        """
        at = bisect_left(self._begins, begin - _NEAR_NS)
        near = range(at, bisect_left(self._begins, begin + _NEAR_NS))
        if not near:
            return None
        nearest = min(near, key=lambda number: abs(self._begins[number] - begin))
        start, last, normal, zero = self.iterations[nearest]
        took = self._ends[nearest] - start
        # Up to the beginning of the last page there are but those before it.
        pages = normal - 1 if self._ends[nearest] == last and normal > 1 else normal
        usual = pages * page_ns + zero * zero_ns
        if not usual or not took:
            return None
        known = not self.hinted and abs(start - begin) < MS_NS
        cut = known and not self._slept[nearest] and took > MAX_WAIT_MS * MS_NS
        return Pace(took, usual, normal + zero if cut else None)

    @cached_property
    def _begins(self) -> list[int]:
        return [begin for begin, *_ in self.iterations]

    def synced(self, begin: int) -> int | None:
        """Return when a sync was over that began at `begin`, None where none began at that ms."""
        at = bisect_left(self.syncs, (begin - MS_NS, 0))
        near = [pair for pair in self.syncs[at : at + 2] if abs(pair[0] - begin) < MS_NS]
        return max(begin, min(near, key=lambda pair: abs(pair[0] - begin))[1]) if near else None

    def ticked(self, due: int) -> int:
        """Return when a timer ticked that was due, by the sync that it made if that is known."""
        at = bisect_left(self.syncs, (due - _NEAR_NS, 0))
        near = [begin for begin, _ in self.syncs[at : at + 2] if abs(begin - due) < _NEAR_NS]
        return min(near, key=lambda begin: abs(begin - due), default=due)

    def stopped(self, now: int) -> int | None:
        """Return when the sync was over that followed a stop at `now`, None where that is another.

        (A vCPU may be sent to sleep just before: the throttle's timer ticks until it is stopped.)
        """
        begin, end = self.syncs[-1] if self.syncs else (0, 0)
        if not self.iterations[-2:-1] or begin < self.iterations[-2][0]:
            return None
        return max(now, end) if abs(begin - now) < _NEAR_NS else None

    @cached_property
    def vcpu_wakes(self) -> list[int]:
        """When a sync that waited for a throttled vCPU ended, so that the vCPU woke."""
        return [end for begin, end in self.syncs if end - begin >= _WAITED_NS]
