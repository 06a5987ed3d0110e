"""Profile `qemu` against QEMU's loop written down literally."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from replay import dirty_limit, stream, throttle
from replay.dirty_limit import DirtyLimit
from replay.engine import Migration
from replay.parameters import Parameters
from replay.profiles import Outcome, profile, qemu
from replay.qemu_version import QemuVersion
from replay.strategies import strategy
from replay.throttle import AutoConverge, Throttle, sleep_left
from tests.replay import qemu_reference
from tests.replay.qemu_reference import Guest, Settings
from tracer import Block, Meta, Trace

SECOND = 10**9
PAGE = 4096


def random_guest(rng: random.Random) -> Guest:
    blocks = [(f"block{'x' * rng.randrange(4)}{n}", rng.choice([1, 3, 64, 70, 200]))
              for n in range(rng.randrange(1, 4))]  # fmt: skip
    pages = sum(count for _, count in blocks)
    duration = rng.choice([2, 5, 20]) * SECOND
    hot = rng.sample(range(pages), rng.randrange(1, pages + 1))
    times = sorted(rng.randrange(1, duration) for _ in range(rng.choice([50, 800, 5000])))
    dirty, zero = [], [(0, page) for page in range(pages) if rng.random() < 0.3]
    for t in times:
        page = rng.choice(hot)
        dirty.append((t, page))
        if rng.random() < 0.2:
            zero.append((t, page))
    return Guest(PAGE, blocks, dirty, zero, duration)


def random_case(seed: int) -> tuple[Guest, Settings]:
    rng = random.Random(seed)
    guest, settings = random_guest(rng), random_settings(rng)
    late_ns = rng.choice([(0,), (0,), (0, 1, 700_000_000, 33_000_000), (99_999_999,)])
    return guest, replace(settings, late_ns=late_ns)


def random_settings(rng: random.Random) -> Settings:
    return Settings(
        # Near whole pages a window, where a few bytes more or less decide on the last one.
        max_bandwidth=rng.choice([2, 7, 30, 80]) * (PAGE + 8) * 10 + rng.randrange(-300, 300),
        downtime_limit_ms=rng.choice([1, 30, 100, 300]),
        line_rate=rng.choice([100_000, 999_983, 40_000_000, 1_280_000_000]),
        zero_page_ns=rng.choice([0, 333, 2_000_001]),
        wake_ns=rng.choice([0, 100_000, 1_300_000]),
        stop_ns=rng.choice([0, 1, 2_000_000, 700_000_000]),
        device_bytes=rng.choice([0, 1, 70_001, 50_000_000]),
        manual=rng.random() < 0.4,
        clear_chunk=rng.choice([1, 10, 64, 1 << 18]),
        throttle=rng.choice([None, (50, 20, 10, 99), (10, 60, 30, 90)]),
        tailslow=rng.random() < 0.5,
        sync_waits=rng.random() < 0.5,
    )


def later_case(seed: int) -> tuple[Guest, Settings]:
    """Versions after 7.2; some guests are mostly zero pages, which a buffer holds many of."""
    rng = random.Random(seed)
    guest, settings = random_case(seed)
    if rng.random() < 0.3:
        blocks = [("pc.ram", rng.choice([4000, 7000])), ("x" * rng.randrange(1, 30), 70)]
        pages = sum(count for _, count in blocks)
        full = set(rng.sample(range(pages), rng.choice([0, 1, 40, 400])))
        zero = [(0, page) for page in range(pages) if page not in full]
        dirty = [(t, page) for t, page in guest.dirty if page < pages]
        late = [(t, page) for t, page in guest.zero if t > 0 and page < pages]
        guest = replace(guest, blocks=blocks, dirty=dirty, zero=zero + late)
        settings = replace(settings, manual=False)
    if rng.random() < 0.4:
        settings = replace(
            settings, throttle=(rng.choice([1, 10]), 20, 30, 95), sync_waits=rng.random() < 0.5,
            downtime_limit_ms=1,
        )  # fmt: skip
    version = rng.choice([(8, 2), (9, 2), (10, 0), (10, 1), (11, 0), (11, 1)])
    rate = settings.max_bandwidth
    switchover = rng.choice([0, 0, 999, 1000, rate // 5, rate + 1, 3 * rate])
    return guest, replace(settings, version=version, avail_switchover_bandwidth=switchover)


def as_trace(guest: Guest) -> Trace:
    blocks, first = [], 0
    for name, count in guest.blocks:
        blocks.append(Block(name, first, count))
        first += count
    meta = Meta(
        page_size=guest.page_size,
        pages=first,
        duration_ns=guest.duration_ns,
        blocks=tuple(blocks),
        resolution="write",
    )
    trace = Trace.from_tables(meta, dirty=_table(guest.dirty), zero=_table(guest.zero))
    trace.validate()
    return trace


def _table(rows: list[tuple[int, int]]) -> pa.Table:
    t, page = (np.array([row[i] for row in rows], np.int64) for i in range(2))
    return pa.table({"t_ns": t, "page": page, "count": np.ones(len(rows), np.int64)})


def as_parameters(settings: Settings) -> Parameters:
    converge = None
    if settings.throttle is not None:
        converge = AutoConverge(*settings.throttle, tailslow=settings.tailslow)
    # The loop of 8.1, the first with dirty-limit, is that of 7.2.
    first = (7, 2) if settings.dirty_limit is None else (8, 1)
    return Parameters(
        bandwidth=settings.max_bandwidth,
        downtime_limit_ns=settings.downtime_limit_ms * 10**6,
        profile="qemu",
        log_mode="manual" if settings.manual else "legacy",
        clear_chunk=settings.clear_chunk,
        line_rate=settings.line_rate,
        zero_page_ns=settings.zero_page_ns,
        wake_ns=settings.wake_ns,
        lost_ns=settings.late_ns,
        stop_ns=settings.stop_ns,
        device_bytes=settings.device_bytes,
        qemu=QemuVersion(*max(settings.version, first)),
        switchover_bandwidth=settings.avail_switchover_bandwidth or None,
        auto_converge=converge,
        dirty_limit=None if settings.dirty_limit is None else as_limit(settings.dirty_limit),
        sync_waits=settings.sync_waits,
    )


def as_limit(limit: tuple[int, int, int, int, int, int]) -> DirtyLimit:
    return DirtyLimit(*limit)


def replayed(trace: Trace, parameters: Parameters) -> tuple[Migration, Outcome]:
    watch = np.arange(trace.meta.pages, dtype=np.int64)
    migration = Migration(trace, strategy("precopy"), parameters, watch=watch)
    return migration, profile("qemu")(migration)


def copies(migration: Migration, stop: int | None) -> list[tuple[int, int]]:
    """When which page was copied while the guest ran."""
    found: list[tuple[int, int]] = []
    for event in migration.events:
        if event.kind == "pass" and event.passed is not None and event.sent is not None:
            pages = np.flatnonzero(event.sent)
            found += zip(event.passed[pages].tolist(), pages.tolist(), strict=True)
    return [copy for copy in found if stop is None or copy[0] < stop]


def differences(guest: Guest, settings: Settings) -> list[str]:
    """Say in what the engine differs from the loop written down."""
    wanted = qemu_reference.Migration(guest, settings)
    wanted.run()
    migration, outcome = replayed(as_trace(guest), as_parameters(settings))
    last, rows = outcome.course[-1], outcome.rounds
    size = wanted.ram_bytes
    if settings.version >= (8, 2):
        size = wanted.file.transferred
        if wanted.stop is not None:
            size = wanted.file.put + settings.device_bytes
    names = size - wanted.sent * (guest.page_size + 8) - wanted.zeros * 9
    pairs = {
        "end": (outcome.end_ns, wanted.now),
        "stop": (outcome.stop_ns, wanted.stop),
        "pages": (last.pages_sent, wanted.sent),
        "zero pages": (last.zero_pages_sent, wanted.zeros),
        "bytes": (last.wire_bytes, size),
        "syncs": (last.syncs, wanted.syncs),
        "throttles": (list(outcome.throttles), wanted.throttles),
        "pages of all rounds": (sum(row.pages_sent for row in rows), wanted.sent),
        "framing": (outcome.framing, names),
    }
    if wanted.stop is not None:
        running = [copy for copy in wanted.copies if copy[0] < wanted.stop]
        pairs["copies"] = (copies(migration, wanted.stop), running)
    return [f"{key}: {ours}, wanted {theirs}" for key, (ours, theirs) in pairs.items()
            if ours != theirs]  # fmt: skip


@pytest.mark.parametrize("seed", range(150))
def test_agrees_with_the_loop_written_down(seed):
    assert differences(*random_case(seed)) == []


@pytest.mark.parametrize("seed", range(150))
def test_later_versions_agree_with_the_loop_written_down(seed):
    assert differences(*later_case(seed)) == []


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(stream, "HEAD_BYTES", 0), (stream, "FOOT_BYTES", 0), (qemu, "MAX_WAIT_MS", 49),
     (qemu, "_LOOK_EVERY", 1), (qemu, "WINDOW_MS", 99)],
)  # fmt: skip
def test_a_planted_error_is_caught(monkeypatch, module, name, value):
    monkeypatch.setattr(module, name, value)
    assert any(differences(*random_case(seed)) for seed in range(150))


def narrow_case(seed: int) -> tuple[Guest, Settings]:
    """Pages of so few bytes that just as much as the threshold is pending now and then."""
    rng = random.Random(seed)
    guest, settings = random_guest(rng), random_settings(rng)
    settings = replace(
        settings, throttle=None, max_bandwidth=rng.choice([90, 900, 1700]),
        line_rate=1_280_000_000, downtime_limit_ms=rng.choice([1, 5, 10, 20]), manual=False,
        version=rng.choice([(10, 0), (10, 1), (11, 1)]),
    )  # fmt: skip
    return replace(guest, page_size=1), settings


def converging_case(seed: int) -> tuple[Guest, Settings]:
    """Passes that take longer than 5 s, of a guest that is throttled."""
    rng = random.Random(seed)
    blocks = [("pc.ram", rng.choice([200, 400]))]
    hot = rng.randrange(100, blocks[0][1])
    dirty = sorted((rng.randrange(1, 90 * SECOND), rng.randrange(hot)) for _ in range(9000))
    settings = replace(
        random_settings(rng), max_bandwidth=rng.choice([2, 3]) * (PAGE + 8) * 10,
        downtime_limit_ms=1, throttle=(rng.choice([10, 50]), 20, 30, 95),
        version=rng.choice([(8, 2), (9, 2), (11, 1)]),
    )  # fmt: skip
    return Guest(PAGE, blocks, dirty, [], 90 * SECOND), settings


@pytest.mark.parametrize("seed", range(60))
def test_at_the_threshold_versions_agree_with_the_loop_written_down(seed):
    assert differences(*narrow_case(seed)) == []


@pytest.mark.parametrize("seed", range(40))
def test_syncs_by_the_timer_agree_with_the_loop_written_down(seed):
    assert differences(*converging_case(seed)) == []


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_header_that_just_fills_the_buffer(off):
    """Then the page behind it takes the first vector, and a header the last one."""
    first = (32768 - 5 - 4 - 8) // 9 + off
    zero = [(0, page) for page in range(4000) if not first <= page < first + 200]
    guest = Guest(PAGE, [("ram", 4000)], [(SECOND, 5)], zero, 5 * SECOND)
    settings = Settings(600_000, 30, 1_280_000_000, 0, 0, version=(8, 2))
    wanted = qemu_reference.Migration(guest, settings)
    wanted.run()
    assert (wanted.file.by_a_header > 0) == (off == 0)
    assert differences(guest, settings) == []


class _Measured(qemu._Window):
    """A window that knows of no avail-switchover-bandwidth."""

    def __init__(self, parameters: Parameters, stream):
        super().__init__(replace(parameters, switchover_bandwidth=None), stream)


@pytest.mark.parametrize(
    ("cases", "where", "name", "value"),
    [
        (converging_case, throttle, "_SYNC_EVERY_MS", 4700),
        (later_case, QemuVersion, "counts_when_flushed", False),
        (converging_case, QemuVersion, "syncs_by_timer", False),
        (narrow_case, QemuVersion, "stops_at_threshold", False),
        (narrow_case, QemuVersion, "syncs_at_threshold", False),
        (later_case, stream, "_put", lambda file, pages, *_: None),
        (later_case, stream, "FOOT_BYTES", 4),
        (later_case, qemu, "_Window", _Measured),
    ],
)
def test_a_planted_error_of_a_version_is_caught(monkeypatch, cases, where, name, value):
    monkeypatch.setattr(where, name, value)
    assert any(differences(*cases(seed)) for seed in range(60))


def limited_case(seed: int) -> tuple[Guest, Settings]:
    """Pages of 1 MiB, so that few of them make a rate that matters to dirty-limit."""
    rng = random.Random(seed)
    guest = replace(random_guest(rng), page_size=1 << 20, duration_ns=20 * SECOND)
    settings = replace(
        random_settings(rng),
        max_bandwidth=rng.choice([40, 150, 600]) << 20,
        line_rate=rng.choice([200, 1000, 4000]) << 20,
        downtime_limit_ms=rng.choice([1, 30]),
        throttle=None,
        sync_waits=False,
        dirty_limit=(
            rng.choice([1, 30, 100, 300]),
            rng.choice([1000, 1000, 200, 37]),
            rng.choice([10, 50]),
            rng.choice([1, 1, 2, 3]),
            *rng.choice([(1, 0), (4, 1), (16, 0), (64, 3)]),
        ),
        version=rng.choice([(7, 2), (8, 2), (11, 1)]),
    )
    return guest, settings


@pytest.mark.parametrize("seed", range(100))
def test_dirty_limit_agrees_with_the_loop_written_down(seed):
    assert differences(*limited_case(seed)) == []


def test_the_limited_cases_reach_what_they_should():
    """Sleeps that grow and shrink again, by large steps and by small ones."""
    grows, shrinks, ends = 0, 0, 0
    for seed in range(100):
        wanted = qemu_reference.Migration(*limited_case(seed))
        wanted.run()
        percents = [percent for _, percent in wanted.throttles]
        grows += sum(after > before for before, after in pairwise(percents))
        shrinks += sum(after < before for before, after in pairwise(percents))
        ends += bool(percents) and wanted.stop is not None
    assert grows > 10
    assert shrinks > 10
    assert ends > 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOLERANCE", 0),
        ("_LINEAR_PERCENT", 10),
        ("_MOST_FILLS", 1),
        ("_SECOND_US", 900_000),
        ("_ENOUGH", 1),
    ],
)
def test_a_planted_error_in_dirty_limit_is_caught(monkeypatch, name, value):
    monkeypatch.setattr(dirty_limit, name, value)
    assert any(differences(*limited_case(seed)) for seed in range(100))


@pytest.mark.parametrize("value", [False, True])
def test_a_sleep_that_a_kick_ends_or_not_is_caught(monkeypatch, value):
    monkeypatch.setattr(QemuVersion, "sleeps_out", value)
    assert any(differences(*limited_case(seed)) for seed in range(100))


def test_the_cases_reach_what_they_should():
    """Among the cases above: switchovers and none, throttles, long iterations."""
    ends, throttled, late = set(), 0, 0
    for seed in range(150):
        guest, settings = random_case(seed)
        wanted = qemu_reference.Migration(guest, settings)
        wanted.run()
        ends.add(wanted.stop is None)
        throttled += len(wanted.throttles) > 1
        late += wanted.sent * (PAGE + 8) > settings.line_rate // 20
    assert ends == {True, False}
    assert throttled > 5
    assert late > 20


def test_throttle_waits_for_two_bad_periods():
    follower = Throttle(AutoConverge(), 0)
    assert not follower.synced(1000, 900, 1000)  # the period is not longer than a second
    assert not follower.synced(1001, 900, 1000)  # once
    assert follower.synced(2002, 1800, 2000)  # twice
    assert follower.percent == 20
    assert not follower.synced(3003, 1900, 3000)  # little was dirtied: not counted, not forgotten
    assert not follower.synced(4004, 2900, 4000)
    assert follower.synced(5005, 3900, 5000)
    assert follower.percent == 30


@pytest.mark.parametrize(
    ("steps", "now_ms", "left_ms"),
    [
        # The timer ticks at once, then every slice and sleep.
        ([(100, 50)], 100, 10), ([(100, 50)], 105, 5), ([(100, 50)], 110, 0),
        ([(100, 50)], 119, 0), ([(100, 50)], 120, 10), ([(100, 99)], 1085, 5),
        # A new percentage waits for the next tick, which it does not move.
        ([(100, 50), (111, 80)], 112, 0), ([(100, 50), (111, 80)], 120, 40),
        ([(100, 50), (103, 80)], 105, 5), ([(100, 50), (111, 80), (112, 90)], 121, 89),
        ([(100, 50), (111, 80), (175, 90)], 180, 30),
    ],
)  # fmt: skip
def test_a_sync_waits_for_a_sleeping_vcpu(steps, now_ms, left_ms):
    in_ns = [(ms * 10**6, percent) for ms, percent in steps]
    assert sleep_left(in_ns, now_ms * 10**6) == left_ms * 10**6


@pytest.mark.parametrize(
    ("now_ms", "left_ms"),
    [
        # Known to wake at 165 (its tick was 5 late) and at 1300.
        (160, 5), (125, 40), (124, 36), (165, 0), (174, 0), (175, 40), (214, 1), (215, 0),
        (225, 40), (1259, 6), (1260, 40), (1300, 0), (1309, 0), (1310, 40),
    ],
)  # fmt: skip
def test_ticks_are_counted_from_a_known_wake(now_ms, left_ms):
    steps, wakes = [(100 * 10**6, 50), (111 * 10**6, 80)], [165 * 10**6, 1300 * 10**6]
    assert sleep_left(steps, now_ms * 10**6, wakes) == left_ms * 10**6
