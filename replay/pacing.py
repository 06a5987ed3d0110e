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

from replay.clock import Clock
from replay.columns import columns_of, merged
from replay.rewrites import sightings
from replay.throttle import TIMESLICE_NS, pace
from tracer.format import TableName
from tracer.rows import Flags, Int64s
from tracer.trace import Trace

#: An epoch says something of the guest's pace by the first writes in its first so many ns, ...
_LOOK_NS = 500_000_000
#: ... if it is long enough, and if there are so many in all throttled and unthrottled epochs.
_ENOUGH = 100

#: It must see so many slices of a throttled vCPU.
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

    Compares how many pages are written first as an epoch begins, throttled and not: the load is
    that which explains the epochs best (least squares).
    """
    seen = sightings(trace)
    clock = _clock(throttles, 100)
    edges = clock.host_of(np.maximum(np.unique(np.append(seen.begins, seen.end - 1)), 1))
    begins, length = edges[:-1], np.minimum(np.diff(edges), _LOOK_NS)
    host = np.sort(clock.host_of(seen.t))
    steps = np.array([0, *(when for when, _ in throttles)])
    percents = np.array([0, *(percent for _, percent in throttles)])
    # A throttle is changed by the sync that ends the epoch before.
    percent = percents[np.searchsorted(steps, begins + _LOOK_NS // 2, side="right") - 1]
    # A vCPU that runs for a slice and then sleeps for long shows no pace in so short a look.
    usable = (length == _LOOK_NS) & (_LOOK_NS * (100 - percent) >= _SLICES * TIMESLICE_NS * 100)
    free, slowed = usable & (percent == 0), usable & (percent > 0)

    def written(which: Flags, look_ns: int) -> Int64s:
        begin = begins[which]
        return np.searchsorted(host, begin + look_ns) - np.searchsorted(host, begin)

    if written(free, _LOOK_NS).sum() < _ENOUGH or not slowed.any():
        return None
    # At half the pace, what else would have been written in half the time.
    usual = np.array([written(free, _LOOK_NS * part // 100).mean() for part in range(101)])
    loads = np.arange(1, 101)
    paces = np.minimum(100, (100 - percent[slowed])[None, :] * 100 // loads[:, None])
    misses = ((written(slowed, _LOOK_NS) - usual[paces]) ** 2).sum(axis=1)
    # Of loads that explain alike, the largest: the least is made up.
    return int(loads[::-1][np.argmin(misses[::-1])])


def _clock(throttles: Throttles, load: int) -> Clock:
    clock = Clock()
    for host, percent in throttles:
        clock.throttle(host, 100 - pace(percent, load))
    return clock
