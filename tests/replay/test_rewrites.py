"""What a recording hides: the working-set model, a throttled guest's pace, contained reports."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from replay.contained import contained_reports
from replay.pacing import keeps_pace, on_host_time
from replay.rewrites import expected, fit, sightings
from tracer import Block, Meta, Trace

SECOND = 10**9
PAGES = 512


def made(t, page, *, resolution="write", epochs=(), zero=(), freed=(), hinting=False, pages=PAGES):
    """A trace of one-page rows; zero: (t, page); freed: (t, page) that enter the free list."""
    meta = Meta(
        page_size=4096,
        pages=pages,
        duration_ns=20 * SECOND,
        blocks=(Block("pc.ram", 0, pages),),
        resolution=resolution,
        freelist_resolution="event" if freed else None,
        hinting=hinting,
    )
    tables = {
        "dirty": _table(t, page),
        "zero": _table(*zip(*zero, strict=True)) if zero else _table([], []),
        "epochs": pa.table({"t_ns": np.array(epochs, np.int64)}),
    }
    if freed:
        table = _table(*zip(*freed, strict=True))
        tables["freelist"] = table.append_column("free", pa.array([True] * len(freed)))
    trace = Trace.from_tables(meta, **tables)
    trace.validate()
    return trace


def _table(t, page):
    page = np.array(page, np.int64)
    return pa.table({"t_ns": np.array(t, np.int64), "page": page, "count": np.ones_like(page)})


def poisson(rates, seed=1):
    """All writes of pages with these rates (per s) in 20 s, in order of time."""
    rng = np.random.default_rng(seed)
    number = rng.poisson(np.array(rates) * 20)
    t = rng.integers(1, 20 * SECOND, number.sum())
    page = np.repeat(np.arange(len(rates)), number)
    order = np.argsort(t, kind="stable")
    return t[order], page[order]


def thinned(t, page, epochs):
    """Only the first write to each page in each epoch."""
    epoch = np.searchsorted(epochs, t, side="right")
    _, first = np.unique(epoch * PAGES + page, return_index=True)
    first.sort()
    return t[first], page[first]


EPOCHS = [0, 5 * SECOND, 9 * SECOND, 12 * SECOND, 16 * SECOND]


def fitted(rates) -> np.ndarray:
    """The rates per s that the model finds when it sees first writes alone."""
    trace = made(*thinned(*poisson(rates), EPOCHS), resolution="first-write", epochs=EPOCHS)
    model = fit(sightings(trace), PAGES)
    assert model.pace[1:].mean() == pytest.approx(1, abs=0.15)
    return model.rate * SECOND


@pytest.mark.parametrize("rate", [0.1, 0.7, 3.0])
def test_the_rate_of_one_working_set_is_found(rate):
    found = fitted(np.full(PAGES, rate))
    # Of a page that was first seen in the last epoch, or never, nothing is known.
    assert found[found > 0].mean() == pytest.approx(rate, rel=0.2)


@pytest.mark.parametrize("slow", [0.2, 0.02])
def test_two_working_sets_are_told_apart(slow):
    """Four epochs say little of a page: only roughly how much hotter the hot ones are."""
    found = fitted(np.where(np.arange(PAGES) < 64, 3.0, slow))
    assert 1.5 < found[:64].mean() < 6
    assert found[64:].mean() < 2 * slow


def test_drawn_rewrites_come_near_the_truth():
    """Distinct pages between syncs that the recording did not make, thinned against all writes."""
    rates = np.where(np.arange(PAGES) < 128, 0.7, 0.05)
    t, page = poisson(rates)
    hidden = made(*thinned(t, page, EPOCHS), resolution="first-write", epochs=EPOCHS)
    drawn = sightings(expected(hidden))
    wanted = known = foretold = 0
    for begin in range(6, 19):
        low, high = begin * SECOND, (begin + 1) * SECOND
        wanted += len(np.unique(page[(t > low) & (t <= high)]))
        seen = sightings(hidden)
        known += len(np.unique(seen.page[(seen.t > low) & (seen.t <= high)]))
        foretold += len(np.unique(drawn.page[(drawn.t > low) & (drawn.t <= high)]))
    assert foretold == pytest.approx(wanted, rel=0.05)
    assert abs(foretold - wanted) < abs(known - wanted) / 3


def test_what_is_drawn_is_a_trace_and_always_the_same():
    t, page = thinned(*poisson([1.0] * PAGES), EPOCHS)
    hidden = made(t, page, resolution="first-write", epochs=EPOCHS, zero=[(t[9], page[9])])
    once, again = expected(hidden), expected(hidden)
    once.validate()
    assert once.num_rows("dirty") > hidden.num_rows("dirty")
    for name in ("dirty", "zero"):
        ours, theirs = (next(iter(trace.rows(name))) for trace in (once, again))
        assert np.array_equal(ours.t, theirs.t)
        assert np.array_equal(ours.page, theirs.page)
    zero = next(iter(once.rows("zero")))
    assert set(zero.page.tolist()) == {page[9]}


def test_a_page_that_is_freed_is_written_no_more():
    t, page = thinned(*poisson([2.0] * PAGES), EPOCHS)
    last = SECOND * 17
    keep = (t < last) | (page != 5)
    hidden = made(t[keep], page[keep], resolution="first-write", epochs=EPOCHS, freed=[(last, 5)])
    drawn = sightings(expected(hidden))
    assert drawn.t[drawn.page == 5].max() < last


def test_pages_that_never_come_back_are_not_rewritten():
    t = np.arange(PAGES, dtype=np.int64) * 39_000_000 + 1
    hidden = made(t, np.arange(PAGES), resolution="first-write", epochs=EPOCHS)
    assert expected(hidden).num_rows("dirty") == PAGES


def test_an_empty_trace():
    hidden = made([], [], resolution="first-write", epochs=EPOCHS)
    assert expected(hidden).num_rows("dirty") == 0


@pytest.mark.parametrize("steady", [True, False])
def test_the_pace_of_a_throttled_guest_shows(steady):
    """Half of its time is taken at 9 s; the trace of a steady guest counts double then."""
    throttles = [(9 * SECOND, 50)]
    t, page = poisson([0.6] * PAGES)
    # A guest as fast as its vCPUs let it takes double the time for what it does after 9 s.
    host = t if steady else np.where(t > 9 * SECOND, 9 * SECOND + 2 * (t - 9 * SECOND), t)
    inside = host < 20 * SECOND
    edges = EPOCHS
    timed = made(
        *thinned(host[inside], page[inside], edges), resolution="first-write", epochs=edges
    )
    assert keeps_pace(timed, throttles) is steady


def test_host_times_are_had_back():
    throttles = [(9 * SECOND, 50), (13 * SECOND, 80)]
    # At 9 s the guest is at 9 s, at 13 s at 11 s, and then a fifth as fast.
    trace = made([3 * SECOND, 10 * SECOND, 12 * SECOND], [1, 2, 3], epochs=[0])
    timed = on_host_time(trace, throttles)
    assert next(iter(timed.rows("dirty"))).t.tolist() == [3 * SECOND, 11 * SECOND, 18 * SECOND]


def test_no_pace_shows_without_a_throttle():
    t, page = thinned(*poisson([0.6] * PAGES), EPOCHS)
    trace = made(t, page, resolution="first-write", epochs=EPOCHS)
    assert keeps_pace(trace, []) is None


def test_contained_reports():
    """A block zeroed in order is a report, one written in another order or in part is none."""
    block = np.arange(1024)
    t = np.concatenate([SECOND + block, 2 * SECOND + block[::-1], 3 * SECOND + block[:1000]])
    page = np.concatenate([1024 + block, 2048 + block, 3072 + block[:1000]])
    order = np.argsort(t, kind="stable")
    rows = {"resolution": "first-write", "epochs": [0], "pages": 4096 + 100}
    found = contained_reports(made(t[order], page[order], hinting=True, **rows))
    assert found.page.tolist() == [1024]
    assert found.t.tolist() == [SECOND + 1023]
    assert not len(contained_reports(made(t[order], page[order], **rows)).t)
