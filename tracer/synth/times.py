"""When writes happen: at random, at a rate that the kind sets stretch by stretch."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from tracer.errors import UsageError
from tracer.rows import Int64s
from tracer.synth.guest import Guest
from tracer.words import duration

#: Between two writes, so that what is freed and taken fits in between: ns.
GAP = 4


class Timeline:
    """Gives times to writes: int64 ns, ascending, at least GAP apart and from 0.

    Within a stretch the writes of each block are spread evenly at random, as a Poisson process of
    that rate would with their number given. pace: shares of the duration and of the writes.
    """

    def __init__(self, guest: Guest, pace: tuple[tuple[Fraction, Fraction], ...]):
        self._rng = guest.rng("times")
        self._ns, self._writes = [0], [0]
        time = writes = Fraction(0)
        for share, part in pace:
            time, writes = time + share, writes + part
            self._ns.append(int(time * guest.duration_ns))
            self._writes.append(int(writes * guest.writes))
        self._stretch = self._done = 0
        for i in range(len(pace)):
            number, length = self._step(self._writes, i), self._step(self._ns, i)
            if number and length < (number + 1) * (GAP + 1):
                raise UsageError(
                    f"{number} writes do not fit in {duration(length)}; lower the rate (at most "
                    f"{10**9 // (GAP + 1) // 10**6} million writes/s at the busiest)"
                )

    @staticmethod
    def _step(values: list[int], i: int) -> int:
        return values[i + 1] - values[i]

    def left(self) -> int:
        """Return how many writes are left in the stretch under way, 0 at the very end."""
        while self._stretch < len(self._ns) - 1:
            left = self._writes[self._stretch + 1] - self._done
            if left:
                return left
            self._stretch += 1
        return 0

    def next(self, n: int) -> Int64s:
        """Return the times of the next n <= left() writes."""
        begin, end = self._moment(self._done), self._moment(self._done + n)
        self._done += n
        room = end - begin - GAP * (n + 1)
        spaced = np.cumsum(self._rng.standard_exponential(n + 1))
        at = np.floor(spaced[:-1] * (room / spaced[-1])).astype(np.int64)
        times: Int64s = begin + np.minimum(at, room) + GAP * np.arange(1, n + 1)
        return times

    def _moment(self, write: int) -> int:
        i = self._stretch
        number = self._step(self._writes, i)
        return self._ns[i] + self._step(self._ns, i) * (write - self._writes[i]) // number
