"""Dirty-limit beside a live one: QEMU's set-vcpu-dirty-limit on a guest under KVM."""

from __future__ import annotations

import asyncio
import re
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from replay.clock import Clock
from replay.dirty_limit import TOLERANCE, DirtyLimit, Limiter, Sleep
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
SECONDS, SETTLED = 7, 2
LINE = re.compile(r"\d+@\d+\.\d+:(\w+) (.*)")


@pytest.fixture
def firmware(tmp_path):
    path = tmp_path / "firmware"
    code = FLAT.ljust(0xFFF0, b"\0") + START.ljust(16, b"\0")
    path.write_bytes(bytes(192 << 10) + code)
    return path


async def limited(socket: Path, limit: int) -> list[dict[str, int]]:
    monitor = await connect(socket)
    try:
        await asyncio.sleep(1)
        await monitor.do("set-vcpu-dirty-limit", {"dirty-rate": limit})
        await asyncio.sleep(SECONDS + 0.5)
        found = await monitor.do("query-vcpu-dirty-limit")
        await monitor.do("cancel-vcpu-dirty-limit")
        return found
    finally:
        await monitor.close()


def followed(log: Path) -> list[tuple[int, int | None]]:
    """Return each period's rate (MiB/s), and for how many us vCPU 0 slept after it, if it did."""
    rates: list[tuple[int, int | None]] = []
    for line in log.read_text().splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        if found[1] == "dirtyrate_do_calculate_vcpu":
            rates.append((int(found[2].split()[1]), None))
        elif found[1] == "dirtylimit_vcpu_execute" and rates:
            rates[-1] = (rates[-1][0], int(found[2].split()[2]))
    return rates


def foretold(rate: int, limit: int) -> list[int]:
    """Return the rates of the periods of a guest that sweeps its pages as fast as this one."""
    run = 16
    step = SECOND * run * PAGE // (rate * MIB)
    rows = [
        (n * step, (n - 1) * run % PAGES, run) for n in range(1, (SECONDS + 1) * SECOND // step)
    ]
    trace = trace_of(rows, pages=PAGES, duration_ns=(SECONDS + 1) * SECOND)
    limiter, clock = Limiter(DirtyLimit(limit, ring=RING), trace, 1, 100), Clock()
    limiter.start(0, 0)
    guest = [0]
    for _ in range(SECONDS):
        now = limiter.next_tick
        guest.append(clock.guest(now))
        if limiter.tick(now, guest[-1]):
            clock.throttle(now, 100 - limiter.pace)
    return [(after - before) * rate // SECOND for before, after in pairwise(guest)]


@pytest.mark.parametrize("limit", [20, 60])
def test_a_live_limit_is_as_foretold(firmware, tmp_path, limit):
    log = tmp_path / "qemu.log"
    options = ["-accel", f"kvm,dirty-ring-size={RING}", "-m", "64", "-bios", str(firmware)]
    options += ["-msg", "timestamp=on", "-D", str(log)]
    for event in ("dirtyrate_do_calculate_vcpu", "dirtylimit_vcpu_execute"):
        options += ["-trace", event]
    with boot.running(tmp_path, DEMOS["hot"], *options) as (_, socket):
        (told,) = asyncio.run(limited(socket, limit))
    assert told["limit-rate"] == limit
    periods = followed(log)[:SECONDS]
    free = periods[0][0]
    if free < limit + 4 * TOLERANCE:
        pytest.skip(f"this host's KVM guest dirties {free} MiB/s: too little to be limited")
    # How long the vCPU sleeps, from the rates that QEMU saw: exactly.
    sleep = Sleep(limit, RING * PAGE >> 20)
    for rate, slept in periods:
        sleep.adjust(rate)
        assert slept in (None, sleep.us)
    assert periods[0][1]
    # What comes of it: as foretold from how fast the guest was before, which other loads change.
    real = statistics.mean(rate for rate, _ in periods[SETTLED:])
    model = statistics.mean(foretold(free, limit)[SETTLED:])
    assert real == pytest.approx(model, rel=0.3)
    assert abs(real - limit) <= 2 * TOLERANCE
