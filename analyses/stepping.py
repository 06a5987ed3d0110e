"""From replays at single values to what holds for every value of an interval.

Equal digests at two values mean the same outcome between them (`analyses.history`), whatever lies
in between; equal outcomes mean nothing. So an interval is cut until the digests at its ends are
equal or its ends are neighbours.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from analyses.history import Checked

#: An interval is wide if it is more than such a part of the widest.
COARSE = 64

Check = Callable[[int], Checked]


@dataclass(frozen=True)
class Piece:
    """Values from lo to hi with one outcome; None where none of them was checked."""

    lo: int
    hi: int
    outcome: Checked | None


class Stepper:
    """Checks values of an interval, and knows between which of them nothing changes.

    check: replays at a value. budget: replays at most. guesses: whether moments are affine in the
    value, so that the next change can be guessed.
    """

    def __init__(self, check: Check, budget: int, *, guesses: bool = True):
        self._check = check
        self._budget = budget
        self._guesses = guesses
        self._open: list[tuple[int, int, int, int]] = []
        self._widest = 0
        self.checked: dict[int, Checked] = {}
        #: Told after each replay: how many there were.
        self.tell: Callable[[int], None] = lambda _: None

    @property
    def spent(self) -> bool:
        """Whether no replay is left."""
        return len(self.checked) >= self._budget

    def add(self, lo: int, hi: int) -> None:
        """Take an interval on; its ends are checked at once, while the budget lasts."""
        if self._at(lo) is not None and self._at(hi) is not None:
            self._widest = max(self._widest, hi - lo)
            self._push(lo, hi)

    def run(self) -> None:
        """Cut one interval after the other, until none is open or the budget is spent.

        Wide ones are halved: so the picture as a whole comes first. Narrow ones also give up their
        first piece, whose end is guessed from how things move, those first in which pages begin or
        cease to be lost.
        """
        while self._open and not self.spent:
            _, _, lo, hi = heapq.heappop(self._open)
            narrow = hi - lo <= self._widest // COARSE
            self._halve(self._first_piece(lo, hi) if narrow and self._guesses else lo, hi)

    def same(self, lo: int, hi: int) -> bool:
        """Return whether nothing changes from one checked value to another."""
        digest = self.checked[lo].digest
        return digest is not None and digest == self.checked[hi].digest

    def pieces(self, lo: int, hi: int) -> list[Piece]:
        """Return what is known from lo to hi, as pieces without a gap."""
        values = sorted(self.checked)
        found: list[Piece] = []
        at = lo
        for value in values[bisect_left(values, lo) : bisect_right(values, hi)]:
            if at < value:
                settled = at > lo and self.same(at - 1, value)
                found.append(Piece(at, value - 1, self.checked[value] if settled else None))
            found.append(Piece(value, value, self.checked[value]))
            at = value + 1
        if at <= hi:
            found.append(Piece(at, hi, None))
        return found

    def _first_piece(self, lo: int, hi: int) -> int:
        """Return a checked value up to which all is settled from lo on, or waits its turn."""
        if self.checked[lo].digest is None or self._at(lo + 1) is None:
            return lo
        if not self.same(lo, lo + 1):
            return lo + 1
        end = self._guess(lo, hi)
        if self._at(end) is None:
            return lo + 1
        if not self.same(lo, end):
            self._halve(lo + 1, end)
            return end
        return end if end + 1 >= hi or self._at(end + 1) is None else end + 1

    def _guess(self, lo: int, hi: int) -> int:
        """Guess the last value up to which nothing changes, from the room at two of them."""
        near, next_ = self.checked[lo].room, self.checked[lo + 1].room
        closing = near - next_
        left = next_[closing > 0] // closing[closing > 0]
        step = int(left.min()) if len(left) else hi
        return min(lo + 1 + step, hi - 1)

    def _halve(self, lo: int, hi: int) -> None:
        middle = (lo + hi) // 2
        if middle > lo and not self.same(lo, hi) and self._at(middle) is not None:
            self._push(lo, middle)
            lo = middle
        self._push(lo, hi)

    def _push(self, lo: int, hi: int) -> None:
        if hi - lo <= 1 or self.same(lo, hi):
            return
        wide = hi - lo > self._widest // COARSE
        turns = bool(self.checked[lo].lost) != bool(self.checked[hi].lost)
        heapq.heappush(self._open, (0 if wide else 2 - turns, lo - hi, lo, hi))

    def _at(self, value: int) -> Checked | None:
        if value not in self.checked:
            if self.spent:
                return None
            self.checked[value] = self._check(value)
            self.tell(len(self.checked))
        return self.checked[value]
