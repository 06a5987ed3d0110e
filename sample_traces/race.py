"""Make `race.trace`: the lost update of the 2016 free-page discussion, in 64 pages of 8 MiB.

Everything is laid out around the defaults of a replay: 1 ms from request to snapshot, 10 ms to
the queue, 1 ms to the handling (so at 12 ms), 1.25 GB/s and 300 ms of downtime, which is 375 MB or
44 such pages. The times are in the README beside this file.

    PYTHONPATH=. python sample_traces/race.py OUT.trace
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tracer import Block, Meta, TraceWriter

MS = 1_000_000
PAGES, PAGE_SIZE = 64, 8 << 20
#: Written by the guest in round 1 after the cursor has passed: more than fits in the downtime.
BUSY = range(50)
#: Free at the snapshot and to the end: skipping it is what hints are for.
IDLE = 59
#: Free at the snapshot, then taken and written before the report is handled.
VICTIM = 60
#: The one page with content at the start: round 1 is copying it from 0.4 us to 6.7 ms.
LARGE = 63


def make_race(path: Path, *, force: bool = False) -> None:
    """Write the trace to `path`."""
    with TraceWriter(path, force=force) as writer:
        writer.write("freelist", t_ns=[0], page=[IDLE], count=[2], free=[True])
        writer.write("zero", t_ns=[0], page=[0], count=[LARGE])
        writer.write("dirty", t_ns=[MS // 2], page=[0], count=np.array([len(BUSY)]))
        writer.write("freelist", t_ns=[3 * MS], page=[VICTIM], count=[1], free=[False])
        writer.write("dirty", t_ns=[4 * MS], page=[VICTIM], count=[1])
        writer.finish(
            Meta(
                page_size=PAGE_SIZE,
                pages=PAGES,
                duration_ns=2_000 * MS,
                blocks=(Block("ram", 0, PAGES),),
                resolution="write",
                freelist_resolution="event",
                source={"recorder": "made by hand", "script": "sample_traces/race.py"},
            )
        )


if __name__ == "__main__":
    make_race(Path(sys.argv[1]), force=True)
