"""A guest whose few interesting moves are laid out by hand, in the noise of other writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from tracer.rows import Int64s
from tracer.synth.chunks import Chunk, Table
from tracer.synth.guest import Guest, Region
from tracer.synth.times import Timeline

_BLOCK = 1 << 15


@dataclass
class Planted:
    """The planted guest: rows in order of time, regions, and what the header says of it."""

    guest: Guest
    regions: list[Region]
    free: list[tuple[int, int]]
    content: Region
    noise: tuple[Region, int]
    facts: dict[str, Any]
    writes: list[tuple[Int64s, Int64s, Int64s]] = field(default_factory=list)
    moves: list[tuple[Int64s, Int64s, bool]] = field(default_factory=list)

    def live(self, pages: Int64s, taken: Int64s, written: Int64s) -> None:
        """Let pages be taken and written at these times."""
        self.moves.append((taken, pages, False))
        self.writes.append((written, pages, np.ones_like(pages)))

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows, noise and all."""
        first, last = self.content.first, self.content.first + self.content.pages
        zero = [(0, first), (last, self.guest.pages - last)]
        yield Chunk(0, moves=_at_zero(self.free, free=True), zero=_at_zero(zero))
        dirty, moves = self._planted()
        done = Table(dirty.t[:0], dirty.page[:0], dirty.count[:0])
        timeline = Timeline(self.guest, ((Fraction(1), Fraction(1)),))
        rng = self.guest.rng("noise")
        region, begin = self.noise
        before = 0
        while left := timeline.left():
            t = timeline.next(min(left, _BLOCK))
            page = region.first + rng.integers(0, max(region.pages, 1), len(t))
            kept = (t > begin) if region.pages else np.zeros(len(t), np.bool_)
            end = int(t[-1])
            noise = Table(t[kept], page[kept], np.ones(int(kept.sum()), np.int64))
            yield Chunk(end, _sorted(noise, _between(dirty, before, end)),
                        _between(moves, before, end))  # fmt: skip
            before = end
        end = self.guest.duration_ns
        yield Chunk(end, _sorted(done, _between(dirty, before, end)), _between(moves, before, end))

    def _planted(self) -> tuple[Table, Table]:
        dirty = [np.concatenate(column) for column in zip(*self.writes, strict=True)]
        order = np.argsort(dirty[0], kind="stable")
        t = np.concatenate([t for t, _, _ in self.moves])
        page = np.concatenate([page for _, page, _ in self.moves])
        free = np.concatenate([np.full(len(t), free) for t, _, free in self.moves])
        steps = np.argsort(t, kind="stable")
        return (
            Table(*(column[order] for column in dirty)),
            Table(t[steps], page[steps], np.ones_like(page), free[steps]),
        )


def _at_zero(runs: list[tuple[int, int]], *, free: bool | None = None) -> Table:
    page, count = np.array([run for run in runs if run[1]], np.int64).reshape(-1, 2).T
    flags = np.full(len(page), bool(free))
    return Table(np.zeros(len(page), np.int64), page, count, flags)


def _between(table: Table, before: int, end: int) -> Table:
    low, high = np.searchsorted(table.t, [before, end], side="right")
    return table.part(int(low), int(high))


def _sorted(first: Table, second: Table) -> Table:
    t = np.concatenate((first.t, second.t))
    order = np.argsort(t, kind="stable")
    page = np.concatenate((first.page, second.page))
    return Table(t[order], page[order], np.concatenate((first.count, second.count))[order])
