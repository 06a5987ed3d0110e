"""Every kind of guest: a trace like any other, with free list and contents that fit its writes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from analyses.info import describe
from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import registered
from tests.synth.guests import PAGES, RATE, columns, make_order, order
from tracer import Trace, UsageError
from tracer.synth import KINDS, options_of

MIB = 1 << 20
LAID_OUT = [kind for kind in KINDS if kind != "race"]


@pytest.fixture(scope="module", params=LAID_OUT)
def guest(request, tmp_path_factory) -> Trace:
    path = tmp_path_factory.mktemp("kinds") / f"{request.param}.trace"
    make_order(order(request.param), path)
    trace = Trace.open(path)
    trace.validate()
    return trace


def test_it_makes_as_many_writes_as_asked_for(guest):
    """Besides the zeroing of what is taken, each of which is one dirty and one zero row."""
    zeroed = int((columns(guest, "zero").t > 0).sum())
    assert guest.num_rows("dirty") - zeroed == 10 * RATE


def test_a_guest_writes_no_free_page_and_nothing_at_the_start(guest):
    found = describe(guest)
    assert found.writes_on_free_pages == 0
    assert found.exact
    assert found.free_pages_at_start > 0
    assert columns(guest, "dirty").t[0] > 0


def test_zero_rows_are_true(guest):
    """A zeroed page was taken just before and is written by nothing else at that instant."""
    dirty, zero, moves = (columns(guest, name) for name in ("dirty", "zero", "freelist"))
    assert np.all(np.diff(dirty.t) > 0)
    later = zero[zero.t > 0]
    assert len(later.t)
    same = np.searchsorted(dirty.t, later.t)
    for name in ("t", "page", "count"):
        assert np.array_equal(getattr(dirty[same], name), getattr(later, name))
    takes = moves[~moves.free]
    taken = set(zip((takes.t + 1).tolist(), takes.page.tolist(), strict=True))
    assert set(zip(later.t.tolist(), later.page.tolist(), strict=True)) <= taken
    # What is zero at the start is free at the start.
    state = np.zeros(PAGES, bool)
    for table, value in ((moves, True), (zero, False)):
        _, page = table[table.t == 0].expanded()
        assert np.all(state[page] != value)
        state[page] = value


def test_what_is_freed_was_in_use_and_nothing_is_written_after(guest):
    """Page by page, from the rows alone: take, writes, free, take, …"""
    dirty, moves = columns(guest, "dirty"), columns(guest, "freelist")
    t, page = moves.expanded()
    free = np.repeat(moves.free, moves.count.astype(np.int64))
    w_t, w_page = dirty.expanded()
    # At one instant the free list goes first.
    all_t = np.concatenate((2 * t, 2 * w_t + 1))
    all_page = np.concatenate((page, w_page))
    kind = np.concatenate((np.where(free, 1, -1), np.zeros(len(w_t), int)))
    by_page = np.lexsort((all_t, all_page))
    sorted_page, kind = all_page[by_page], kind[by_page]
    last, now = 0, -1
    for p, k in zip(sorted_page.tolist(), kind.tolist(), strict=True):
        if p != now:
            last, now = 0, p
        if k:
            assert last != k, f"page {p} moves twice the same way"
            last = k
        else:
            assert last != 1, f"page {p} is written while free"


def test_every_strategy_replays_it(guest):
    for chosen in registered().values():
        (run,) = replay(guest, chosen, Parameters(bandwidth=64 * MIB))
        assert run.result.scenario == "exact"
        assert run.result.rounds >= 1
        if chosen.name in ("precopy", "hint-tagged", "hint-drain", "hint-stop-vcpu"):
            assert not run.result.lost


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_makes_the_same_bytes(kind, tmp_path):
    sizes = {"pages": 1 << 19} if kind == "race" else {}
    wanted = [order(kind, seconds=2, rate=5000, seed=seed, **sizes) for seed in (3, 3, 4)]
    for i, one in enumerate(wanted):
        make_order(one, tmp_path / str(i) / "x.trace")
    digests = [Trace.open(tmp_path / str(i) / "x.trace").meta.digests for i in range(3)]
    assert digests[0] == digests[1]
    assert digests[0]["dirty.arrow"] != digests[2]["dirty.arrow"]


@pytest.mark.parametrize("kind", LAID_OUT)
@pytest.mark.parametrize("pages", [256, 1000, 4099])
def test_small_and_odd_guests(kind, pages, tmp_path):
    """Either a sound trace, or a word about what does not fit."""
    try:
        made = make_order(order(kind, pages=pages, seconds=1), tmp_path / "x.trace")
    except UsageError as error:
        assert "larger" in str(error) or "too small" in str(error)  # noqa: PT017
        return
    assert describe(Trace.open(made.path)).writes_on_free_pages == 0


@pytest.mark.parametrize("kind", LAID_OUT)
def test_extremes_of_every_option(kind, tmp_path):
    """The least and the most that the command line lets through."""
    for name in options_of(kind).names():
        for value in _extremes(kind, name):
            wanted = order(kind, seconds=0.2, **{"pages": 1 << 14, name: value})
            try:
                made = make_order(wanted, tmp_path / "x.trace", force=True)
            except UsageError as error:
                assert "\n" not in str(error)  # noqa: PT017
                continue
            found = describe(Trace.open(made.path))
            assert found.writes_on_free_pages == 0, (name, value)


@cache
def _extremes(kind: str, name: str):
    from fractions import Fraction

    value = getattr(options_of(kind)(), name)
    if name == "exponent":
        return [Fraction(0), Fraction(1, 3), Fraction(20)]
    if isinstance(value, Fraction):
        return [Fraction(0), Fraction(1)]
    return [0, 1, 7, 20] if name != "rate" else [0, 1, 500_000]
