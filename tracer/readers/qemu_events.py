"""Events of a trace log as guest times and dense pages, in the order in which they count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.readers.blocks import Layout
from tracer.readers.guest_clock import GuestClock
from tracer.readers.qemu_lines import (
    CLEAR,
    REAP,
    RING_PAGE,
    SAVE,
    SYNC_END,
    SYNC_START,
    THROTTLE,
    WRITE,
)
from tracer.readers.qemu_log import Events, QemuLog
from tracer.readers.ring_pages import RingPages
from tracer.rows import Int64s


@dataclass(frozen=True)
class Steps:
    """Some events: t int64 guest ns, ascending; page int64 dense; kind uint8."""

    t: Int64s
    page: Int64s
    kind: npt.NDArray[np.uint8]

    def writes(self) -> tuple[Int64s, Int64s]:
        """Return times and pages of the writes among them."""
        chosen = self.kind == WRITE
        return self.t[chosen], self.page[chosen]


class StepReader:
    """Yields a log's events as steps; afterwards three counts of writes are known.

    straddling: they touch two pages and become two steps. beyond: outside the first RAM block, so
    that their pages cannot be told (a log has no offsets of blocks). stopped: after the guest was
    stopped, so of another run of it. The last two are left out.
    """

    def __init__(
        self,
        log: QemuLog,
        layout: Layout,
        clock: GuestClock,
        page_size: int,
        ring: RingPages | None = None,
    ):
        self._layout, self._clock = layout, clock
        self._events = log.chunks() if ring is None else iter(ring)
        #: A ring's writes are of any block, as its slots are; others know the first alone.
        self._known = layout.ram_pages if ring is None else layout.pages
        self._page_size = page_size
        self._base = np.array([*layout.base, 0], np.int64)
        self.straddling = 0
        self.beyond = 0
        self.stopped = 0

    def __iter__(self) -> Iterator[Steps]:
        for events in self._events:
            yield self._steps(events)

    def _steps(self, events: Events) -> Steps:
        kind = events["kind"]
        write, save, clear = kind == WRITE, kind == SAVE, kind == CLEAR
        page = np.where(write | save, events["a"] // self._page_size, events["a"])
        page[save | clear] += self._base[events["b"][save | clear]]
        span = np.ones(len(events), np.int64)
        last = (events["a"][write] + events["b"][write] - 1) // self._page_size
        span[write] = last - page[write] + 1
        outside = write & (page + span > self._known)
        outside |= (save | clear) & (page >= self._layout.pages)
        self.beyond += int(np.count_nonzero(outside))
        if self._clock.stop_us is not None:
            stopped = write & (events["t"] > self._clock.stop_us)
            self.stopped += int(np.count_nonzero(stopped & ~outside))
            outside |= stopped
        self.straddling += int(np.count_nonzero(span[~outside] > 1))
        span[outside] = 0
        index = np.repeat(np.arange(len(events)), span)
        within = np.arange(len(index)) - np.repeat(np.cumsum(span) - span, span)
        t = self._clock.guest_ns(events["t"])
        return Steps(t[index], page[index] + within, kind[index])


def told_throttles(log: QemuLog) -> list[tuple[int, int]]:
    """Return host us and percent of each step of the throttle, none where the log names no percent.

    `cpu_throttle_set` does, from QEMU 10 on (cpu_throttle_set caps what it is given at 99).
    """
    return [
        (t, min(percent, 99)) for _, t, kind, percent, _ in log.rare if kind == THROTTLE and percent
    ]


def first_sync_us(log: QemuLog) -> int | None:
    """Return the host time in us at which the first sync harvested, None where there is none.

    Under TCG a sync harvests within tens of us of `migration_bitmap_sync_start` (a page that was
    dirty before is reported anew from then on; `_end` may come a second later, when a throttled
    vCPU has been waited for). A dirty ring is harvested by the reap inside the sync.
    """
    start = None
    for _, t, kind, _, _ in log.rare:
        if kind == SYNC_START and start is None:
            start = t
            if not log.counts[RING_PAGE]:
                return start
        elif start is not None and kind == REAP:
            return t
        elif start is not None and kind == SYNC_END:
            return start
    return start


def epochs_us(log: QemuLog) -> Int64s:
    """Return the host times in us, int64 ascending, at which the dirty log was harvested.

    With a dirty ring: at each reap, and at the start of each sync that found the ring empty.
    """
    times: list[int] = []
    if not log.counts[RING_PAGE]:
        return np.array([t for _, t, kind, _, _ in log.rare if kind == SYNC_START], np.int64)
    open_sync = None
    for _, t, kind, _, _ in log.rare:
        if kind == SYNC_START:
            open_sync = t
        elif kind == REAP:
            times.append(t)
            open_sync = None
        elif kind == SYNC_END and open_sync is not None:
            times.append(open_sync)
            open_sync = None
    return np.array(sorted(times), np.int64)
