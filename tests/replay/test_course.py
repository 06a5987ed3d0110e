"""A busy host, as a recording shows it: a migration foretold from its own course."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from replay.course import Course, Pace
from tests.replay import qemu_reference
from tests.replay.qemu_reference import Guest, Settings
from tests.replay.test_qemu_profile import as_parameters, as_trace, random_guest, replayed

MS, PAGE, SECOND = 1_000_000, 4096, 10**9


def busy(seed: int) -> tuple[Guest, Settings]:
    """Return a guest and a host that is late by up to seconds and slow now and then."""
    rng = random.Random(seed)
    settings = Settings(
        max_bandwidth=rng.choice([700, 2000]) * 4104 * 10,
        downtime_limit_ms=30,
        line_rate=1_280_000_000,
        zero_page_ns=200,
        wake_ns=100_000,
        throttle=(10, 60, 30, 99),
        sync_waits=rng.random() < 0.5,
        late_ns=tuple(rng.choice([0, 300_000, 7 * MS, 90 * MS, 900 * MS]) for _ in range(40)),
        slowed=tuple(rng.choice([1, 1, 3, 30]) for _ in range(30)),
    )
    return large_guest(rng), settings


def large_guest(rng: random.Random) -> Guest:
    """Return a guest of 8,000 pages of which a part is written again and again."""
    guest = random_guest(rng)
    hot, duration = rng.randrange(500, 4000), rng.choice([3, 8]) * 10**9
    times = sorted(rng.randrange(1, duration) for _ in range(20_000))
    dirty = [(t, rng.randrange(hot)) for t in times]
    return replace(guest, blocks=[("ram", 8000)], dirty=dirty, zero=[], duration_ns=duration)


@pytest.mark.parametrize("seed", range(12))
def test_a_course_is_followed(seed):
    guest, settings = busy(seed)
    real = qemu_reference.Migration(guest, settings)
    real.run()
    taken = Course(tuple(real.iterations), tuple(real.sync_times), PAGE + 8, settings.max_bandwidth)
    trace, parameters = as_trace(guest), as_parameters(settings)
    migration, outcome = replayed(trace, replace(parameters, lost_ns=(), course=taken))
    assert (migration.syncs, len(outcome.throttles)) == (real.syncs, len(real.throttles))
    assert abs(migration.copies - real.sent) < 10
    assert abs(outcome.end_ns - real.now) < 2 * MS
    _, blind = replayed(trace, replace(parameters, lost_ns=()))
    assert blind.end_ns < real.now - 100 * MS


@pytest.mark.parametrize("seed", range(6))
def test_syncs_by_a_timer_are_followed(seed):
    """Of QEMU 9.2 and later, on a host that is late: passes of ten seconds and more."""
    rng = random.Random(seed)
    dirty = sorted((rng.randrange(1, 60 * SECOND), rng.randrange(300)) for _ in range(6000))
    guest = Guest(PAGE, [("ram", 300)], dirty, [], 60 * SECOND)
    settings = Settings(
        max_bandwidth=2 * (PAGE + 8) * 10, downtime_limit_ms=1, line_rate=1_280_000_000,
        zero_page_ns=200, wake_ns=100_000, throttle=(50, 20, 10, 95), version=(10, 0),
        late_ns=tuple(rng.choice([0, 0, 300_000, 7 * MS, 60 * MS]) for _ in range(40)),
    )  # fmt: skip
    real = qemu_reference.Migration(guest, settings)
    real.run()
    taken = Course(tuple(real.iterations), tuple(real.sync_times), PAGE + 8, settings.max_bandwidth)
    trace, parameters = as_trace(guest), as_parameters(settings)
    migration, outcome = replayed(trace, replace(parameters, lost_ns=(), course=taken))
    assert (migration.syncs, len(outcome.throttles)) == (real.syncs, len(real.throttles))
    assert abs(migration.copies - real.sent) < 10
    assert len(real.sync_times) > 6


def test_a_sync_while_the_sender_slept_is_of_no_look():
    looks = ((0, 2 * MS, 10, 0), (100 * MS, 102 * MS, 10, 0), (203 * MS, 204 * MS, 10, 0))
    syncs = ((0, 100), (40 * MS, 41 * MS), (201 * MS, 203 * MS - 1))
    taken = course(*looks, syncs=syncs)
    assert taken.wakes == [100 * MS, 201 * MS]
    assert taken.ticked(38 * MS) == 40 * MS
    assert taken.ticked(120 * MS) == 120 * MS


def course(*looks: tuple[int, int, int, int], syncs=(), pages: int = 10) -> Course:
    """Return the course of a sender that may send so many pages in a window."""
    return Course(looks, syncs, PAGE + 8, pages * (PAGE + 8) * 10)


def test_it_sleeps_when_the_budget_is_spent():
    looks = ((0, 2 * MS, 6, 0), (52 * MS, 53 * MS, 4, 0), (103 * MS, 104 * MS, 9, 0))
    # The host kept it for 50 ms; after the second iteration it slept, to a sync.
    taken = course(*looks, syncs=((0, 100), (101 * MS, 103 * MS - 1)))
    assert taken.wakes == [101 * MS]
    assert taken.wake(50 * MS, 100 * MS) == 101 * MS
    assert taken.wake(50 * MS, 150 * MS) == 101 * MS
    assert taken.wake(50 * MS, 160 * MS) is None
    assert taken.wake(102 * MS, 150 * MS) is None
    assert taken.vcpu_wakes == [103 * MS - 1]


def test_a_sync_lasts_as_it_did():
    syncs = ((0, 100), (101 * MS, 900 * MS), (900 * MS + 500, 950 * MS))
    taken = course((0, 1, 1, 0), syncs=syncs)
    assert taken.synced(0) == 100
    assert taken.synced(50_000) == 50_000
    assert taken.synced(101 * MS - 50_000) == 900 * MS
    assert taken.synced(900 * MS + 300) == 950 * MS
    assert taken.synced(103 * MS) is None


def test_a_window_that_is_over_leaves_nothing_to_sleep_for():
    # The host kept it for longer than the window, then for shorter, which the next one begins with.
    looks = [(0, 101 * MS, 10, 0), (130 * MS, 131 * MS, 9, 800), (229 * MS, 300 * MS, 1, 0)]
    assert course(*looks).wakes == [229 * MS]
    assert course(*looks[1:], (330 * MS, 331 * MS, 1, 0)).wakes == [229 * MS]


def test_a_pace_is_that_of_the_nearest_iteration():
    # 9 pages up to the next look; 9 up to the beginning of the last one; one at all.
    looks = [(0, 4 * MS, 5, 5), (5 * MS, 14 * MS, 10, 0), (114 * MS, 190 * MS, 1, 0),
             (250 * MS, 250 * MS, 0, 0)]  # fmt: skip
    taken = course(*looks)
    assert taken.near(100, 1000, 10) == Pace(5 * MS, 5_050, None)
    assert taken.near(4 * MS, 1000, 10) == Pace(9 * MS, 9_000, None)
    assert taken.near(114 * MS, 1000, 10) == Pace(136 * MS, 1_000, 1)
    assert taken.near(116 * MS, 1000, 10) == Pace(136 * MS, 1_000, None)
    assert taken.near(250 * MS, 1000, 10) is None
    assert taken.near(305 * MS, 1000, 10) is None


@pytest.mark.parametrize("phase_us", [0, 130, 500, 870])
def test_the_phase_of_the_clock_shows_in_the_windows(phase_us):
    """A sender wakes when 100 whole ms of QEMU's clock are over, a part of a ms after its sleep."""
    rng, phase = random.Random(1), phase_us * 1000
    wakes, now = [], 0
    for _ in range(300):
        wakes.append(now)
        done = now + rng.randrange(2 * MS, 9 * MS)
        now = done + ((now + phase) // MS + 100 - (done + phase) // MS) * MS + 60_000
    taken = course(*((wake, wake + MS, 1, 0) for wake in wakes), pages=1)
    assert taken.wakes == wakes[1:]
    apart = abs(taken.phase_ns - phase)
    assert min(apart, MS - apart) <= 100_000


@pytest.mark.parametrize(
    "iterations",
    [((5, 4, 1, 0),), ((5, 6, 1, 0), (4, 7, 1, 0)), ((1, 2, -1, 0),), ((-1, 2, 1, 0),)],
)
def test_a_course_that_is_none(iterations):
    with pytest.raises(ValueError, match="it"):
        course(*iterations)
