"""The working-set model, fitted: which pages are rewritten how often and how regularly.

Every page is a renewal process of one of the families, with a mean interval of its own. How common
each pair (a cell: family, mean) is among the guest's pages is found by maximum likelihood over a
fixed grid of cells (Laird 1978; `shares.py`), from how soon pages are seen again after an epoch
begins, and which are not. A page's own cell then follows by Bayes' rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from replay.rewrites.families import FAMILIES
from replay.rewrites.kernels import A_BINS, LOWEST, OCTAVE, X_BINS, likelihoods
from replay.rewrites.shares import likeliest
from replay.rewrites.sightings import Sightings
from replay.rewrites.waits import bins, edges, fine_bins, returns, same, waits
from tracer.rows import Int64s
from tracer.words import duration

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

#: The cells of a family are for mean intervals (ns) from this one up ...
_SHORTEST_NS = 1 << 22
#: ... to so many octaves beyond the recording, as far as the tables go: the longest is of pages
#: that are never written.
_BEYOND, _NEVER = 10, 61 * OCTAVE
#: One surprise says no more against a cell than this (natural logarithms).
_LEAST = np.log(1e-6)
#: The shares are fitted to so many pages at most, a seeded sample of those that were seen.
_SAMPLE = 1 << 14
#: A page is taken for a regular writer only if that is likelier by this (a logarithm): what is seen
#: once in a recording may also be one of many that are rarely written.
_DOUBT = 0.003
#: Cells of a smaller share are not worth carrying on.
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Evidence:
    """What is known of each page, one entry a wait, pages ascending.

    first: int64[pages seen + 1], where a page's entries begin. page: int64, the pages seen. age:
    int16, bin of the time from the last seen write to its epoch's end, -1 where nothing is known.
    wait: int16, FINE times the bin of the time from there to the next seen write, or to the
    recording's end. seen: bool, whether a write ended the wait. end: where the recording ends.
    """

    page: Int64s
    first: Int64s
    age: npt.NDArray[np.int16]
    wait: npt.NDArray[np.int16]
    seen: npt.NDArray[np.bool_]
    end: int


@dataclass(frozen=True)
class Fit:
    """The cells that matter, and how common they are among the guest's pages.

    family: int64, index into FAMILIES. mean: int64, bin of the mean interval. share: float64, sums
    to 1. likelihood: float64, natural logarithm, of all that was seen, per ns of wait. returns: how
    many waits ended with a write. pages: of the guest. end: of the recording, guest ns.
    """

    family: Int64s
    mean: Int64s
    share: Floats
    likelihood: float
    returns: int
    pages: int
    end: int


def in_words(fits: Sequence[Fit]) -> str:
    """Say which pages are rewritten, how regularly and how soon; fits: of each class of pages."""
    mean = np.exp2(np.concatenate([one.mean for one in fits]) / OCTAVE)
    often = mean < max(one.end for one in fits)
    pages = np.concatenate([one.share * one.pages for one in fits])[often]
    family = np.concatenate([one.family for one in fits])[often]
    returns, mean = sum(one.returns for one in fits), mean[often]
    written = float(pages.sum())
    if not written:
        return f"its fit: no page is rewritten ({returns} returns seen)"
    ways: dict[str, float] = {}
    for number, share in zip(family, pages, strict=True):
        name = FAMILIES[number].name
        ways[name] = ways.get(name, 0.0) + float(share)
    told = ", ".join(
        f"{100 * share / written:.0f} % {name}"
        for name, share in sorted(ways.items(), key=lambda way: -way[1])
    )
    order = np.argsort(mean)
    below = np.cumsum(pages[order]) / written
    quarter, half, rest = (
        duration(round(mean[order][np.searchsorted(below, part - 1e-9)]))
        for part in (0.25, 0.5, 0.75)
    )
    return (
        f"its fit: {written:,.0f} pages are rewritten, {told}; a quarter of them every {quarter} "
        f"or sooner, half {half}, three quarters {rest} ({returns:,} returns seen)"
    )


@cache
def tables() -> tuple[Floats32, Floats32]:
    """Return logarithms, float32[family, age, wait]: density at a wait (per mean), and no write.

    Bins are relative to the mean interval, from LOWEST up; the last age is "nothing known". The
    density is that inside a bin; the chance of no write is that up to where a bin begins, and there
    is one more of it.
    """
    ages = np.exp2((np.arange(A_BINS) + LOWEST + 0.5) / OCTAVE)
    edges = np.exp2((np.arange(X_BINS + 1) + LOWEST) / OCTAVE)
    density = np.empty((len(FAMILIES), A_BINS + 1, X_BINS), np.float32)
    silence = np.empty((len(FAMILIES), A_BINS + 1, X_BINS + 1), np.float32)
    for number, family in enumerate(FAMILIES):
        left = np.vstack([family.waits(ages, edges), family.waits_at_rest(edges)])
        inside = np.maximum(left[:, :-1] - left[:, 1:], 0) / np.diff(edges)
        density[number] = np.maximum(np.log(np.maximum(inside, 1e-300)), _LEAST)
        silence[number] = np.maximum(np.log(np.maximum(left, 1e-300)), _LEAST)
    return density, silence


def evidence(seen: Sightings) -> Evidence:
    """Return the waits of all pages that were seen at all."""
    begin = np.append(np.flatnonzero(seen.first), len(seen.page))
    pages = len(begin) - 1
    size = len(seen.page) + pages
    age, wait, ended = np.empty(size, np.int16), np.empty(size, np.int16), np.empty(size, np.bool_)
    waits(begin, seen.t, seen.closes, seen.end, edges(), age, wait, ended)
    first = begin + np.arange(pages + 1)
    return Evidence(seen.page[begin[:-1]], first, age, wait, ended, seen.end)


def fit(known: Evidence, among: Int64s, pages: int, seed: int = 0) -> Fit:
    """Fit the model to a class of so many pages, of which some were seen: `among`, indexes."""
    family, mean = _grid(known.end)
    chosen, times = _alike(known, among)
    if len(chosen) > _SAMPLE:
        rng = np.random.Generator(np.random.PCG64(seed))
        drawn = rng.multinomial(_SAMPLE, times / times.sum())
        chosen, times = chosen[drawn > 0], drawn[drawn > 0] * (times.sum() / _SAMPLE)
    rows = np.empty((len(chosen) + 1, len(family)))
    likelihoods(chosen, known.first, known.age, known.wait, known.seen, family, mean, *tables(),
                rows[:-1])  # fmt: skip
    rows[-1] = unseen(known.end, family, mean)
    weight = np.append(times, pages - len(among))
    rows -= np.where(family == 0, 0.0, _DOUBT)
    peak = rows.max(axis=1)
    rows = np.exp(rows - peak[:, None])
    share = likeliest(rows, weight / weight.sum())
    total = float((weight * (np.log(rows @ share) + peak)).sum())
    kept = share > _NEGLIGIBLE
    mean = np.where(mean == mean.max(), _NEVER, mean)
    family, mean, share = family[kept], mean[kept], share[kept]
    share = share * np.where(family == 0, 1.0, np.exp(-_DOUBT))
    share /= share.sum()
    ends = int(returns(among, known.first, known.age, known.seen))
    return Fit(family, mean, share, total, ends, pages, known.end)


def _alike(known: Evidence, among: Int64s) -> tuple[Int64s, Floats]:
    """Return one page each of those of which the same is known, and how many they are."""
    sums = same(among, known.first, known.age, known.wait, known.seen)
    _, chosen, times = np.unique(sums, return_index=True, return_counts=True)
    return among[chosen], times.astype(np.float64)


def unseen(end: int, family: Int64s, mean: Int64s) -> Floats:
    """Return each cell's likelihood (logarithm) for a page that nobody saw written up to `end`."""
    nothing = Evidence(
        np.zeros(1, np.int64),
        np.array([0, 1]),
        np.full(1, -1, np.int16),
        fine_bins(np.array([end])),
        np.zeros(1, np.bool_),
        end,
    )
    row = np.empty((1, len(family)))
    likelihoods(nothing.page, nothing.first, nothing.age, nothing.wait, nothing.seen, family, mean,
                *tables(), row)  # fmt: skip
    only: Floats = row[0]
    return only


def _grid(duration_ns: int) -> tuple[Int64s, Int64s]:
    """Return the cells: index of the family, bin of the mean interval."""
    shortest, recorded = bins(np.array([_SHORTEST_NS, duration_ns])).tolist()
    longest = max(recorded, shortest) + _BEYOND * OCTAVE
    cells = [
        (number, mean)
        for number, family in enumerate(FAMILIES)
        for mean in range(longest, shortest - 1, -(OCTAVE // family.means_an_octave))
    ]
    family, mean = np.array(cells[::-1], np.int64).T
    return family, mean
