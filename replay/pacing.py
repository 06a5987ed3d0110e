"""What a throttled guest does: its work slower, or as fast as before.

A trace counts guest time, which a throttle slows (the model, section 2). That is right for a guest
that works as fast as its vCPUs let it. One that works at a pace of its own (so many requests a
second) needs only a part of their time, its load, and falls behind once the throttle leaves less
than that. What load a guest has shows in a recording in which it was throttled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from replay.clock import Clock
from replay.columns import columns_of, merged
from replay.rewrites import sightings
from replay.throttle import TIMESLICE_NS, pace
from tracer.format import TableName
from tracer.rows import Int64s
from tracer.trace import Trace

#: Percent of its vCPUs' time that a guest needs that works as fast as they let it.
FULL_LOAD = 100
#: The guest's pace shows if an epoch without a throttle has so many first writes, ...
_ENOUGH = 100
#: ... and those of a throttle so many slices of a throttled vCPU.
_SLICES = 4

Throttles = Sequence[tuple[int, int]]


def at_work(trace: Trace, throttles: Throttles, load: int) -> Trace:
    """Return the trace on the clock of the guest's work; throttles: (host ns, percent).

    That clock stands to host time as guest time does, but that a throttle slows it only where it
    leaves less than the load.
    """
    guest, work = _clock(throttles, 100), _clock(throttles, load)

    def moved(t: Int64s) -> Int64s:
        return np.where(t > 0, work.guest_of(guest.host_of(np.maximum(t, 1))), t)

    names: tuple[TableName, ...] = ("dirty", "freelist", "zero", "epochs")
    tables = {}
    for name in (name for name in names if name in trace):
        columns = columns_of(trace, name)
        for key in ("t_ns", "since_ns"):
            if key in columns and len(columns[key]):
                columns[key] = moved(columns[key])
        tables[name] = merged(columns)
    duration = int(moved(np.array([trace.meta.duration_ns]))[0])
    return Trace.from_tables(
        replace(trace.meta, duration_ns=duration, clock="work"), trace.name, **tables
    )


def load_of(trace: Trace, throttles: Throttles) -> int | None:
    """Return the load (percent) of the guest that was recorded, None if that does not show.

    Compares how many pages are written first in the epochs of each throttle and in those without
    one: the load is that which explains them best (least squares).
    """
    clock = _clock(throttles, 100)
    seen = sightings(trace)
    edges = clock.host_of(np.maximum(np.unique(np.append(seen.begins, seen.end - 1)), 1))
    begins, lengths = edges[:-1], np.diff(edges)
    host = np.sort(clock.host_of(seen.t))
    steps = np.array([0, *(when for when, _ in throttles)])
    percents = np.array([0, *(percent for _, percent in throttles)])
    # A throttle is changed by the sync that ends the epoch before.
    percent = percents[np.searchsorted(steps, begins + lengths // 2, side="right") - 1]
    usual = _Usual(host, begins[percent == 0], lengths[percent == 0])
    loads, misses = np.arange(1, 101), np.zeros(100)
    shown = False
    for step in np.unique(percent[percent > 0]).tolist():
        looks = np.minimum(lengths[percent == step], usual.longest)
        # A vCPU that runs for a slice and then sleeps for long shows no pace in a short look.
        if int(looks.sum()) * (100 - step) < _SLICES * TIMESLICE_NS * 100:
            continue
        shown = True
        wrote = _between(host, begins[percent == step], looks).sum()
        at = [usual.after(looks * pace(step, load) // 100).sum() for load in loads.tolist()]
        misses += (np.array(at) - wrote) ** 2
    if not shown or usual.after(np.array([usual.longest])).sum() < _ENOUGH:
        return None
    # Of loads that explain alike, the largest: the least is made up.
    return int(loads[::-1][np.argmin(misses[::-1])])


def _between(host: Int64s, begins: Int64s, looks: Int64s) -> Int64s:
    return np.searchsorted(host, begins + looks) - np.searchsorted(host, begins)


class _Usual:
    """How many pages are written first within some time in an epoch without a throttle."""

    def __init__(self, host: Int64s, begins: Int64s, lengths: Int64s):
        self._host, self._begins, self._lengths = host, begins, lengths
        self.longest = int(lengths.max(initial=0))

    def after(self, looks: Int64s) -> npt.NDArray[np.float64]:
        """Return it for each of some ns, none above `longest`, as the mean of epochs so long."""
        long_enough = self._lengths[:, None] >= looks
        wrote = _between(self._host, self._begins[:, None], looks) * long_enough
        mean: npt.NDArray[np.float64] = wrote.sum(axis=0) / np.maximum(long_enough.sum(axis=0), 1)
        return mean


def _clock(throttles: Throttles, load: int) -> Clock:
    clock = Clock()
    for host, percent in throttles:
        clock.throttle(host, 100 - pace(percent, load))
    return clock
