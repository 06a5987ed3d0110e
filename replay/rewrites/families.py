"""How regularly a page is rewritten: distributions of the time from one write to the next.

Each family is a renewal process of mean interval 1. What a recording shows of it is the wait from
an epoch's beginning to the page's first write in it, where the write before that was seen `age`
before the epoch began and others may have gone unseen in between. All families are of phase type,
so that this wait has a closed form:

- `Erlang(shape)`: a write follows `shape` exponential phases; shape 1 writes at random, a large one
  keeps a period (a sweep over memory, a young collection). Phases since the last seen write form a
  cycle, whose distribution is a discrete Fourier transform.
- `Bursts(share, ratio)`: of the intervals a share is longer on average, `ratio` times the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Family(Protocol):
    """A renewal process of mean interval 1."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    def waits(self, ages: Floats, x: Floats) -> Floats:
        """Return P(no write in `x`), float64[ages, x], `ages` after a write with others unseen."""
        ...

    def waits_at_rest(self, x: Floats) -> Floats:
        """Return P(no write in `x`), float64[x], from a moment that knows nothing of the page."""
        ...


@dataclass(frozen=True)
class Erlang:
    """Intervals of `shape` exponential phases: the larger, the more regular."""

    shape: int

    @property
    def means_an_octave(self) -> int:
        """How many mean intervals of an octave can be told apart."""
        return 4 if self.shape >= 16 else 2

    @property
    def name(self) -> str:
        """What the report calls it."""
        return "at random" if self.shape == 1 else "regularly"

    def waits(self, ages: Floats, x: Floats) -> Floats:
        """Return P(no write in `x`), float64[ages, x]."""
        turn = np.exp(2j * np.pi * np.arange(self.shape) / self.shape) - 1
        phases = np.fft.fft(np.exp(np.outer(ages * self.shape, turn)), axis=1).real / self.shape
        left: Floats = np.clip(phases, 0, 1) @ self._survival(x)
        return left

    def waits_at_rest(self, x: Floats) -> Floats:
        """Return P(no write in `x`), float64[x]."""
        mean: Floats = self._survival(x).mean(axis=0)
        return mean

    def _survival(self, x: Floats) -> Floats:
        """Return for each phase passed, float64[phase, x], the chance of no write in `x`."""
        steps = np.arange(self.shape)
        scaled = np.maximum(x * self.shape, 1e-300)
        gammas = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, self.shape)))])
        few = np.exp(np.outer(steps, np.log(scaled)) - scaled - gammas[:, None])
        # With j phases passed, no write as long as fewer than shape - j come.
        return np.cumsum(few, axis=0)[::-1]


@dataclass(frozen=True)
class Bursts:
    """Exponential intervals, a share of them `ratio` times as long as the others."""

    share: float
    ratio: float

    @property
    def means_an_octave(self) -> int:
        """How many mean intervals of an octave can be told apart."""
        return 2

    @property
    def name(self) -> str:
        """What the report calls it."""
        return "in bursts"

    @property
    def short(self) -> float:
        """The mean of the short intervals; of the long ones it is `ratio` times that."""
        return 1 / (1 - self.share + self.share * self.ratio)

    def waits(self, ages: Floats, x: Floats) -> Floats:
        """Return P(no write in `x`), float64[ages, x]."""
        rest = self._rest
        leaving = self.share / self.short + (1 - self.share) / (self.short * self.ratio)
        long = rest + (self.share - rest) * np.exp(-leaving * ages)
        return self._mixed(long[:, None], x)

    def waits_at_rest(self, x: Floats) -> Floats:
        """Return P(no write in `x`), float64[x]."""
        return self._mixed(np.array(self._rest), x)

    @property
    def _rest(self) -> float:
        """The share of time that long intervals take."""
        return self.share * self.ratio * self.short

    def _mixed(self, long: Floats, x: Floats) -> Floats:
        mixed: Floats = (1 - long) * np.exp(-x / self.short)
        return mixed + long * np.exp(-x / (self.short * self.ratio))


FAMILIES: tuple[Erlang | Bursts, ...] = (
    Erlang(1),
    Erlang(4),
    Erlang(16),
    Erlang(64),
    Bursts(0.1, 10.0),
    Bursts(0.3, 10.0),
    Bursts(0.1, 100.0),
    Bursts(0.3, 100.0),
)
