"""Coarse times: all that happens within a quantum is known to have happened within it, no more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit

from tracer.synth.bits import no_bits
from tracer.synth.chunks import Chunk, Table


class Quantum:
    """Coalesces writes: a page has one row in each quantum that it was written in.

    Rows stand at their quantum's first instant (for time 0, which is the start: at 1), but what
    is freed, and taken again after that, at its last: so no row writes a free page. Zero rows of
    pages that were written too in their quantum are left out. Two bits a page; a run that is taken
    was free, or freed in its quantum, as a whole.
    """

    def __init__(self, pages: int, quantum_ns: int, duration_ns: int):
        self._quantum, self._duration = quantum_ns, duration_ns
        self._written, self._freed = no_bits(pages), no_bits(pages)
        self._waiting = Chunk(0)

    def feed(self, chunk: Chunk) -> Iterator[Chunk]:
        """Take a chunk; yield the quanta that are over."""
        if chunk.end == 0:  # the state at the start
            yield chunk
            return
        border = (chunk.end + 1) // self._quantum * self._quantum
        whole, self._waiting = _cut(_appended(self._waiting, chunk), border)
        yield self._coarse(whole)

    def finish(self) -> Iterator[Chunk]:
        """Yield the last quantum."""
        yield self._coarse(self._waiting)

    def _coarse(self, chunk: Chunk) -> Chunk:
        dirty, moves, zero = chunk.dirty, chunk.moves, chunk.zero
        rows = np.empty((3, len(dirty)), np.int64)
        zeros = np.empty((3, len(zero) + len(dirty)), np.int64)
        made, made_zero = coarsen(
            dirty.t, dirty.page, dirty.count, zero.t, zero.page, zero.count,
            self._quantum, self._written, rows, zeros,
        )  # fmt: skip
        steps = np.empty((4, len(moves)), np.int64)
        late = np.empty(len(moves), np.int64)
        _move(
            moves.t, moves.page, moves.count, moves.free,
            self._quantum, self._duration, self._freed, steps, late,
        )  # fmt: skip
        return Chunk(
            chunk.end,
            Table(*rows[:, :made].copy()),
            Table(steps[0], steps[1], steps[2], steps[3] != 0),
            Table(*zeros[:, :made_zero].copy()),
        )


def _appended(first: Chunk, second: Chunk) -> Chunk:
    return Chunk(
        second.end,
        _both(first.dirty, second.dirty),
        _both(first.moves, second.moves),
        _both(first.zero, second.zero),
    )


def _both(first: Table, second: Table) -> Table:
    return Table(
        np.concatenate((first.t, second.t)),
        np.concatenate((first.page, second.page)),
        np.concatenate((first.count, second.count)),
        np.concatenate((first.free, second.free)),
    )


def _cut(chunk: Chunk, border: int) -> tuple[Chunk, Chunk]:
    """Return what happens before the border, and the rest."""
    tables = (chunk.dirty, chunk.moves, chunk.zero)
    at = [int(np.searchsorted(table.t, border)) for table in tables]
    dirty, moves, zero = (table.part(0, i) for table, i in zip(tables, at, strict=True))
    rest = [table.part(i, len(table)) for table, i in zip(tables, at, strict=True)]
    return Chunk(border, dirty, moves, zero), Chunk(chunk.end, rest[0], rest[1], rest[2])


@njit(cache=True, nogil=True)
def coarsen(t, page, count, z_t, z_page, z_count, quantum, written, rows, zeros):  # type: ignore[no-untyped-def]
    """Fill rows and zeros, cell by cell; return how many of each."""
    one, none = np.uint64(1), np.uint64(0)
    made = made_zero = low = z_low = 0
    while low < len(t):
        cell, z = t[low] // quantum, z_low
        start, high = max(cell * quantum, 1), low
        while high < len(t) and t[high] // quantum == cell:
            i = high
            high += 1
            clears = z < len(z_t) and z_t[z] == t[i] and z_page[z] == page[i]
            z += clears
            if not clears:
                word, bit = page[i] >> 6, one << np.uint64(page[i] & 63)
                if written[word] & bit != none:
                    continue
                written[word] |= bit
            rows[0, made], rows[1, made], rows[2, made] = start, page[i], count[i]
            made += 1
        for i in range(z_low, z):
            joins = False
            for p in range(z_page[i], z_page[i] + z_count[i]):
                if written[p >> 6] & (one << np.uint64(p & 63)) != none:
                    joins = False
                elif joins:
                    zeros[2, made_zero - 1] += 1
                else:
                    zeros[0, made_zero], zeros[1, made_zero], zeros[2, made_zero] = start, p, 1
                    made_zero += 1
                    joins = True
        for i in range(low, high):
            written[page[i] >> 6] &= ~(one << np.uint64(page[i] & 63))
        low, z_low = high, z
    return made, made_zero


@njit(cache=True, nogil=True)
def _move(t, page, count, free, quantum, duration, freed, steps, late):  # type: ignore[no-untyped-def]
    """Fill steps, cell by cell: what is taken first, then what was freed before or is freed."""
    one, none = np.uint64(1), np.uint64(0)
    made = low = 0
    while low < len(t):
        cell, high, waiting = t[low] // quantum, low, 0
        start = max(cell * quantum, 1)
        end = min(cell * quantum + quantum - 1, duration)
        while high < len(t) and t[high] // quantum == cell:
            i = high
            high += 1
            if free[i]:
                for p in range(page[i], page[i] + count[i]):
                    freed[p >> 6] |= one << np.uint64(p & 63)
            if free[i] or freed[page[i] >> 6] & (one << np.uint64(page[i] & 63)) != none:
                late[waiting] = i
                waiting += 1
                continue
            steps[0, made], steps[1, made], steps[2, made], steps[3, made] = (
                start,
                page[i],
                count[i],
                0,
            )
            made += 1
        for j in range(waiting):
            i = late[j]
            steps[0, made], steps[1, made], steps[2, made] = end, page[i], count[i]
            steps[3, made] = free[i]
            made += 1
        for i in range(low, high):
            if free[i]:
                for p in range(page[i], page[i] + count[i]):
                    freed[p >> 6] &= ~(one << np.uint64(p & 63))
        low = high
