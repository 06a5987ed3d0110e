"""Compile every kernel at once, so that no later replay stops to compile one."""

from __future__ import annotations

import pyarrow as pa

from replay.dirty_ring import DirtyRing
from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import strategy
from tracer.format import SAMPLED_FREELIST, SCHEMAS, Block, Meta
from tracer.trace import Trace


def warm() -> None:
    """Replay a guest of four pages in every way that has a kernel of its own."""
    trace = _tiny()
    trace.validate()
    for log_mode in ("legacy", "manual"):
        for name in ("hint-async", "hint-periodic"):
            for hold in ("none", "ack"):
                parameters = Parameters(
                    bandwidth=trace.meta.page_size * 1_000_000,
                    downtime_limit_ns=0,
                    log_mode="manual" if log_mode == "manual" else "legacy",
                    guest_hold="ack" if hold == "ack" else "none",
                    request_delay_ns=1_000,
                    report_delay_ns=5_000,
                    handle_delay_ns=0,
                    hint_interval_ns=2_000,
                    max_rounds=4,
                )
                replay(trace, strategy(name), parameters)
    ring = DirtyRing(trace, 1, 2)
    ring.begin(0)
    ring.harvest(trace.meta.duration_ns)


def _tiny() -> Trace:
    """A page is taken and written, perhaps or surely, while a report of it is under way."""
    meta = Meta(
        page_size=4096,
        pages=4,
        duration_ns=100_000,
        blocks=(Block("ram", 0, 4),),
        resolution="first-write",
        freelist_resolution="sampled",
    )
    dirty = {"t_ns": [2_500, 3_000, 9_000], "page": [0, 1, 0], "count": [1, 2, 2]}
    moves = {"t_ns": [0, 2_400, 12_000], "page": [1, 1, 2], "count": [3, 1, 1]}
    moves |= {"free": [True, False, False], "since_ns": [0, 2_000, 2_000]}
    zero = {"t_ns": [0, 20_000], "page": [3, 3], "count": [1, 1]}
    return Trace.from_tables(
        meta,
        dirty=pa.table(dirty, SCHEMAS["dirty"]),
        freelist=pa.table(moves, SAMPLED_FREELIST),
        zero=pa.table(zero, SCHEMAS["zero"]),
        epochs=pa.table({"t_ns": [50_000]}, SCHEMAS["epochs"]),
    )
