"""The compiled loops of what a recording shows of each page: times told apart by logarithms.

All of it in whole numbers, so that every processor and library comes to the same bins.
"""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated,no-untyped-def,no-untyped-call"

from __future__ import annotations

from functools import cache
from math import isqrt

import numpy as np
import numpy.typing as npt

from replay.kernels.bits import highest
from tracer.compiled import compiled
from tracer.rows import Int64s

#: Times are told apart by an eighth of an octave, and waits so much finer: many pages have the same
#: silence, to the recording's end.
OCTAVE, FINE = 8, 32
_PARTS = OCTAVE * FINE
_ODD, _MIXER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_29 = np.uint64(29)


@cache
def edges() -> npt.NDArray[np.uint64]:
    """Return 2^63 * 2^(k / _PARTS), rounded up, for k in 0.._PARTS - 1."""
    found = []
    for k in range(_PARTS):
        power = root = 1 << (63 * _PARTS + k)
        for _ in range(_PARTS.bit_length() - 1):
            root = isqrt(root)
        found.append(root + (root**_PARTS < power))
    return np.array(found, np.uint64)


@compiled
def _fine_bin(ns, edges):
    """Return floor(log2(ns) * _PARTS), 0 for times below 1."""
    if ns < 1:
        return np.int64(0)
    octave = highest(np.uint64(ns))
    mantissa = np.uint64(ns) << np.uint64(63 - octave)
    low, high = 0, _PARTS  # the last edge that is not above it
    while high - low > 1:
        middle = (low + high) // 2
        if edges[middle] <= mantissa:
            low = middle
        else:
            high = middle
    return np.int64(octave * _PARTS + low)


@compiled
def _fine_bins(ns, edges):
    found = np.empty(len(ns), np.int16)
    for i in range(len(ns)):
        found[i] = _fine_bin(ns[i], edges)
    return found


def fine_bins(ns: Int64s) -> npt.NDArray[np.int16]:
    """Return FINE times the logarithmic bins of times (ns), int16."""
    found: npt.NDArray[np.int16] = _fine_bins(ns, edges())
    return found


def bins(ns: Int64s) -> npt.NDArray[np.int16]:
    """Return the logarithmic bins of times (ns), int16."""
    found: npt.NDArray[np.int16] = fine_bins(ns) // np.int16(FINE)
    return found


@compiled
def waits(first, t, closes, end, edges, age, wait, seen):
    """Fill a page's waits (see `fit.Evidence`): one before each sighting and one after the last.

    first: int64[pages + 1] into the sightings `t`, `closes`.
    """
    for page in range(len(first) - 1):
        at, known, since = first[page] + page, -1, 0
        for i in range(first[page], first[page + 1]):
            # How long a page waited for its write is told apart no finer than by bins.
            age[at], seen[at] = known, True
            wait[at] = _fine_bin(t[i] - since, edges) // FINE * FINE + FINE // 2
            known, since = _fine_bin(closes[i] - t[i], edges) // FINE, closes[i]
            at += 1
        age[at], seen[at], wait[at] = known, False, _fine_bin(end - 1 - since, edges)


@compiled
def same(chosen, first, age, wait, seen):
    """Return uint64[len(chosen)], alike for pages of the same waits, in whatever order (a hash)."""
    sums = np.zeros(len(chosen), np.uint64)
    for number in range(len(chosen)):
        for i in range(first[chosen[number]], first[chosen[number] + 1]):
            mixed = np.uint64(0)
            for value in (np.int64(age[i]), np.int64(wait[i]), np.int64(seen[i])):
                mixed = (mixed ^ (np.uint64(value) + _ODD)) * _MIXER
                mixed ^= mixed >> _29
            sums[number] += mixed
    return sums


@compiled
def returns(chosen, first, age, seen):
    """Return how many of the chosen pages' waits began at a write that was seen and ended so."""
    count = 0
    for page in chosen:
        for i in range(first[page], first[page + 1]):
            count += seen[i] and age[i] >= 0
    return np.int64(count)


@compiled
def around(t, edges, late):
    """Return the edges (int64, ascending) before and after each time.

    late: at its own instant an edge still comes after.
    """
    before, behind = np.empty_like(t), np.empty_like(t)
    for i in range(len(t)):
        low, high = 0, len(edges)  # edges[low - 1] is before it, edges[high] behind
        while low < high:
            middle = (low + high) // 2
            if edges[middle] < t[i] or (edges[middle] == t[i] and not late):
                low = middle + 1
            else:
                high = middle
        before[i], behind[i] = edges[low - 1], edges[low]
    return before, behind


@compiled
def next_after(page, t, other_first, other_t, otherwise):
    """Return for each sighting when the next of the other times of its page comes, or `otherwise`.

    page, t: by page, then time. otherwise: int64, one a sighting; the sooner counts.
    """
    found = otherwise.copy()
    at, last = np.int64(0), np.int64(-1)
    for i in range(len(t)):
        if page[i] != last:
            last = page[i]
            at = other_first[last]
        while at < other_first[last + 1] and other_t[at] <= t[i]:
            at += 1
        if at < other_first[last + 1]:
            found[i] = min(found[i], other_t[at])
    return found


@compiled
def together(page, t, other_first, other_t):
    """Return for each sighting whether one of the other times of its page is the same instant."""
    found = np.zeros(len(t), np.bool_)
    at, last = np.int64(0), np.int64(-1)
    for i in range(len(t)):
        if page[i] != last:
            last = page[i]
            at = other_first[last]
        while at < other_first[last + 1] and other_t[at] < t[i]:
            at += 1
        found[i] = at < other_first[last + 1] and other_t[at] == t[i]
    return found
