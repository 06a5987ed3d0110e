"""Host time to guest time for a guest that auto-converge throttles (the model, section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tracer.rows import Int64s

#: QEMU's defaults, for a recording without its parameters (migration/options.c).
_DEFAULTS = {"cpu-throttle-initial": 20, "cpu-throttle-increment": 10, "max-cpu-throttle": 99}
_FOREVER_US = 1 << 62


def throttle_percents(
    rows: Sequence[int], parameters: Mapping[str, Any], polled: Sequence[tuple[int, int]] = ()
) -> list[int]:
    """Return the percentage set by each of the throttle rows (host us), which carry none.

    It is what query-migrate answered last before the next row (polled: host us, percent), or where
    nobody asked what QEMU's mig_throttle_guest_down does: the first sets `cpu-throttle-initial`,
    each later one adds `cpu-throttle-increment`, up to `max-cpu-throttle`. With
    `cpu-throttle-tailslow` the step may be smaller; this is then the upper bound.
    """
    initial, increment, highest = (int(parameters.get(k, v)) for k, v in _DEFAULTS.items())
    percents: list[int] = []
    for begin, end in pairwise([*rows, _FOREVER_US]):
        most = min(percents[-1] + increment, highest) if percents else initial
        told = [percent for t, percent in polled if begin < t < end]
        # An answer that was under way when the row came has the percentage before.
        percents.append(told[-1] if told and told[-1] > (percents or [0])[-1] else most)
    return percents


@dataclass(frozen=True)
class GuestClock:
    """Guest time in ns since the migration's first sync, of host time in us since 1970.

    Guest time runs at `1 - p` from each row of `throttles` (host us, percent) on and stands still
    from `stop_us` on. QEMU throttles in turns (10 ms of guest, then a sleep): the line is straight
    where the guest moved by jerks.
    """

    zero_us: int
    throttles: Sequence[tuple[int, int]] = ()
    stop_us: int | None = None

    def guest_ns(self, host_us: Int64s) -> Int64s:
        """Return guest times, int64 ns, of host times, int64 us; before zero they are negative."""
        steps = [(self.zero_us, 0), *((t, p) for t, p in self.throttles if t > self.zero_us)]
        starts, bases = [steps[0][0]], [0]
        for (before, percent), (after, _) in pairwise(steps):
            # 1 us at 1 - p is 1000 ns * (100 - percent) / 100: exact in integers.
            bases.append(bases[-1] + (after - before) * 10 * (100 - percent))
            starts.append(after)
        if self.stop_us is not None:
            host_us = np.minimum(host_us, self.stop_us)
        at = np.maximum(np.searchsorted(starts, host_us, side="right") - 1, 0)
        rate = np.array([10 * (100 - percent) for _, percent in steps], np.int64)
        since = host_us - np.array(starts, np.int64)[at]
        return np.array(bases, np.int64)[at] + since * rate[at]

    def guest_ns_at(self, host_us: int) -> int:
        """Return the guest time in ns of one host time in us."""
        return int(self.guest_ns(np.array([host_us], np.int64))[0])
