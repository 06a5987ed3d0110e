"""What is known of each page, against the same said plainly."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from replay.grouped import grouped
from replay.rewrites.families import FAMILIES
from replay.rewrites.fit import Evidence, tables, unseen
from replay.rewrites.kernels import A_BINS, LOWEST, X_BINS, choose_cells, likelihoods
from replay.rewrites.sightings import sightings
from replay.rewrites.waits import FINE, OCTAVE, bins, edges, fine_bins, next_after, same, together
from tracer import Block, Meta, Trace
from tracer.format import SCHEMAS

PARTS = FINE * OCTAVE


def test_bins_are_exact():
    rng = np.random.default_rng(1)
    near = [2**power + step for power in range(2, 62) for step in (-1, 0, 1)]
    near += [int(edge >> 1) + step for edge in edges() for step in (-1, 0, 1)]
    ns = np.array([*range(1, 600), *near, *rng.integers(1, 2**62, 300).tolist()])
    for one, fine, coarse in zip(
        ns.tolist(), fine_bins(ns).tolist(), bins(ns).tolist(), strict=True
    ):
        assert 2**fine <= one**PARTS < 2 ** (fine + 1)
        assert coarse == fine // FINE
    assert fine_bins(np.array([0, -3])).tolist() == [0, 0]


def a_trace(rng, resolution):
    pages, end = 60, 1000
    rows = {name: [] for name in ("dirty", "freelist", "zero")}
    for name in rows:
        t = np.sort(np.append(rng.integers(0, end, 75), (0, 100, 250, 251, 700)))
        page = rng.integers(0, pages - 8, 80)
        rows[name] = {"t_ns": t, "page": page, "count": rng.integers(1, 8, 80)}
    rows["freelist"]["free"] = rng.random(80) < 0.5
    rows["epochs"] = {"t_ns": np.array([100, 250, 251, 700])}
    meta = Meta(4096, pages, end, (Block("ram", 0, pages),), resolution, "event")
    return Trace.from_tables(
        meta, **{name: pa.table(table, SCHEMAS[name]) for name, table in rows.items()}
    )


def apart(trace, name):
    """Rows as (page, time), runs taken apart, ascending; of the free list what enters it."""
    found = []
    for rows in trace.rows(name):
        free = rows.free if name == "freelist" else np.ones(len(rows.t), bool)
        for t, page, count, enters in zip(rows.t, rows.page, rows.count, free, strict=True):
            found += [(int(p), int(t)) for p in range(page, page + count) if t > 0 and enters]
    return sorted(found)


@pytest.mark.parametrize("resolution", ["first-write", "epoch", "write"])
def test_sightings_and_their_neighbours(resolution):
    trace = a_trace(np.random.default_rng(len(resolution)), resolution)
    for name in ("dirty", "freelist", "zero"):
        by_page = grouped(trace, name, after=0)
        pages = np.repeat(np.arange(trace.meta.pages), np.diff(by_page.first))
        assert list(zip(pages.tolist(), by_page.t.tolist(), strict=True)) == apart(trace, name)
    seen = sightings(trace)
    assert list(zip(seen.page.tolist(), seen.t.tolist(), strict=True)) == apart(trace, "dirty")
    edges = [0, *trace.epochs.tolist(), 1001]
    for t, begins, closes in zip(seen.t, seen.begins, seen.closes, strict=True):
        if resolution == "write":
            assert begins == closes == t
        elif resolution == "epoch":  # rows at an epoch's end are of the epoch that ends
            assert (begins, closes) == (
                max(e for e in edges if e < t),
                min(e for e in edges if e >= t),
            )
        else:
            assert (begins, closes) == (
                max(e for e in edges if e <= t),
                min(e for e in edges if e > t),
            )
    freed, zeroed = (grouped(trace, name, after=0) for name in ("freelist", "zero"))
    until = next_after(seen.page, seen.t, freed.first, freed.t, seen.closes)
    stays = together(seen.page, seen.t, zeroed.first, zeroed.t)
    moves, zeros = apart(trace, "freelist"), set(apart(trace, "zero"))
    assert (until < seen.closes).any() or resolution == "write"
    for i, (page, t) in enumerate(apart(trace, "dirty")):
        later = [when for who, when in moves if who == page and when > t]
        assert until[i] == min([int(seen.closes[i]), *later])
        assert stays[i] == ((page, t) in zeros)


def some_evidence(rng, pages, kinds):
    size = rng.integers(1, 6, pages)
    first = np.append(0, np.cumsum(size))
    total = int(first[-1])
    return Evidence(
        np.arange(pages),
        first,
        rng.integers(-1, 200, total).astype(np.int16),
        rng.integers(0, kinds, total).astype(np.int16),
        rng.random(total) < 0.5,
        10**9,
    )


@pytest.mark.parametrize("kinds", [40, 12_000])
def test_likelihoods_and_cells(kinds):
    """With few kinds of waits, which are all kept, and with more than are kept."""
    rng = np.random.default_rng(kinds)
    known = some_evidence(rng, 60_000 if kinds > 1000 else 2_000, kinds)
    family = np.array([0, 0, 1, 2, len(FAMILIES) - 1])
    mean = np.array([60, 130, 200, 150, 90])
    density, silence = tables()
    waits = known.first, known.age, known.wait, known.seen
    pages = np.arange(len(known.page))
    rows = np.empty((len(pages), len(family)))
    likelihoods(pages, *waits, family, mean, density, silence, rows)
    age, wait = known.age.astype(np.int64)[:, None], known.wait.astype(np.int64)[:, None]
    a = np.where(age < 0, A_BINS, np.clip(age - mean - LOWEST, 0, A_BINS - 1))
    ahead = wait - mean * FINE
    x = np.clip(ahead // FINE - LOWEST, 0, X_BINS - 1)
    part = ahead % FINE / FINE
    shown = density[family, a, x] + ahead * (np.log(2) / OCTAVE / FINE)
    hidden = (1 - part) * silence[family, a, x] + part * silence[family, a, x + 1]
    wanted = np.add.reduceat(np.where(known.seen[:, None], shown, hidden), known.first[:-1])
    np.testing.assert_allclose(rows, wanted, rtol=1e-9)

    share, uniform = np.array([0.3, 0.1, 0.3, 0.2, 0.1]), rng.random(len(pages))
    alike = same(pages, *waits)
    cells = choose_cells(
        pages, alike, np.argsort(alike), *waits, family, mean, share, density, silence, uniform
    )
    weight = np.cumsum(share * np.exp(wanted - wanted.max(axis=1, keepdims=True)), axis=1)
    drawn = (weight < uniform[:, None] * weight[:, -1:]).sum(axis=1)
    assert (cells == drawn).mean() > 0.9999
    assert len(set(cells.tolist())) == len(family)


def test_pages_are_alike_that_show_the_same():
    rng = np.random.default_rng(5)
    known = some_evidence(rng, 9_000, 2)
    known.age[:] = known.age % 2
    sums = same(known.page, known.first, known.age, known.wait, known.seen)
    shown = [
        tuple(
            sorted(
                (int(known.age[i]), int(known.wait[i]), bool(known.seen[i]))
                for i in range(first, past)
            )
        )
        for first, past in zip(known.first[:-1], known.first[1:], strict=True)
    ]
    assert len(set(shown)) < len(shown) / 2
    assert (
        len(set(zip(shown, sums.tolist(), strict=True)))
        == len(set(shown))
        == len(set(sums.tolist()))
    )


def test_a_page_that_is_never_seen_is_likelier_the_rarer_it_is_written():
    mean = np.array([210, 240, 270, 300])
    row = unseen(10**9, np.zeros(4, np.int64), mean)
    assert (np.diff(row) > 0).all()
