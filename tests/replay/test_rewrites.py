"""What a recording hides: the working-set model, a throttled guest's pace, contained reports."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from replay.contained import contained_reports, foretold_reports
from replay.pacing import at_work, load_of
from replay.rewrites import Rewrites
from replay.rewrites.families import FAMILIES
from replay.rewrites.kernels import OCTAVE
from replay.throttle import pace
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


def hidden(t, page, epochs=EPOCHS, **more) -> Trace:
    """What a first-write recording shows of all these writes."""
    return made(*thinned(t, page, epochs), resolution="first-write", epochs=epochs, **more)


def periodic(period, seed=1, jitter=0.01):
    """All writes of pages that are written once a period, each in its turn."""
    rng = np.random.default_rng(seed)
    turns = int(20 / period) + 1
    begin = (np.arange(PAGES) + 1) * period / PAGES
    t = begin[:, None] + np.arange(turns) * period + rng.normal(0, jitter * period, (PAGES, turns))
    t = (t * SECOND).astype(np.int64).ravel()
    page = np.repeat(np.arange(PAGES), turns)
    inside = (t > 0) & (t < 20 * SECOND)
    order = np.argsort(t[inside], kind="stable")
    return t[inside][order], page[inside][order]


def rate(model) -> float:
    """Writes per page and second that a fit stands for."""
    return float((model.share / np.exp2(model.mean / OCTAVE)).sum() * SECOND)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_family_is_what_it_says(family):
    """Waits in closed form, against a renewal process that is drawn."""
    rng = np.random.default_rng(3)
    gaps = rng.gamma(family.shape, 1 / family.shape, (4000, 200))
    assert gaps.mean() == pytest.approx(1, rel=0.05)
    at = np.cumsum(gaps, axis=1)
    ages, x = np.array([0.05, 0.4, 0.9, 2.5]), np.array([0.01, 0.2, 0.7, 1.5, 4.0])
    rest = 20.0  # long after the start nothing is known of a page any more
    waits = family.waits(ages, x)
    for row, age in enumerate([*ages, rest]):
        following = np.min(np.where(at > age, at, np.inf), axis=1) - age
        found = (following[:, None] > x).mean(axis=0)
        wanted = family.waits_at_rest(x) if age == rest else waits[row]
        assert np.abs(found - wanted).max() < 0.03 + (age == rest) * 0.02


@pytest.mark.parametrize("wanted", [0.1, 0.7, 3.0])
def test_the_rate_of_one_working_set_is_found(wanted):
    model = Rewrites(hidden(*poisson(np.full(PAGES, wanted)))).fits[0]
    assert rate(model) == pytest.approx(wanted, rel=0.15)


def test_two_working_sets_are_told_apart():
    rates = np.where(np.arange(PAGES) < 128, 3.0, 0.02)
    model = Rewrites(hidden(*poisson(rates))).fits[0]
    hot = np.exp2(model.mean / OCTAVE) < 2 * SECOND
    assert model.share[hot].sum() == pytest.approx(0.25, abs=0.05)


def test_a_period_is_found():
    model = Rewrites(hidden(*periodic(4.0))).fits[0]
    best = int(np.argmax(model.share))
    assert FAMILIES[model.family[best]].name == "regularly"
    assert np.exp2(model.mean[best] / OCTAVE) / SECOND == pytest.approx(4.0, rel=0.12)
    assert model.share[best] > 0.8


def test_pages_of_zeros_are_not_taken_for_rarely_written_ones():
    """Half of the pages are of zeros and stay so: nothing is drawn on them, all on the others."""
    t, page = poisson(np.where(np.arange(PAGES) < 256, 0.05, 0))
    zero = [(0, one) for one in range(256, PAGES)]
    drawn = Rewrites(hidden(t, page, zero=zero)).until(200 * SECOND)
    when, which = _rows(drawn)
    beyond = when > 20 * SECOND
    assert len(np.unique(which[beyond & (which < 256)])) > 230
    assert len(np.unique(which[beyond & (which >= 256)])) < 5


def _distinct(t, page, begin, end):
    return len(np.unique(page[(t > begin) & (t <= end)]))


def _rows(trace):
    parts = list(trace.rows("dirty"))
    return np.concatenate([p.t for p in parts]), np.concatenate([p.page for p in parts])


GUESTS = {
    "two working sets": poisson(np.where(np.arange(PAGES) < 128, 0.7, 0.05)),
    "period of 3.1 s": periodic(3.1),
    "period of 1.3 s": periodic(1.3),
}


def _found(rows, begins, length):
    return sum(_distinct(*rows, begin, begin + length) for begin in begins)


@pytest.mark.parametrize("guest", GUESTS)
def test_drawn_rewrites_come_near_the_truth(guest):
    """Distinct pages between syncs that the recording did not make, thinned against all writes."""
    recording = hidden(*GUESTS[guest])
    seconds = range(6 * SECOND, 19 * SECOND, SECOND)
    wanted = _found(GUESTS[guest], seconds, SECOND)
    seen = _found(_rows(recording), seconds, SECOND)
    foretold = _found(_rows(Rewrites(recording).expected), seconds, SECOND)
    assert foretold == pytest.approx(wanted, rel=0.06)
    assert abs(foretold - wanted) < abs(seen - wanted) / 3


@pytest.mark.parametrize("guest", GUESTS)
def test_instants_within_an_epoch_come_near_the_truth(guest):
    """Of bitmaps, one a second: distinct pages in windows that lie across their ends."""
    t, page = GUESTS[guest]
    ends = -(-t // SECOND) * SECOND
    rows = np.unique(np.stack([ends, page]), axis=1)
    recording = made(*rows, resolution="epoch", epochs=range(SECOND, 21 * SECOND, SECOND))
    windows = range(5 * SECOND + SECOND // 2, 18 * SECOND, SECOND)
    wanted = _found((t, page), windows, SECOND)
    foretold = _found(_rows(Rewrites(recording).expected), windows, SECOND)
    assert foretold == pytest.approx(wanted, rel=0.06)


def test_what_is_drawn_is_a_trace_and_always_the_same():
    t, page = thinned(*poisson([1.0] * PAGES), EPOCHS)
    recording = made(t, page, resolution="first-write", epochs=EPOCHS, zero=[(t[9], page[9])])
    once, again = Rewrites(recording).expected, Rewrites(recording).expected
    other = Rewrites(recording, seed=1).expected
    once.validate()
    assert once.num_rows("dirty") > recording.num_rows("dirty")
    assert all(np.array_equal(*both) for both in zip(_rows(once), _rows(again), strict=True))
    assert not np.array_equal(_rows(once)[0][:300], _rows(other)[0][:300])
    zero = next(iter(once.rows("zero")))
    assert set(zero.page.tolist()) == {page[9]}


def test_a_page_that_is_freed_is_written_no_more():
    t, page = thinned(*poisson([2.0] * PAGES), EPOCHS)
    last = SECOND * 17
    keep = (t < last) | (page != 5)
    recording = made(t[keep], page[keep], resolution="first-write", epochs=EPOCHS,
                     freed=[(last, 5)])  # fmt: skip
    t, page = _rows(Rewrites(recording).expected)
    assert t[page == 5].max() < last


def test_pages_that_never_come_back_are_not_rewritten():
    t = np.arange(PAGES, dtype=np.int64) * 4_000_000 + 1
    recording = made(t, np.arange(PAGES), resolution="first-write", epochs=EPOCHS)
    assert Rewrites(recording).expected.num_rows("dirty") < PAGES * 1.02


def test_an_empty_trace():
    recording = made([], [], resolution="first-write", epochs=EPOCHS)
    assert Rewrites(recording).expected.num_rows("dirty") == 0
    assert Rewrites(recording).until(40 * SECOND).num_rows("dirty") == 0


@pytest.mark.parametrize("all_known", [True, False])
def test_a_trace_goes_on_as_it_was(all_known):
    """Twice as long: as many pages a second as in a recording that really was longer."""
    t, page = poisson(np.where(np.arange(PAGES) < 128, 0.7, 0.05))
    recording = made(t, page) if all_known else hidden(t, page)
    longer = Rewrites(recording).until(40 * SECOND)
    longer.validate()
    assert longer.meta.duration_ns == 40 * SECOND
    ot, opage = _rows(longer)
    per_second = [_distinct(ot, opage, s * SECOND, (s + 1) * SECOND) for s in range(20, 40)]
    truth = [_distinct(t, page, s * SECOND, (s + 1) * SECOND) for s in range(20)]
    assert sum(per_second) == pytest.approx(sum(truth), rel=0.06)


def test_a_page_that_was_free_is_taken_when_the_continued_trace_writes_it():
    t, page = poisson([0.5] * PAGES)
    keep = (page != 7) | (t < 10 * SECOND)
    recording = made(t[keep], page[keep], freed=[(10 * SECOND, 7)])
    longer = Rewrites(recording).until(200 * SECOND)
    longer.validate()
    wt, wpage = _rows(longer)
    rows = next(iter(longer.rows("freelist")))
    taken = rows.t[~rows.free]
    assert taken.tolist() == [wt[(wpage == 7) & (wt > 20 * SECOND)].min()]


@pytest.mark.parametrize(("load", "found"), [(100, 100), (60, 60), (30, 50)])
def test_the_load_of_a_throttled_guest_shows(load, found):
    """Half of its vCPUs' time is taken at 9 s: that shows a load above the half that is left."""
    throttles = [(9 * SECOND, 50)]
    t, page = poisson([0.6] * PAGES)
    slower = 100 * 9 // pace(50, load)
    host = np.where(t > 9 * SECOND, 9 * SECOND + slower * (t - 9 * SECOND) // 9, t)
    # As recorded: on the guest's clock, which stands to the host's as 1 to 2 from then on.
    guest = np.where(host > 9 * SECOND, 9 * SECOND + (host - 9 * SECOND) // 2, host)
    inside = host < 20 * SECOND
    edges = [0, *range(3 * SECOND, 14 * SECOND, SECOND // 2)]
    recording = hidden(guest[inside], page[inside], epochs=edges)
    assert load_of(recording, throttles) == pytest.approx(found, abs=8)


def test_times_on_the_clock_of_the_work():
    throttles = [(9 * SECOND, 50), (13 * SECOND, 80)]
    # At 9 s the guest is at 9 s, at 13 s at 11 s, and then a fifth as fast.
    trace = made([3 * SECOND, 10 * SECOND, 12 * SECOND], [1, 2, 3], epochs=[0])
    host = at_work(trace, throttles, 1)
    assert next(iter(host.rows("dirty"))).t.tolist() == [3 * SECOND, 11 * SECOND, 18 * SECOND]
    guest = at_work(trace, throttles, 100)
    assert next(iter(guest.rows("dirty"))).t.tolist() == [3 * SECOND, 10 * SECOND, 12 * SECOND]
    # A load of 40 % keeps its pace at a throttle of 50 %, and has half of it at 80 %.
    half = at_work(trace, throttles, 40)
    assert next(iter(half.rows("dirty"))).t.tolist() == [
        3 * SECOND, 11 * SECOND, 13 * SECOND + 5 * SECOND // 2,
    ]  # fmt: skip


def test_no_load_shows_without_a_throttle():
    assert load_of(hidden(*poisson([0.6] * PAGES)), []) is None


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


def test_foretold_reports():
    """Whole free blocks, the lowest 16 MiB last, each dirtied in order and then reported."""
    freed = [(0, page) for page in [*range(1024, 2048), *range(5120, 6144), *range(7000, 7300)]]
    trace = made([9 * SECOND], [50], freed=freed, pages=8192)
    hinted, reports = foretold_reports(trace, 5_000_000)
    hinted.validate()
    assert reports.page.tolist() == [5120, 1024]
    assert reports.t.tolist() == [5_000_000, 10_000_000]
    t, page = _rows(hinted)
    assert page[:1024].tolist() == list(range(5120, 6144))
    assert 0 < t[0] < t[1023] <= 5_000_000 < t[1024]
    assert page[-1] == 50
    zero = next(iter(hinted.rows("zero")))
    assert len(zero.t) == 2048
