"""Dirty-limit beside a live one: QEMU's set-vcpu-dirty-limit on a guest under KVM."""

from __future__ import annotations

import asyncio
import re
import statistics
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from replay.clock import Clock
from replay.dirty_limit import TOLERANCE, DirtyLimit, Limiter, Sleep
from replay.qemu_version import QemuVersion
from tests.recorders import boot
from tests.recorders.test_kvm_log import needs_kvm
from tests.replay.test_dirty_limit import MIB, PAGE, SECOND, trace_of
from tracer.recorders.kvm_demos import DEMOS
from tracer.recorders.qmp import connect

pytestmark = [boot.needs_qemu, needs_kvm]

#: cli; lgdt; protected mode, flat segments (marked as accessed: the table is in a ROM), then for
#: ever: for edi in 0x200000, 0x201000 .. 0x39ff000: incb (edi), and after each 16th page out to
#: port 0x80, which takes the vCPU out of KVM: some KVM looks at the ring only then.
FLAT = bytes.fromhex(
    "fa 2e660f01166000 0f20c0 0c01 0f22c0 66ea18000f000800 66b81000 8ed8 bf00002000 fe07 b901000000"
    "e2fe 81c700100000 f7c700f00000 7502 e680 81ff0000a003 72df ebd8 6690 0000000000000000"
    "ffff0000009bcf00 ffff00000093cf00 1700 48000f00"
)
START = bytes.fromhex("ea 0000 00f0")  # jmp 0xf000:0
FIRST, PAGES = 0x200, 0x3A00 - 0x200
RING = 4096
#: Periods (s) that are looked at, and how many of them the limit may take to settle.
PERIODS, SETTLED = 7, 2
#: Up to 10 with the thread and seconds before it, in 11 with date and time of day.
LINE = re.compile(r"(?:\d+@(\d+\.\d+):|(\S+)Z )(\w+) (.*)")


@pytest.fixture
def firmware(tmp_path):
    path = tmp_path / "firmware"
    code = FLAT.ljust(0xFFF0, b"\0") + START.ljust(16, b"\0")
    path.write_bytes(bytes(192 << 10) + code)
    return path


async def limited(socket: Path, limit: int, log: Path) -> tuple[QemuVersion, dict[str, int]]:
    """Limit the guest until enough periods are in the log; return the version and its answer."""
    monitor = await connect(socket)
    try:
        said = (await monitor.do("query-version"))["qemu"]
        await asyncio.sleep(1)
        await monitor.do("set-vcpu-dirty-limit", {"dirty-rate": limit})
        # A period lasts a second, and from 8.2 on as long as the vCPU sleeps then.
        for _ in range(3 * PERIODS):
            await asyncio.sleep(1)
            if len(followed(log)) > PERIODS:
                break
        (found,) = await monitor.do("query-vcpu-dirty-limit")
        await monitor.do("cancel-vcpu-dirty-limit")
        return QemuVersion(said["major"], said["minor"]), found
    finally:
        await monitor.close()


@dataclass
class Period:
    """A period that is over: when (s), its rate (MiB/s), for how many us vCPU 0 sleeps after it."""

    end: float
    rate: int
    slept: int | None = None


def followed(log: Path) -> list[Period]:
    """Return what QEMU told of each period."""
    periods: list[Period] = []
    for line in log.read_text().splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        seconds, clock, event, words = found.groups()
        if event == "dirtyrate_do_calculate_vcpu":
            at = float(seconds) if seconds else datetime.fromisoformat(clock).timestamp()
            periods.append(Period(at, int(words.split()[1])))
        elif event == "dirtylimit_vcpu_execute" and periods:
            periods[-1].slept = int(words.split()[2])
    return periods


def foretold(rate: int, limit: int, version: QemuVersion) -> list[Period]:
    """Return the periods of a guest that sweeps its pages as fast as this one.

    Rates as QEMU tells them: of a second, however long a period is.
    """
    run = 16
    step = SECOND * run * PAGE // (rate * MIB)
    rows = [
        (n * step, (n - 1) * run % PAGES, run) for n in range(1, (PERIODS + 1) * SECOND // step)
    ]
    trace = trace_of(rows, pages=PAGES, duration_ns=(PERIODS + 1) * SECOND)
    settings, clock = DirtyLimit(limit, ring=RING), Clock()
    limiter = Limiter(settings, trace, 1, 100, sleeps_out=version.sleeps_out)
    limiter.start(0, 0)
    guest, ends = [0], []
    while len(ends) < PERIODS:
        now = limiter.next_due
        if now == limiter.next_tick:
            ends.append(now / SECOND)
            guest.append(clock.guest(now))
        limiter.settle(now, clock.guest(now))
        clock.throttle(now, 0 if limiter.awake else 100)
    rates = [(after - before) * rate // SECOND for before, after in pairwise(guest)]
    return list(map(Period, ends, rates))


def settled(periods: list[Period]) -> tuple[float, float]:
    """Return the rate, and how many seconds a period lasts, once the limit has settled."""
    rate = statistics.mean(one.rate for one in periods[SETTLED:])
    return rate, (periods[-1].end - periods[SETTLED].end) / (len(periods) - SETTLED - 1)


@pytest.mark.parametrize("limit", [20, 60])
def test_a_live_limit_is_as_foretold(firmware, tmp_path, limit):
    log = tmp_path / "qemu.log"
    options = ["-accel", f"kvm,dirty-ring-size={RING}", "-m", "64", "-bios", str(firmware)]
    options += ["-msg", "timestamp=on", "-D", str(log)]
    for event in ("dirtyrate_do_calculate_vcpu", "dirtylimit_vcpu_execute"):
        options += ["-trace", event]
    with boot.running(tmp_path, DEMOS["hot"], *options) as (_, socket):
        version, told = asyncio.run(limited(socket, limit, log))
    assert told["limit-rate"] == limit
    periods = followed(log)[:PERIODS]
    assert len(periods) == PERIODS
    free = periods[0].rate
    if free < limit + 4 * TOLERANCE:
        pytest.skip(f"this host's KVM guest dirties {free} MiB/s: too little to be limited")
    # How long the vCPU sleeps, from the rates that QEMU saw: exactly.
    sleep = Sleep(limit, RING * PAGE >> 20)
    for one in periods:
        sleep.adjust(one.rate)
        assert one.slept in (None, sleep.us)
    assert periods[0].slept
    # What comes of it: as foretold from how fast the guest was before, which other loads change.
    real, lasts = settled(periods)
    model, expected = settled(foretold(free, limit, version))
    assert real == pytest.approx(model, rel=0.3)
    # At 60 a period's end is near that of a sleep: before or after hangs on the host.
    if limit == 20:
        assert lasts == pytest.approx(expected, rel=0.1)
    assert abs(real - limit) <= 2 * TOLERANCE
