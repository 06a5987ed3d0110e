"""One bandwidth foretold from a recording at another: write traces, thinned to what a log shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from replay.engine import Migration
from replay.parameters import Parameters
from replay.profiles import Outcome, profile
from replay.scenarios import Readings
from replay.strategies import strategy
from tracer import Block, Meta, Trace

SECOND = 10**9
PAGES = 8192
#: Bytes/s at which the recording is made: the whole guest takes 3.2 s.
RECORDED = 10 << 20
KNOBS = Parameters(profile="qemu", downtime_limit_ns=300_000_000, line_rate=1 << 30)


def _ordered(t, page):
    order = np.argsort(t, kind="stable")
    return t[order], page[order]


def sweeping(rng):
    """A quarter of memory in order, at 800 pages/s."""
    t = np.arange(1, 40 * 800) * (SECOND // 800) + rng.integers(0, 1_000_000, 40 * 800 - 1)
    return _ordered(t, 1024 + np.arange(len(t)) % 2048)


def uniform(rng):
    """600 writes/s all over three eighths of memory."""
    t = rng.integers(1, 40 * SECOND, 40 * 600)
    return _ordered(t, 1024 + rng.integers(0, 3072, len(t)))


def hot(rng):
    """1,000 writes/s, nine of ten on 256 pages, the rest on 4096."""
    t = rng.integers(1, 40 * SECOND, 40 * 1000)
    page = np.where(rng.random(len(t)) < 0.9, rng.integers(0, 256, len(t)),
                    rng.integers(0, 4096, len(t)))  # fmt: skip
    return _ordered(t, 1024 + page)


def collecting(rng):
    """Sweeps over an eighth of memory at 2,000 pages/s, two seconds apart, and some at random."""
    begin = np.arange(15) * 2.6 * SECOND
    t = (begin[:, None] + np.arange(1024) * (SECOND / 2000)).ravel().astype(np.int64) + 1
    other = rng.integers(1, 40 * SECOND, 40 * 100)
    page = np.append(np.tile(2048 + np.arange(1024), 15), rng.integers(4096, 5000, len(other)))
    return _ordered(np.append(t, other), page)


def thinned(t, page, edges):
    """Only the first write to each page in each epoch."""
    epoch = np.searchsorted(edges, t, side="right")
    _, first = np.unique(epoch * PAGES + page, return_index=True)
    first.sort()
    return t[first], page[first]


def _table(t, page):
    return pa.table({"t_ns": t, "page": page, "count": np.ones_like(page)})


def trace_of(t, page, resolution, epochs, duration_ns) -> Trace:
    meta = Meta(
        page_size=4096,
        pages=PAGES,
        duration_ns=duration_ns,
        blocks=(Block("pc.ram", 0, PAGES),),
        resolution=resolution,
        freelist_resolution=None,
    )
    none = np.empty(0, np.int64)
    trace = Trace.from_tables(
        meta,
        dirty=_table(t, page),
        zero=_table(none, none),
        epochs=pa.table({"t_ns": np.array(epochs, np.int64)}),
    )
    trace.validate()
    return trace


def truth(guest, bandwidth) -> tuple[Outcome, list[int]]:
    """The migration of a guest of which every write is known, and the guest times of its syncs."""
    knobs = replace(KNOBS, bandwidth=bandwidth)
    migration = Migration(trace_of(*guest, "write", [], 40 * SECOND), strategy("precopy"), knobs)
    outcome = profile("qemu")(migration)
    assert outcome.stop_ns is not None, "the guest is to converge"
    return outcome, [event.guest_ns for event in migration.events if event.kind == "sync"]


def recording(guest, resolution) -> Trace:
    """What a migration at RECORDED shows of the guest."""
    t, page = guest
    outcome, syncs = truth(guest, RECORDED)
    assert outcome.stop_ns is not None
    kept = t < outcome.stop_ns
    t, page = t[kept], page[kept]
    edges = sorted({0, *(sync for sync in syncs if sync < outcome.stop_ns)})
    if resolution == "write":
        return trace_of(t, page, "write", [], outcome.stop_ns)
    t, page = thinned(t, page, edges)
    if resolution == "first-write":
        return trace_of(t, page, "first-write", edges, outcome.stop_ns)
    ends = np.array([*edges[1:], outcome.stop_ns])
    t = ends[np.searchsorted(edges, t, side="right") - 1]
    return trace_of(*_ordered(t, page), "epoch", ends, outcome.stop_ns)


def foretold(trace, bandwidth) -> Outcome:
    readings = Readings(trace, replace(KNOBS, bandwidth=bandwidth, at_end="continue"))
    scenario = "exact" if trace.meta.resolution == "write" else "expected"
    for reading in readings.of(scenario):
        migration = Migration(reading, strategy("precopy"), readings.parameters(scenario))
        outcome = profile("qemu")(migration)
        if outcome.reason != "trace-exhausted":
            break
    return outcome


def _pages(outcome: Outcome) -> int:
    return outcome.course[-1].pages_sent


CASES = [
    (guest, times)
    for guest in (sweeping, uniform, hot, collecting)
    for times in (0.75, 1, 2, 4)
    # A recording too short for a second collection does not show how long they are apart.
    if (guest, times) != (collecting, 0.75)
]


@pytest.mark.parametrize(("guest", "times"), CASES)
@pytest.mark.parametrize(
    ("resolution", "within"), [("write", 0.02), ("first-write", 0.05), ("epoch", 0.08)]
)
def test_another_bandwidth(guest, resolution, within, times):
    """Pages and time: of writes known but for the future, of first writes, of bitmaps."""
    writes = guest(np.random.default_rng(1))
    real, _ = truth(writes, int(RECORDED * times))
    told = foretold(recording(writes, resolution), int(RECORDED * times))
    assert _pages(told) == pytest.approx(_pages(real), rel=within)
    assert told.end_ns == pytest.approx(real.end_ns, rel=within, abs=100_000_000)
