"""A Java heap: eden swept, survivors copied, an old generation with a card table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tracer.rows import NO_TIMES, Int64s
from tracer.synth.guest import NO_RUNS, Amount, Block, Guest, Layout, Plan, joined
from tracer.synth.kinds.base import Common, with_kernel
from tracer.synth.streams import Resident, free_at_start, kernel, whole

#: Allocations that write a page of eden, one after the other.
_FILLS = 2
#: Pages of heap whose cards share a page of the card table: a card is a byte for 512 bytes.
_CARDS = 512
#: Writes made at a time.
_PIECE = 1 << 14


@dataclass(frozen=True)
class Options(Common):
    """Options of a Java heap.

    eden: share of the heap. survival: share of eden that lives through a young collection.
    promotion: share of those that live through the next one too and go to the old generation.
    old_writes: share of the program's writes that go there, each marking a card. old_live: share
    of the old generation that a full collection keeps; the rest of it is given back to the system.
    resident: share of the heap in use at the start, eden first.
    """

    background: Fraction = Fraction(1, 50)
    heap: Amount = Fraction(1, 2)
    eden: Fraction = Fraction(1, 4)
    survival: Fraction = Fraction(1, 20)
    promotion: Fraction = Fraction(3, 10)
    old_writes: Fraction = Fraction(1, 10)
    old_live: Fraction = Fraction(2, 5)
    resident: Fraction = Fraction(1, 2)


def build(guest: Guest, options: Options) -> Plan:
    """Return the guest. Eden and survivor spaces stay committed; the old generation breathes."""
    layout = Layout(guest)
    base = kernel(guest, layout)
    size = guest.pages_of(options.heap)
    eden = layout.take("eden", int(size * options.eden))
    spaces = [layout.take(name, eden.pages // 8) for name in ("survivor 0", "survivor 1")]
    young = eden.pages + sum(space.pages for space in spaces)
    old = layout.take("old generation", size - young)
    table = layout.take("card table", -(-(young + old.pages) // _CARDS))
    heap = layout.span("heap", eden, table)
    extents = np.arange(heap.pages >> guest.order)
    in_use = extents < int(size * options.resident) >> guest.order
    in_use |= extents >= (table.first - heap.first) >> guest.order
    resident = Resident(heap, guest.order, in_use)
    rest = whole(layout.rest("never used"))
    free = free_at_start(float(options.stale), resident.free_runs(), rest)
    used = min(max(int(size * options.resident) - young, 0), old.pages)
    lives = _Heap(
        guest.rng("heap"), options, eden.pages, spaces[0].pages, old.pages, used, guest.order
    )
    stream = Collected(lives, resident)
    return Plan(with_kernel(guest, options, stream, base), free, layout.regions)


@dataclass(frozen=True)
class _Piece:
    """Writes, pages counted from the heap's first, and extents that are given back before them."""

    index: Int64s
    freed: Int64s = field(default_factory=lambda: NO_TIMES)


class Collected:
    """The writes of a heap, whose memory is taken when it is first written."""

    def __init__(self, heap: _Heap, resident: Resident):
        self._pieces = heap.pieces()
        self._resident = resident
        self._left = NO_TIMES

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        index, frees, takes, done = [], [], [], 0
        while done < n:
            if not len(self._left):
                piece = next(self._pieces)
                self._left = piece.index
                if len(piece.freed):
                    frees.append(self._resident.freed(piece.freed, done))
                continue
            part, self._left = self._left[: n - done], self._left[n - done :]
            taken = self._resident.taken(part)
            takes.append(taken.at_(taken.at + done) if len(taken) else NO_RUNS)
            index.append(part)
            done += len(part)
        first = self._resident.region.first
        return Block(first + np.concatenate(index), joined(frees), joined(takes))


class _Heap:
    """What the program and its collector write, without end.

    Pages from the heap's first: eden, two survivor spaces, the old generation, the card table.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        options: Options,
        eden: int,
        survivor: int,
        old: int,
        used: int,
        order: int,
    ):
        self._rng, self._options, self._order = rng, options, order
        self._eden, self._survivor, self._old = eden, survivor, old
        self._old_first = eden + 2 * survivor
        self._table = self._old_first + old
        self._used = used

    def pieces(self) -> Iterator[_Piece]:
        """Yield the writes, stretch by stretch."""
        survived, to = 0, 0
        lives = min(int(self._eden * self._options.survival), self._survivor)
        while True:
            yield from self._program()
            promoted = int(survived * self._options.promotion)
            if self._used + promoted > self._old:
                yield from self._full_collection()
            promoted = min(promoted, self._old - self._used)
            yield from _in_order(self._eden + to * self._survivor, lives)
            yield from _in_order(self._old_first + self._used, promoted)
            yield from self._marks(self._used, promoted)
            self._used += promoted
            survived, to = lives, 1 - to

    def _program(self) -> Iterator[_Piece]:
        """The program allocates until eden is full, and now and then writes what is old."""
        done, total = 0, self._eden * _FILLS
        # An old write is two: the page and its card.
        share = float(self._options.old_writes)
        share = share / (2 - share)
        while done < total:
            n = min(_PIECE, total - done)
            is_old = (self._rng.random(n) < share) & (self._used > 0)
            place = np.cumsum(1 + is_old) - 1 - is_old
            index = np.empty(n + int(is_old.sum()), np.int64)
            fills = done + np.cumsum(~is_old) - ~is_old
            index[place] = fills // _FILLS
            pages = (self._used * self._rng.random(int(is_old.sum())) ** 2).astype(np.int64)
            index[place[is_old]] = self._old_first + pages
            index[place[is_old] + 1] = self._card(pages)
            done += n - int(is_old.sum())
            yield _Piece(index)

    def _card(self, pages: Int64s) -> Int64s:
        return self._table + (self._old_first + pages) // _CARDS

    def _marks(self, first: int, pages: int) -> Iterator[_Piece]:
        if pages:
            cards = np.unique(self._card(np.array([first, first + pages - 1])))
            yield from _in_order(int(cards[0]), int(cards[-1] - cards[0]) + 1)

    def _full_collection(self) -> Iterator[_Piece]:
        """Slide what lives together, clear the cards, give the rest back."""
        lives = int(self._old * self._options.old_live)
        yield from _in_order(self._old_first, lives)
        yield from self._marks(0, self._used)
        keep = -(-(self._old_first + lives) >> self._order)
        yield _Piece(NO_TIMES, np.arange(keep, self._table >> self._order))
        self._used = lives


def _in_order(first: int, pages: int) -> Iterator[_Piece]:
    for at in range(first, first + pages, _PIECE):
        yield _Piece(np.arange(at, min(at + _PIECE, first + pages)))
