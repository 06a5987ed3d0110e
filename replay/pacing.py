"""What a throttled guest does: its work slower, or as fast as before.

A trace counts guest time, which a throttle slows (the model, section 2). That is right for a guest
that works as fast as its vCPUs let it. One that works at a pace of its own (so many requests a
second) catches up in the time that is left to it, up to a point. Which of the two a guest is shows
in a recording in which it was throttled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from replay.clock import Clock
from replay.columns import columns_of, merged
from replay.rewrites import fit, sightings
from tracer.format import TableName
from tracer.trace import Trace

#: An epoch says something of the guest's pace if so many pages came back in it.
_ENOUGH = 100

Throttles = Sequence[tuple[int, int]]


def on_host_time(trace: Trace, throttles: Throttles) -> Trace:
    """Return the trace with the host's times of its rows; throttles: (host ns, percent)."""
    clock = Clock()
    for host, percent in throttles:
        clock.throttle(host, percent)
    names: tuple[TableName, ...] = ("dirty", "freelist", "zero", "epochs")
    tables = {}
    for name in names:
        if name not in trace:
            continue
        columns = columns_of(trace, name)
        for key in ("t_ns", "since_ns"):
            if key in columns and len(columns[key]):
                t = columns[key]
                columns[key] = np.where(t > 0, clock.host_of(np.maximum(t, 1)), t)
        tables[name] = merged(columns)
    duration = clock.host(trace.meta.duration_ns)
    assert duration is not None, "no throttle takes all of a guest's time"
    meta = replace(trace.meta, duration_ns=duration, clock="host")
    return Trace.from_tables(meta, trace.name, **tables)


def keeps_pace(timed: Trace, throttles: Throttles) -> bool | None:
    """Return whether the guest worked as fast while it was throttled; None if that does not show.

    timed: the trace on the host's time. What came back in throttled epochs is compared with what
    would have come back had the throttle slowed the guest fully, or not at all.
    """
    seen = sightings(timed)
    model = fit(seen, timed.meta.pages)
    begins, ends = seen.edges[:-1], seen.edges[1:]
    returned = np.bincount(seen.epoch, minlength=len(begins)) >= _ENOUGH
    # Nothing can come back in the first epoch.
    returned[0] = False
    first = throttles[0][0] if throttles else ends[-1]
    before, after = returned & (ends <= first), returned & (begins >= first)
    if not before.any() or not after.any():
        return None
    clock = Clock()
    for host, percent in throttles:
        clock.throttle(host, percent)
    ran = np.array([clock.guest_at(int(end)) - clock.guest_at(int(begin))
                    for begin, end in zip(begins, ends, strict=True)])  # fmt: skip
    length = (ends - begins).astype(np.float64)
    pace = float(np.average(model.pace[after], weights=length[after]))
    free = float(np.average(model.pace[before], weights=length[before]))
    slowed = float(ran[after].sum() / length[after].sum())
    return pace / free > (1 + slowed) / 2
