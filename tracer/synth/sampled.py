"""A free list that is only looked at now and then. Two bits a page."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit

from tracer.rows import Int64s
from tracer.synth.bits import no_bits, put, runs
from tracer.synth.chunks import Chunk, Table


class Sampled:
    """Keeps what samples of the free list at every multiple of `sample_ns` show.

    A page that two samples in a row see differently moved at some time between them: its row
    stands at the second. With `moved`, a recorded write to a page that is still listed moves the
    take to that write, as a reader of samples does (the model, section 1).
    """

    def __init__(self, pages: int, sample_ns: int, duration_ns: int, *, moved: bool):
        self._free, self._listed = no_bits(pages), no_bits(pages)
        self._sample_ns, self._duration_ns = sample_ns, duration_ns
        self._last, self._next = 0, sample_ns
        self._moved = moved
        # Takes moved to a write since the last sample: rows t, page, count.
        self._taken: list[Int64s] = []

    def feed(self, chunk: Chunk) -> Iterator[Chunk]:
        """Take a chunk; yield what is recorded by now."""
        moves, dirty = chunk.moves, chunk.dirty
        if chunk.end == 0:  # the state at the start
            put(self._free, moves.page, moves.count, moves.free)
            put(self._listed, moves.page, moves.count, moves.free)
            since = np.zeros(len(moves), np.int64)
            rows = Table(moves.t, moves.page, moves.count, moves.free, since)
            yield Chunk(0, chunk.dirty, rows, chunk.zero, chunk.epochs)
            return
        yield Chunk(chunk.end, dirty, zero=chunk.zero, epochs=chunk.epochs)
        step = row = 0
        last = max(_last(moves), _last(dirty))
        while self._next < last:
            upto = int(np.searchsorted(dirty.t, self._next))
            yield self._write(dirty, row, upto)
            until = int(np.searchsorted(moves.t, self._next, side="right"))
            self._move(moves, step, until)
            row, step = upto, until
            yield from self._sample()
        yield self._write(dirty, row, len(dirty))
        self._move(moves, step, len(moves))

    def finish(self) -> Iterator[Chunk]:
        """Take the samples that are left."""
        while self._next <= self._duration_ns:
            yield from self._sample()

    def _move(self, moves: Table, low: int, high: int) -> None:
        if low < high:
            put(self._free, moves.page[low:high], moves.count[low:high], moves.free[low:high])

    def _write(self, dirty: Table, low: int, high: int) -> Chunk:
        rows = dirty.part(low, high)
        room = int(_listed(rows.page, rows.count, self._listed)) if self._moved else 0
        if not room:
            return Chunk(0)
        out = np.empty((3, room), np.int64)
        made = int(_take(rows.t, rows.page, rows.count, self._listed, out))
        t, page, count = taken = out[:, :made].copy()
        self._taken.append(taken)
        since = np.full(made, self._last, np.int64)
        return Chunk(int(t[-1]), moves=Table(t, page, count, np.zeros(made, np.bool_), since))

    def _sample(self) -> Iterator[Chunk]:
        now, before = self._next, self._last
        self._last, self._next = now, now + self._sample_ns
        if self._taken:
            yield self._freed_again(now)
        for free in (False, True):
            new, old = (self._free, self._listed) if free else (self._listed, self._free)
            for page, count in runs(new, old, inverse=True):
                t, since = np.full(len(page), now), np.full(len(page), before)
                yield Chunk(now, moves=Table(t, page, count, np.full(len(page), free), since))
        self._listed[:] = self._free

    def _freed_again(self, now: int) -> Chunk:
        """Free what was seen to be taken, and is free all the same: after that write."""
        t, first, count = np.concatenate(self._taken, axis=1)
        self._taken.clear()
        t, ends = np.repeat(t, count), np.cumsum(count)
        page = np.arange(len(t)) + np.repeat(first - ends + count, count)
        free = (self._free[page >> 6] >> (page & 63).astype(np.uint64)) & np.uint64(1) != 0
        t, page = t[free], page[free]
        one = np.ones(len(page), np.int64)
        put(self._listed, page, one, one > 0)
        return Chunk(now, moves=Table(np.full(len(page), now), page, one, one > 0, t))


def _last(table: Table) -> int:
    return int(table.t[-1]) if len(table) else 0


@njit(cache=True, nogil=True)
def _listed(page, count, listed):  # type: ignore[no-untyped-def]
    """Return how many pages that rows write are listed; a page may count twice."""
    number = np.int64(0)
    for i in range(len(page)):
        for p in range(page[i], page[i] + count[i]):
            number += np.int64((listed[p >> 6] >> np.uint64(p & 63)) & np.uint64(1))
    return number


@njit(cache=True, nogil=True)
def _take(t, page, count, listed, out):  # type: ignore[no-untyped-def]
    """Take listed pages at the rows that write them; return how many runs that makes."""
    made = 0
    for i in range(len(page)):
        joins = False
        for p in range(page[i], page[i] + count[i]):
            bit = np.uint64(1) << np.uint64(p & 63)
            if not listed[p >> 6] & bit:
                joins = False
                continue
            listed[p >> 6] &= ~bit
            if joins:
                out[2, made - 1] += 1
            else:
                out[0, made], out[1, made], out[2, made] = t[i], p, 1
                made += 1
                joins = True
    return made
