"""The shares of a mixture: at the optimum, and what that says of pages rarely written."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from replay.rewrites.families import FAMILIES
from replay.rewrites.fit import evidence, fit
from replay.rewrites.kernels import OCTAVE
from replay.rewrites.shares import likeliest
from replay.rewrites.sightings import Sightings

SECOND = 10**9


def by_plain_steps(rows, weight, steps):
    share = np.full(rows.shape[1], 1 / rows.shape[1])
    for _ in range(steps):
        share = share * ((weight / (rows @ share)) @ rows)
    return share


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_likelier(seed):
    rng = np.random.default_rng(seed)
    centres = np.linspace(0, 6, 40)
    seen = np.concatenate([rng.normal(1, 1, 150), rng.normal(4, 1, 60)])
    rows = np.exp(-((seen[:, None] - centres) ** 2) / 2)
    weight = rng.random(len(rows))
    weight /= weight.sum()
    share = likeliest(rows, weight)
    assert share.min() > 0
    assert share.sum() == pytest.approx(1)
    # The optimum of a convex problem: but for the prior, no share is worth more than it costs.
    assert ((weight / (rows @ share)) @ rows).max() < 1 + 1e-3
    plain = by_plain_steps(rows, weight, 20_000)
    assert weight @ np.log(rows @ share) > weight @ np.log(rows @ plain) - 1e-3


def test_one_cell_and_cells_that_are_alike():
    assert likeliest(np.array([[0.5], [0.2]]), np.array([0.5, 0.5])).tolist() == [1]
    alike = likeliest(np.array([[0.5, 0.5, 0.1], [0.2, 0.2, 0.1]]), np.array([0.5, 0.5]))
    assert alike == pytest.approx([0.5, 0.5, 0], abs=0.01)


def first_writes(rate, edges, rng):
    """What first-write epochs between `edges` (s) show of pages written at random, `rate` a s."""
    parts = []
    for begin, end in pairwise(edges):
        wait = rng.standard_exponential(len(rate)) / rate
        page = np.flatnonzero(wait < end - begin)
        t = ((begin + wait[page]) * SECOND).astype(np.int64) + 1
        parts.append((t, page, np.full(len(page), begin), np.full(len(page), end)))
    t, page, begins, ends = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((t, page))
    begins, ends = ((column[order] * SECOND).astype(np.int64) for column in (begins, ends))
    return Sightings(t[order], page[order], begins, ends, int(edges[-1] * SECOND) + 1)


def fitted(seen, pages):
    known = evidence(seen)
    return fit(known, np.arange(len(known.page)), pages)


def foretold(model, seconds):
    """How many pages are written within so many s, by a fit."""
    mean = np.exp2(model.mean / OCTAVE) / SECOND
    silent = [
        FAMILIES[family].waits_at_rest(np.array([seconds / one]))[0]
        for family, one in zip(model.family, mean, strict=True)
    ]
    return model.pages * float(model.share @ (1 - np.array(silent)))


@pytest.mark.parametrize(
    "rate",
    [
        np.r_[np.full(40_960, 4000 / 40_960), np.full(250, 20.0)],
        np.r_[np.full(2_457, 2700 / 2_457), np.full(22_118, 300 / 22_118), np.full(250, 20.0)],
    ],
    ids=["uniform", "hot"],
)
@pytest.mark.parametrize(("edges", "off"), [((0, 5.9, 7.6, 8.2, 8.5), 0.02), ((0, 2.8, 3.3), 0.15)])
def test_a_short_recording_tells_how_many_pages_a_long_epoch_will_have(rate, edges, off):
    """Most of the pages are never seen in 3 s; how many there are shows in which come again."""
    rate = np.r_[rate, np.full(20_000, 1e-9)]
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        found.append(foretold(fitted(first_writes(rate, edges, rng), len(rate)), 12.0))
    wanted = float((1 - np.exp(-12 * rate)).sum())
    assert np.mean(found) == pytest.approx(wanted, rel=off)
