"""Dirty-limit: the control loop by hand, a ring by hand, and what it does to a migration.

The whole of it is held against a loop written down in `tests.replay.test_qemu_profile`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from replay.dirty_limit import TOLERANCE, DirtyLimit, Limiter, Sleep
from replay.dirty_ring import DirtyRing
from replay.engine import Migration
from replay.parameters import Parameters
from replay.profiles import Outcome, profile
from replay.qemu_version import QemuVersion
from replay.strategies import strategy
from replay.throttle import AutoConverge
from tracer import Block, Meta, Trace, UsageError

SECOND, MS = 10**9, 10**6
PAGE = 4096
MIB = 1 << 20


def trace_of(rows: list[tuple[int, int, int]], *, pages: int, duration_ns: int) -> Trace:
    meta = Meta(
        page_size=PAGE,
        pages=pages,
        duration_ns=duration_ns,
        blocks=(Block("ram", 0, pages),),
        resolution="write",
    )
    t, page, count = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    trace = Trace.from_tables(meta, dirty=pa.table({"t_ns": t, "page": page, "count": count}))
    trace.validate()
    return trace


def sweeping(rate: int, *, seconds: int = 60) -> Trace:
    """A guest that writes 512 MiB from front to back, again and again, at so many MiB/s."""
    run, pages = 64, 512 * MIB // PAGE
    step = SECOND * run * PAGE // (rate * MIB)
    rows = [
        (n * step, (n - 1) * run % pages, run) for n in range(1, seconds * SECOND // step)
    ]  # fmt: skip
    return trace_of(rows, pages=pages, duration_ns=seconds * SECOND)


def migrate(trace: Trace, **given) -> tuple[Migration, Outcome]:
    knobs = Parameters(bandwidth=100 * MIB, downtime_limit_ns=100_000_000, profile="qemu")
    migration = Migration(trace, strategy("precopy"), replace(knobs, **given))
    return migration, profile("qemu")(migration)


def test_the_sleep_by_hand():
    """A ring of 16 MiB fills in 40 ms at 400 MiB/s, the most seen: steps are shares of that."""
    sleep, slept = Sleep(100, 16), []
    for rate in (400, 250, 180, 120, 60, 20, 20, 400, 0):
        sleep.adjust(rate)
        slept.append(sleep.us)
    assert slept == [
        120_000,  # 75 % too fast: three times the fill, for a quarter of the rate
        180_000,  # 60 % too fast: 40 ms * 60 / 40
        184_000,  # 44 % too fast: a tenth of the fill
        184_000,  # near enough
        180_000,  # 40 % too slow: a tenth
        20_000,  # 80 % too slow: 40 ms * 80 / 20
        0,
        120_000,
        0,  # a vCPU that dirties nothing does not sleep
    ]


def test_the_longest_sleep():
    sleep = Sleep(1, 16)
    for rate in (400, 400, 200):
        sleep.adjust(rate)
        assert sleep.us == 99 * 40_000


def test_a_ring_by_hand():
    """Of four entries: a page is entered once until the ring is full or harvested."""
    rows = [(1, 0, 2), (2, 0, 3), (3, 7, 1), (4, 0, 2), (5, 1, 1), (9, 1, 1)]
    ring = DirtyRing(trace_of(rows, pages=128, duration_ns=10), 1, 4)
    ring.begin(0)
    ring.harvest(2)
    assert ring.taken() == 3
    ring.harvest(3)
    assert ring.taken() == 1
    ring.harvest(5)
    assert ring.taken() == 2
    ring.harvest(9)
    assert (ring.taken(), ring.taken()) == (1, 0)
    full = DirtyRing(trace_of([(1, 0, 6), (2, 0, 6)], pages=128, duration_ns=10), 1, 4)
    full.begin(0)
    full.harvest(2)
    assert full.taken() == 12  # 0 to 3, full; 4, 5, 0, 1, full; 2 to 5, full


def test_a_ring_that_begins_later_and_a_trace_that_repeats():
    ring = DirtyRing(trace_of([(1, 0, 2), (5, 5, 1)], pages=8, duration_ns=10), 3, 16)
    ring.begin(3)
    ring.harvest(11)
    assert ring.taken() == 3
    ring.harvest(100)
    assert ring.taken() == 3  # page 5 was in it when it came again


@pytest.mark.parametrize("limit", [40, 60])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_guest_is_brought_to_the_limit(limit, vcpus):
    trace = sweeping(400)
    assert migrate(trace)[1].reason == "trace-exhausted"
    settings = DirtyLimit(rate=limit // vcpus, vcpus=vcpus)
    migration, outcome = migrate(
        trace, dirty_limit=settings, downtime_limit_ns=300 * MS, qemu=QemuVersion(8, 2)
    )
    assert outcome.throttles
    stop = outcome.stop_ns or outcome.end_ns
    ran = migration.clock.guest_at(stop) - migration.clock.guest_at(stop - 5 * SECOND)
    assert abs(ran * 400 // (5 * SECOND) - limit) <= TOLERANCE * vcpus


def test_a_migration_is_brought_to_an_end_where_a_window_outdoes_a_ring():
    """A sync waits until the ring was full once more: 16 MiB, of which 10 go out in a window."""
    for bandwidth, reason in ((100, "trace-exhausted"), (200, "downtime-limit")):
        found = {}
        for limit in (None, DirtyLimit(20)):
            rates = {"bandwidth": bandwidth * MIB, "qemu": QemuVersion(8, 2)}
            found[limit] = migrate(sweeping(400), dirty_limit=limit, **rates)[1].reason
        assert list(found.values()) == ["trace-exhausted", reason]


@pytest.mark.parametrize("sleeps_out", [False, True])
def test_a_kicked_vcpu_by_hand(sleeps_out):
    """A ring fills in 40 ms; to keep to 10 of 400 MiB/s, the vCPU sleeps 97/3 as long."""
    limiter = Limiter(DirtyLimit(10, reserved=0), sweeping(400), 1, 100, sleeps_out=sleeps_out)
    limiter.start(0, 0)
    assert limiter.next_due == SECOND
    limiter.settle(SECOND, SECOND)
    assert (limiter.awake, limiter.held, limiter.next_due) == (True, 96, SECOND + 40 * MS)
    limiter.settle(SECOND + 40 * MS, SECOND + 40 * MS)
    wakes = SECOND + 40 * MS + 1_293_333_000
    assert (limiter.awake, limiter.asleep_for(SECOND + 40 * MS - 1)) == (False, 0)
    assert limiter.asleep_for(SECOND + 500 * MS) == sleeps_out * (wakes - SECOND - 500 * MS)
    assert limiter.asleep_for(wakes) == 0
    assert limiter.next_tick == limiter.next_due == (wakes if sleeps_out else 2 * SECOND)
    # A sync wakes it, or comes when it has slept; then it has an empty ring.
    kicked = wakes if sleeps_out else SECOND + 500 * MS
    limiter.synced(kicked, SECOND + 40 * MS, 0, 0)
    assert (limiter.awake, limiter.asleep_for(kicked + 39 * MS)) == (True, 0)
    assert bool(limiter.asleep_for(kicked + 40 * MS)) == sleeps_out


def test_a_limit_that_is_kept_anyway_does_nothing():
    free, limited = (
        migrate(sweeping(200), dirty_limit=settings) for settings in (None, DirtyLimit(rate=190))
    )
    assert limited[1].throttles == ()
    assert limited[1].end_ns == free[1].end_ns


def test_a_small_load_is_slowed_less():
    paces = [
        migrate(sweeping(400), dirty_limit=DirtyLimit(rate=100), guest_load=load)[1].throttles[0][1]
        for load in (100, 25)
    ]
    assert paces[0] > paces[1]


@pytest.mark.parametrize(
    "given",
    [{"rate": 0}, {"period_ms": 0}, {"period_ms": 1001}, {"vcpus": 0}, {"ring": 100}, {"ring": 0}],
)
def test_what_qemu_does_not_take(given):
    with pytest.raises(UsageError, match="dirty limit"):
        DirtyLimit(**given)


def test_one_at_a_time():
    with pytest.raises(UsageError, match="one of them at a time"):
        Parameters(auto_converge=AutoConverge(), dirty_limit=DirtyLimit())
