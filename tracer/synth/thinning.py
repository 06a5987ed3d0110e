"""Hiding writes: `first-write` and `epoch` recordings (the model, section 1). Two bits a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numba import njit

from tracer.format import Resolution
from tracer.rows import Int64s
from tracer.synth.bits import no_bits, runs
from tracer.synth.chunks import Chunk, Table


class Thinning:
    """Keeps what a dirty log that is harvested every `epoch_ns` keeps.

    `first-write`: the first write to a page at or after a harvest. `epoch`: at each harvest the
    pages written since the one before; the last one is at the trace's end.

    Zero rows: a page written and zero again when the epoch ends is known to be zero then, and
    until its next recorded write. (Those of `first-write` stand 1 ns before the harvest: a write at
    the harvest is the next epoch's.) Until then a page that was zeroed counts as written.
    """

    def __init__(self, pages: int, resolution: Resolution, epoch_ns: int, duration_ns: int):
        self._by_epoch = resolution == "epoch"
        self._epoch_ns, self._duration_ns = epoch_ns, duration_ns
        self._seen, self._zero = no_bits(pages), no_bits(pages)
        self._next = min(epoch_ns, duration_ns)
        self._done = False

    def feed(self, chunk: Chunk) -> Iterator[Chunk]:
        """Take a chunk; yield what is recorded by now."""
        if chunk.end == 0:  # the state at the start
            yield chunk
            return
        tables = (chunk.dirty, chunk.zero, chunk.moves)
        low = [0, 0, 0]
        while self._next <= chunk.end and not self._done:
            side: Literal["left", "right"] = "right" if self._by_epoch else "left"
            high = [int(np.searchsorted(table.t, self._next, side=side)) for table in tables]
            yield self._recorded(self._next, tables, low, high)
            low = high
            yield from self._harvest()
        yield self._recorded(chunk.end, tables, low, [len(table) for table in tables])

    def finish(self) -> Iterator[Chunk]:
        """Yield the harvests that are left."""
        while not self._done:
            yield from self._harvest()

    def _recorded(
        self, end: int, tables: tuple[Table, ...], low: list[int], high: list[int]
    ) -> Chunk:
        dirty, zero, moves = (
            table.part(first, last) for table, first, last in zip(tables, low, high, strict=True)
        )
        # A run may be recorded in pieces.
        room = 0 if self._by_epoch else int((dirty.count // 2 + 1).sum())
        out = np.empty((3, room), np.int64)
        made = _write(
            dirty.t, dirty.page, dirty.count, zero.t, zero.page, zero.count,
            self._seen, self._zero, out,
        )  # fmt: skip
        return Chunk(end, Table(*out[:, :made].copy()), moves)

    def _harvest(self) -> Iterator[Chunk]:
        now = self._next
        self._done = now >= self._duration_ns
        self._next = min(now + self._epoch_ns, self._duration_ns)
        if self._by_epoch:
            for page, count in runs(self._seen):
                yield Chunk(now, Table(_all(now, page), page, count))
        # A first-write recording that ends between two harvests sees nothing there but contents.
        when = now if self._by_epoch or self._done else now - 1
        for page, count in runs(self._seen, self._zero):
            yield Chunk(now, zero=Table(_all(when, page), page, count))
        if self._by_epoch or now % self._epoch_ns == 0:
            yield Chunk(now, epochs=np.array([now]))
        self._seen[:] = 0


def _all(t: int, like: Int64s) -> Int64s:
    return np.full(len(like), t, np.int64)


@njit(cache=True, nogil=True)
def _write(t, page, count, z_t, z_page, z_count, seen, zero, out):  # type: ignore[no-untyped-def]
    """Let rows be written; fill `out` with the runs not seen before, if it has room for any."""
    made, z, wanted = 0, 0, out.shape[1] > 0
    for i in range(len(t)):
        # At one instant zero rows come after the writes.
        while z < len(z_t) and z_t[z] < t[i]:
            _zeroed(z_page[z], z_count[z], zero)
            z += 1
        joins = False
        for p in range(page[i], page[i] + count[i]):
            word, bit = p >> 6, np.uint64(1) << np.uint64(p & 63)
            zero[word] &= ~bit
            if seen[word] & bit:
                joins = False
                continue
            seen[word] |= bit
            if joins:
                out[2, made - 1] += 1
            elif wanted:
                out[0, made], out[1, made], out[2, made] = t[i], p, 1
                made += 1
                joins = True
    for rest in range(z, len(z_t)):
        _zeroed(z_page[rest], z_count[rest], zero)
    return made


@njit(cache=True, nogil=True)
def _zeroed(page, count, zero):  # type: ignore[no-untyped-def]
    for p in range(page, page + count):
        zero[p >> 6] |= np.uint64(1) << np.uint64(p & 63)
