"""Which page of many is written next: random numbers without a table, however many there are."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tracer.rows import Int64s

Floats = npt.NDArray[np.float64]


class Sampler(Protocol):
    """Draws indexes 0 … size - 1."""

    size: int

    def draw(self, n: int) -> Int64s:
        """Return n indexes, int64."""
        ...


class HotCold:
    """A share of the draws falls on the first `hot` indexes, the rest on the others, evenly."""

    def __init__(self, rng: np.random.Generator, size: int, hot: int, share: float):
        self.size = size
        self._rng = rng
        self._hot = min(max(hot, 1), size)
        self._share = share if self._hot < size else 1.0

    def draw(self, n: int) -> Int64s:
        """Return n indexes, int64."""
        u = self._rng.random(n)
        is_hot = self._rng.random(n) < self._share
        index = np.where(is_hot, u * self._hot, self._hot + u * (self.size - self._hot))
        return np.minimum(index.astype(np.int64), self.size - 1)


class Zipf:
    """Index k - 1 with a probability proportional to k^-exponent, k = 1 … size.

    By rejection from the inverted integral (Hörmann and Derflinger, "Rejection-inversion to
    generate variates from monotone discrete distributions", TOMACS 1996): exact for every exponent
    >= 0, in constant memory.
    """

    def __init__(self, rng: np.random.Generator, size: int, exponent: float):
        self.size = size
        self._rng = rng
        self._q = exponent
        self._low = self._integral(np.array([1.5]))[0] - 1.0
        self._high = self._integral(np.array([size + 0.5]))[0]
        second = np.array([2.5])
        self._accept = 2.0 - self._inverse(self._integral(second) - self._density(second - 0.5))[0]

    def draw(self, n: int) -> Int64s:
        """Return n indexes, int64."""
        out, accepted = self._try(n)
        while len(again := np.flatnonzero(~accepted)):
            out[again], accepted[again] = self._try(len(again))
        return out - 1

    def _try(self, n: int) -> tuple[Int64s, npt.NDArray[np.bool_]]:
        u = self._high + self._rng.random(n) * (self._low - self._high)
        x = self._inverse(u)
        k = np.clip(np.floor(x + 0.5), 1, self.size)
        good = k - x <= self._accept
        doubtful = np.flatnonzero(~good)
        near = k[doubtful]
        good[doubtful] = u[doubtful] >= self._integral(near + 0.5) - self._density(near)
        return k.astype(np.int64), good

    def _density(self, x: Floats) -> Floats:
        return np.exp(-self._q * np.log(x))

    def _integral(self, x: Floats) -> Floats:
        """The integral of x^-q from 1 to x, also where q is near 1."""
        log = np.log(x)
        a = 1.0 - self._q
        if abs(a) < 1e-9:
            return log
        return np.expm1(a * log) / a

    def _inverse(self, y: Floats) -> Floats:
        a = 1.0 - self._q
        if abs(a) < 1e-9:
            return np.exp(y)
        return np.exp(np.log1p(np.maximum(y * a, -1.0 + 1e-15)) / a)


class Scattered:
    """Lays `size` indexes out over extents of 2^order pages in a fixed random order.

    Neighbours stay neighbours within an extent. It holds no table: extent e goes to
    (e * a + b) mod extents.
    """

    def __init__(self, rng: np.random.Generator, size: int, order: int):
        self._order = order
        self._extents = max(size >> order, 1)
        self._factor = int(rng.integers(0, self._extents))
        while math.gcd(self._factor, self._extents) != 1:
            self._factor = (self._factor + 1) % max(self._extents, 2)
        self._shift = int(rng.integers(0, self._extents))

    def place(self, index: Int64s) -> Int64s:
        """Return where indexes lie."""
        extent = self.extent(index >> self._order)
        return (extent << self._order) | (index & ((1 << self._order) - 1))

    def extent(self, extent: Int64s) -> Int64s:
        """Return where extents lie."""
        return (extent * self._factor + self._shift) % self._extents
