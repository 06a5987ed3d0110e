"""How regularly a page is rewritten: distributions of the time from one write to the next.

Each family is a renewal process of mean interval 1: a write follows `shape` exponential phases.
Shape 1 writes at random; a large one keeps a period, as a sweep over memory does, or a young
collection. What a recording shows of it is the wait from an epoch's beginning to the page's first
write in it, where the write before that was seen `age` before the epoch began and others may have
gone unseen in between. Phases since the last seen write form a cycle, whose distribution is a
discrete Fourier transform, so that this wait has a closed form.

Families that write in bursts are left out on purpose: of a burst a first-write log shows the first
write alone, so that how many follow would be made up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


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


FAMILIES: tuple[Erlang, ...] = (Erlang(1), Erlang(4), Erlang(16), Erlang(64))
