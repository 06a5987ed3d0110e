"""The kinds are what they are called: measured on what was written, not on how it was drawn."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from analyses.info import describe
from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import strategy
from tests.synth.guests import (
    PAGES,
    RATE,
    SECOND,
    columns,
    inside,
    make_order,
    order,
    region,
    writes,
)
from tracer import Trace
from tracer.synth.distributions import HotCold, Scattered, Zipf
from tracer.synth.make import Order

PAGE = 4096


@pytest.fixture
def made(tmp_path):
    def make(kind, **settings) -> Trace:
        return Trace.open(make_order(order(kind, **settings), tmp_path / f"{kind}.trace").path)

    return make


# -- distributions ------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.3, 3.0])
@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_zipf_draws_by_its_law(exponent, size):
    n = 100_000
    law = np.arange(1, size + 1) ** -exponent
    law /= law.sum()
    found = np.bincount(Zipf(np.random.default_rng(5), size, exponent).draw(n), minlength=size)
    assert len(found) == size
    spread = np.sqrt(n * law * (1 - law)) + 1
    assert np.all(np.abs(found - n * law) < 5 * spread)


def test_zipf_reaches_the_end_of_a_huge_guest():
    drawn = Zipf(np.random.default_rng(5), 1 << 28, 0.2).draw(100_000)
    assert drawn.min() >= 0
    assert (1 << 28) * 0.99 < drawn.max() < 1 << 28


def test_hot_and_cold_are_even_within():
    drawn = HotCold(np.random.default_rng(5), 100, 10, 0.8).draw(200_000)
    found = np.bincount(drawn, minlength=100)
    assert found[:10].sum() / 200_000 == pytest.approx(0.8, abs=0.005)
    assert found[:10].min() > 0.95 * 16_000
    assert found[10:].max() < 1.2 * 200_000 * 0.2 / 90


@pytest.mark.parametrize(("size", "order"), [(1, 0), (64, 3), (4096, 4), (4096, 0), (65536, 9)])
def test_scattering_moves_whole_extents_and_loses_none(size, order):
    place = Scattered(np.random.default_rng(2), size, order).place(np.arange(size))
    assert np.array_equal(np.sort(place), np.arange(size))
    inner = place.reshape(-1, 1 << order)
    assert np.all(np.diff(inner, axis=1) == 1)


# -- kinds --------------------------------------------------------------------------------------


def test_the_rate_is_even_and_gaps_are_those_of_chance(made):
    t, _ = writes(made("hot-cold"))
    per_second = np.histogram(t, np.arange(11) * SECOND)[0]
    assert np.all(np.abs(per_second - RATE) < 5 * np.sqrt(RATE))
    gaps = np.diff(t)
    assert gaps.mean() == pytest.approx(SECOND / RATE, rel=0.01)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


@pytest.mark.parametrize("exponent", [Fraction(3, 5), Fraction(1), Fraction(7, 5)])
def test_the_exponent_of_zipf(made, exponent):
    _, page = writes(made("zipf", exponent=exponent))
    counts = np.sort(np.bincount(page))[::-1]
    rank = np.arange(1, 60)
    fitted = -np.polyfit(np.log(rank), np.log(counts[:59]), 1)[0]
    # Sorting by what was drawn favours chance where the law is flat.
    assert fitted == pytest.approx(float(exponent), abs=0.12)


def test_the_hot_share_and_the_working_set_curve(made):
    trace = made("hot-cold", hot_share=Fraction(4, 5), working_set=Fraction(1, 4))
    _, page = writes(trace)
    first, end = region(trace, "working set")
    assert np.all(inside(page, (first, end)))
    size = end - first
    assert size == PAGES // 4
    counts = np.sort(np.bincount(page - first, minlength=size))[::-1]
    hot = size // 10
    assert counts[:hot].sum() / len(page) == pytest.approx(0.8, abs=0.01)
    for n in (1000, 10_000, 100_000):
        cold = size - hot
        expected = hot * (1 - (1 - 0.8 / hot) ** n) + cold * (1 - (1 - 0.2 / cold) ** n)
        assert len(np.unique(page[:n])) == pytest.approx(expected, rel=0.03)


def test_a_working_set_is_reclaimed_where_it_is_cold(made):
    trace = made("hot-cold", reclaim=Fraction(1, 20), resident=Fraction(1), alloc_order=3)
    moves, (_, page) = columns(trace, "freelist"), writes(trace)
    first, end = region(trace, "working set")
    freed = moves[(moves.t > 0) & moves.free]
    extents = (end - first) >> 3
    assert freed.count.sum() >> 3 == pytest.approx(extents * 10 / 20, rel=0.15)
    heat = np.bincount(page, minlength=PAGES)
    _, gone = freed.expanded()
    assert heat[gone].max() < heat.max() / 5


def test_a_slow_reclaim_adds_up(made):
    """Half an extent for each block of writes."""
    trace = made("hot-cold", reclaim=Fraction(1, 800), resident=Fraction(1), alloc_order=7)
    moves = columns(trace, "freelist")
    assert 2 <= ((moves.t > 0) & moves.free).sum() <= 4


def test_a_sweep_is_sequential_and_laps(made):
    trace = made("sweep")
    _, page = writes(trace)
    first, end = region(trace, "working set")
    assert page[0] == first
    assert np.all((np.diff(page) - 1) % (end - first) == 0)
    assert len(page) > 3 * (end - first)


def test_a_sweep_converges_only_above_its_rate(made):
    trace = made("sweep", seconds=30)
    rate = RATE * PAGE
    for bandwidth, reason in ((rate * 8 // 10, "trace-exhausted"), (2 * rate, "downtime-limit")):
        parameters = Parameters(bandwidth=bandwidth, downtime_limit_ns=100_000_000)
        (run,) = replay(trace, strategy("precopy"), parameters)
        assert run.result.reason == reason


def test_phases_move_on_and_free_what_they_leave(made):
    trace = made("phases", phases=4)
    t, page = writes(trace)
    moves = columns(trace, "freelist")
    before = None
    for phase in range(4):
        begin, end = phase * 10 * SECOND // 4, (phase + 1) * 10 * SECOND // 4
        now = set(page[(t > begin) & (t <= end)].tolist())
        if before is not None:
            assert not now & before
            later = (abs(moves.t - begin) < SECOND // 100) & moves.free
            assert before <= set(moves[later].expanded()[1].tolist())
        before = now


def test_churn_fills_frees_and_reuses(made):
    trace = made("churn", background=Fraction(0), buffer=Fraction(1, 50), kept=3)
    _, page = writes(trace)
    moves = columns(trace, "freelist")
    assert np.mean(np.diff(page) == 1) > 0.9
    size = PAGES // 50 // 16 * 16
    in_use = np.cumsum(np.where(moves.free, -1, 1) * moves.count.astype(np.int64))
    in_use -= in_use[moves.t == 0][-1]
    # The one being filled, the ones kept, and what is freed a moment later.
    assert in_use.max() <= 4 * size
    assert in_use[len(in_use) // 2 :].min() >= 2 * size
    takes = moves[~moves.free].expanded()[1]
    assert np.bincount(takes).max() >= 10


def test_a_build_has_short_processes_a_cache_that_fills_and_a_small_hot_kernel(made):
    trace = made("kernel-build", process_size=1 << 20, cache_limit=Fraction(1, 10))
    _, page = writes(trace)
    kernel, cache, pool = (region(trace, n) for n in ("kernel", "page cache", "processes"))
    assert np.mean(inside(page, kernel)) == pytest.approx(0.2, abs=0.01)
    assert np.mean(inside(page, cache)) == pytest.approx(0.1, abs=0.01)
    assert kernel[1] - kernel[0] < PAGES // 40
    moves = columns(trace, "freelist")
    moves = moves[moves.t > 0]
    ended = moves[moves.free & inside(moves.page, pool)]
    assert len(np.unique(ended.t)) > 50
    cached = moves[inside(moves.page, cache)]
    held = np.cumsum(np.where(cached.free, -1, 1) * cached.count.astype(np.int64))
    limit = cache[1] - cache[0]
    assert held.max() == pytest.approx(limit, rel=0.05)
    assert held[len(held) // 2 :].min() > 0.8 * limit
    assert held[: len(held) // 4].min() < 0.2 * limit


def test_java_sweeps_eden_copies_survivors_and_marks_cards(made):
    trace = made("java", heap=Fraction(1, 4), background=Fraction(0), alloc_order=3)
    _, page = writes(trace)
    eden, old, table = (region(trace, n) for n in ("eden", "old generation", "card table"))
    swept = page[inside(page, eden)]
    steps = np.diff(swept)
    assert np.all((steps == 0) | (steps == 1) | (steps == eden[0] - eden[1] + 1))
    collections = int((steps < 0).sum())
    assert collections >= 10
    survivors = [inside(page, region(trace, f"survivor {i}")).sum() for i in (0, 1)]
    expected = (eden[1] - eden[0]) * collections / 20
    assert sum(survivors) == pytest.approx(expected, rel=0.2)
    # In the program's own stretches every write to what is old is followed by its card's.
    place = np.flatnonzero(inside(page[:-1], old) & inside(page[1:], table))
    place = place[~inside(page[place - 1], old)]  # which a collector's copies would be
    heap = eden[0]
    assert np.all(page[place + 1] - table[0] == (page[place] - heap) // 512)
    assert len(place) > 0.04 * len(page)


def test_a_full_collection_gives_memory_back(made):
    trace = made("java", heap=Fraction(1, 8), survival=Fraction(1, 10), alloc_order=3, seconds=20)
    moves = columns(trace, "freelist")
    freed = moves[(moves.t > 0) & moves.free]
    old = region(trace, "old generation")
    assert len(freed.t)
    assert np.all(inside(freed.page, old))
    assert freed.count.max() > (old[1] - old[0]) // 3


def test_hints_save_most_of_an_idle_guest(made):
    trace = made("idle", rate=500)
    found = describe(trace)
    assert found.free_pages_at_start == pytest.approx(0.9 * PAGES, rel=0.01)
    assert found.zero_pages_at_start in (None, 0)
    sent = {}
    for name in ("precopy", "hint-wait"):
        (run,) = replay(trace, strategy(name), Parameters(bandwidth=100 << 20))
        sent[name] = run.result.pages_sent
    assert sent["hint-wait"] < 0.15 * sent["precopy"]
    moves = columns(trace, "freelist")
    assert (moves.t == 0).sum() > 500  # fragmented


def test_a_boot_grows_and_settles_and_frees_its_initramfs(made):
    trace = made("boot")
    t, page = writes(trace)
    assert np.mean(t < 4 * SECOND) == pytest.approx(0.85, abs=0.01)
    _, first = np.unique(page, return_index=True)
    assert np.mean(t[first] < 4 * SECOND) > 0.85
    initramfs = region(trace, "initramfs")
    moves = columns(trace, "freelist")
    freed = moves[moves.free & (moves.t > 0) & inside(moves.page, initramfs)]
    assert freed.count.sum() == initramfs[1] - initramfs[0]
    assert np.all(freed.t > 0.079 * 10 * SECOND)
    assert not inside(page[t > freed.t.max()], initramfs).any()
    found = describe(trace)
    assert found.free_pages_at_start > 0.98 * PAGES
    assert found.windows[-1].free_pages < 0.8 * PAGES


def test_stale_memory_is_not_zero(made, tmp_path):
    some = describe(made("sweep", stale=Fraction(1, 4)))
    assert some.zero_pages_at_start == pytest.approx(0.75 * some.free_pages_at_start, rel=0.01)


def test_init_on_alloc_zeroes_the_page_cache_too(tmp_path):
    zeroed = {}
    for on in (True, False):
        wanted = order("kernel-build", seconds=2)
        wanted = Order(**{**vars(wanted), "init_on_alloc": on})
        trace = Trace.open(make_order(wanted, tmp_path / f"{on}.trace").path)
        zero = columns(trace, "zero")
        zeroed[on] = inside(zero[zero.t > 0].page, region(trace, "page cache")).sum()
    assert zeroed[True] > 0
    assert zeroed[False] == 0
