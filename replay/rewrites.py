"""The writes that a recording hides, drawn from a working-set model fitted to it.

A `first-write` trace knows a page's first write in each epoch and none of those that follow (the
model, section 7). The model of scenario `expected`: each page is written at random at a rate of its
own, times the pace of the epoch, which all pages share (the guest runs faster or slower, above all
when it is throttled). Both are fitted to how soon pages come back in the epochs after the one in
which they were first seen, by maximum likelihood for a first write that is seen only if it comes
before the epoch ends. Pages of which little is known lean towards the mean, as far as the others
differ from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma

import numpy as np
import numpy.typing as npt

from replay.columns import columns_of, merged, one_page_each
from tracer.format import TableName
from tracer.rows import Int64s
from tracer.trace import Trace

Floats = npt.NDArray[np.float64]

#: Of the rewrites of a page no more are drawn than one in this time: more would change nothing.
_CLOSEST_NS = 10_000_000
#: How often rates and paces are fitted to each other, and a distribution's mean to its shape.
_ROUNDS, _MEANS = 8, 10
#: How strongly a page leans towards the mean: shapes of the rates' gamma distribution to try.
_SHAPES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 100.0)


@dataclass(frozen=True)
class Sightings:
    """Each page's first writes, in time order: int64 guest ns, dense page, epoch.

    edges: int64, where epochs begin, and where the last one ends.
    """

    t: Int64s
    page: Int64s
    epoch: Int64s
    edges: Int64s


@dataclass(frozen=True)
class Fit:
    """Rewrite rates: of each page (per ns, at pace 1), the epochs' paces, and how they were had.

    returns: how many first writes after a page's first epoch the fit rests on. mean: the mean rate
    per ns. shape: of the gamma distribution of rates; small where pages differ much.
    """

    rate: Floats
    pace: Floats
    returns: int
    mean: float
    shape: float


def sightings(trace: Trace) -> Sightings:
    """Return the recorded first writes of a trace, runs of pages taken apart."""
    t, page = one_page_each(trace, "dirty")
    edges = np.union1d(trace.epochs[trace.epochs >= 0], [0, trace.meta.duration_ns + 1])
    inside = t > 0
    t, page = t[inside], page[inside]
    return Sightings(t, page, np.searchsorted(edges, t, side="right") - 1, edges)


def fit(seen: Sightings, pages: int) -> Fit:
    """Fit the model to what was seen; a page that never came back, of few, has rate 0."""
    length = np.diff(seen.edges).astype(np.float64)
    began = np.full(pages, len(length), np.int64)
    np.minimum.at(began, seen.page, seen.epoch)
    back = seen.epoch > began[seen.page]
    page, epoch = seen.page[back], seen.epoch[back]
    # A page is at risk from its epoch's beginning until it is written.
    unseen = seen.edges[epoch + 1] - seen.t[back]
    returns = np.bincount(page, minlength=pages).astype(np.float64)
    pace = np.ones(len(length))
    known = began < len(length) - 1
    mean, shape = 0.0, _SHAPES[-1]
    rate = np.zeros(pages)
    for _ in range(_ROUNDS if len(page) else 0):
        # What is left of the recording after each epoch, in units of pace.
        rest = np.append(np.cumsum((pace * length)[::-1])[::-1], 0.0)
        risk = rest[np.minimum(began + 1, len(length))]
        risk = risk - np.bincount(page, weights=pace[epoch] * unseen, minlength=pages)
        shape, mean = _prior(returns[known], risk[known])
        rate = np.where(known, (returns + shape) / (risk + shape / mean), 0.0)
        pace = _paces(rate, began, page, epoch, unseen, length)
    return Fit(rate, pace, len(page), mean, shape)


def _prior(returns: Floats, risk: Floats) -> tuple[float, float]:
    """Return shape and mean of the gamma distribution of rates that makes what was seen likeliest.

    With a page's rate unknown, its returns and its time at risk have the likelihood of a negative
    binomial distribution, also where a write ends the risk.
    """
    best = (-np.inf, _SHAPES[-1], 0.0)
    numbers, which = np.unique(returns, return_inverse=True)
    for shape in _SHAPES:
        inverse = shape * float(risk.sum()) / float(returns.sum())
        for _ in range(_MEANS):
            inverse = shape * len(risk) / float(((returns + shape) / (risk + inverse)).sum())
        gammas = np.array([lgamma(number + shape) - lgamma(shape) for number in numbers])
        scaled = shape * np.log(inverse) - (returns + shape) * np.log(inverse + risk)
        likelihood = float((gammas[which] + scaled).sum())
        best = max(best, (likelihood, shape, shape / inverse))
    return best[1], best[2]


def _paces(
    rate: Floats, began: Int64s, page: Int64s, epoch: Int64s, unseen: Int64s, length: Floats
) -> Floats:
    """Return each epoch's pace: its returns by those that the pages' rates make one expect."""
    epochs = len(length)
    entered = np.bincount(began, weights=rate, minlength=epochs + 1)[:epochs]
    at_risk = np.cumsum(entered) - entered
    hidden = np.bincount(epoch, weights=rate[page] * unseen, minlength=epochs)
    expected = at_risk * length - hidden
    found = np.bincount(epoch, minlength=epochs)
    # Rates and paces are known but for a factor: the paces' mean is 1, also where nothing is seen.
    usual = float(found.sum()) / max(float(expected.sum()), 1e-9)
    # One return more on both sides keeps an epoch of which little is known near the mean.
    pace: Floats = (found / usual + 1.0) / (np.maximum(expected, 0.0) + 1.0)
    return pace


def expected(trace: Trace, seed: int = 0) -> Trace:
    """Return the trace with hidden rewrites drawn: scenario `expected` as a trace of its own.

    A page that was zero after its recorded write stays so with each rewrite; a page that is freed
    is written no more.
    """
    seen = sightings(trace)
    model = fit(seen, trace.meta.pages)
    rng = np.random.Generator(np.random.PCG64(seed))
    until = np.minimum(seen.edges[seen.epoch + 1], _next_free(trace, seen))
    room = np.maximum(until - seen.t - 1, 0)
    wanted = model.rate[seen.page] * model.pace[seen.epoch] * room
    number = np.minimum(rng.poisson(wanted), room // _CLOSEST_NS + 1)
    number[room == 0] = 0
    which = np.repeat(np.arange(len(seen.t)), number)
    t = seen.t[which] + 1 + (rng.random(len(which)) * room[which]).astype(np.int64)
    stays = _zero_after(trace, seen)[which]
    more = {"dirty": (t, seen.page[which]), "zero": (t[stays], seen.page[which[stays]])}
    names: tuple[TableName, ...] = ("dirty", "freelist", "zero", "epochs")
    tables = {
        name: merged(columns_of(trace, name), *more.get(name, ()))
        for name in names
        if name in trace
    }
    return Trace.from_tables(trace.meta, trace.name, **tables)


def _keys(page: Int64s, t: Int64s, scale: int) -> Int64s:
    return page * scale + t


def _next_free(trace: Trace, seen: Sightings) -> Int64s:
    """Return for each sighting when its page is next freed, far away where it is not."""
    scale = trace.meta.duration_ns + 2
    never = np.full(len(seen.t), scale, np.int64)
    t, page = one_page_each(trace, "freelist")
    if not len(t):
        return never
    keys = np.sort(_keys(page, t, scale))
    at = np.searchsorted(keys, _keys(seen.page, seen.t, scale), side="right")
    found = keys[np.minimum(at, len(keys) - 1)]
    same = (at < len(keys)) & (found // scale == seen.page)
    return np.where(same, found % scale, never)


def _zero_after(trace: Trace, seen: Sightings) -> npt.NDArray[np.bool_]:
    """Return for each sighting whether its page is zero right after it."""
    scale = trace.meta.duration_ns + 2
    t, page = one_page_each(trace, "zero")
    later = t > 0
    return np.isin(_keys(seen.page, seen.t, scale), _keys(page[later], t[later], scale))
