"""What a recording shows of each page: when it was seen written, and for how long it was not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from replay.grouped import grouped
from replay.rewrites.waits import around
from tracer.rows import Flags, Int64s
from tracer.trace import Trace


@dataclass(frozen=True)
class Sightings:
    """The writes that were seen, ordered by page, then by time.

    t: int64 guest ns. page: int64, dense. begins: int64, from when the epoch could have shown the
    write. closes: int64, up to when later writes of the page go unseen: the end of the epoch, `t`
    itself where every write was recorded. end: where the recording ends.
    """

    t: Int64s
    page: Int64s
    begins: Int64s
    closes: Int64s
    end: int

    @property
    def first(self) -> Flags:
        """Whether a sighting is its page's first."""
        return np.append(True, self.page[1:] != self.page[:-1])[: len(self.page)]

    def only(self, kept: Flags) -> Sightings:
        """Return some of the sightings."""
        columns = (self.t[kept], self.page[kept], self.begins[kept], self.closes[kept])
        return Sightings(*columns, self.end)

    def at(self, t: Int64s) -> Sightings:
        """Return the sightings at other instants of their epochs."""
        return replace(self, t=t)


def sightings(trace: Trace) -> Sightings:
    """Return the recorded writes of a trace, runs of pages taken apart.

    Those of an `epoch` trace stand at their epochs' ends.
    """
    found = grouped(trace, "dirty", after=0)
    t, page = found.t, np.repeat(np.arange(trace.meta.pages), np.diff(found.first))
    end = trace.meta.duration_ns + 1
    if trace.meta.resolution == "write":
        return Sightings(t, page, t, t, end)
    edges = np.union1d(trace.epochs[trace.epochs >= 0], [0, end])
    # First-write epochs end before the dirty rows of their instant, `epoch` epochs after them.
    begins, closes = around(t, edges, trace.meta.resolution == "epoch")
    return Sightings(t, page, begins, closes, end)
