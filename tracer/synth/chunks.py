"""Rows of a trace in the making, stretch of time by stretch of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tracer.rows import NO_FLAGS, NO_TIMES, Flags, Int64s
from tracer.synth.guest import Block, Guest, Plan
from tracer.synth.times import Timeline


@dataclass(frozen=True)
class Table:
    """Rows of one table: int64 arrays of equal length, ascending in t. free: the free list's.

    since: int64, of a sampled free list.
    """

    t: Int64s = field(default_factory=lambda: NO_TIMES)
    page: Int64s = field(default_factory=lambda: NO_TIMES)
    count: Int64s = field(default_factory=lambda: NO_TIMES)
    free: Flags = field(default_factory=lambda: NO_FLAGS)
    since: Int64s = field(default_factory=lambda: NO_TIMES)

    def __len__(self) -> int:
        return len(self.t)

    def part(self, low: int, high: int) -> Table:
        """Return rows `low` to `high`."""
        cut = slice(low, high)
        return Table(self.t[cut], self.page[cut], self.count[cut], self.free[cut], self.since[cut])


NO_ROWS = Table()


@dataclass(frozen=True)
class Chunk:
    """The rows of a stretch of time that ends with `end`, ns; the next begins later.

    The chunk that ends with 0 is the state at the start. epochs: when the recording harvested the
    dirty log, int64 ns. zero: dirty rows of these pages at these times are writes of zeros, and
    nothing else dirties them at that instant.
    """

    end: int
    dirty: Table = NO_ROWS
    moves: Table = NO_ROWS
    zero: Table = NO_ROWS
    epochs: Int64s = field(default_factory=lambda: NO_TIMES)


def at_start(plan: Plan) -> Chunk:
    """Return the rows at time 0: what is free, and what of it is zero."""
    free, t = plan.free, np.zeros(len(plan.free), np.int64)
    zero = free.zeroed
    return Chunk(
        0,
        moves=Table(t, free.page, free.count, np.ones(len(free), np.bool_)),
        zero=Table(t[zero], free.page[zero], free.count[zero]),
    )


def chunks(guest: Guest, plan: Plan) -> Iterator[Chunk]:
    """Yield a guest's rows from its start to its last write."""
    yield at_start(plan)
    timeline = Timeline(guest, plan.pace)
    now = 0
    while left := timeline.left():
        n = min(left, plan.block)
        chunk = timed(plan.stream.next(n), timeline.next(n), now, guest.init_on_alloc)
        now = chunk.end
        yield chunk


def timed(block: Block, t: Int64s, before: int, init_on_alloc: bool) -> Chunk:
    """Return the rows of a block whose writes happen at t, ns; `before`: the last write's time.

    What is taken for write i is taken 2 ns before it and zeroed 1 ns before; what is freed after
    write i goes 1 ns later. Times lie at least times.GAP apart, so that these keep their order.
    """
    frees, takes = block.frees, block.takes
    one = np.ones(len(t), np.int64)
    dirty, moves, zero = Table(t, block.page, one), NO_ROWS, NO_ROWS
    if len(takes):
        cleared = takes.zeroed | init_on_alloc
        at, page, count = takes.at[cleared], takes.page[cleared], takes.count[cleared]
        zero = Table(t[at] - 1, page, count)
        # `at` ascends: row j of the zeroing ones stands j places further, before its write.
        where = at + np.arange(len(at))
        dirty = Table(
            _inserted(t, zero.t, where), _inserted(block.page, page, where),
            _inserted(one, count, where),
        )  # fmt: skip
        moves = Table(t[takes.at] - 2, takes.page, takes.count, np.zeros(len(takes), np.bool_))
    if len(frees):
        when = np.concatenate(([before], t))[frees.at] + 1
        freed = Table(when, frees.page, frees.count, np.ones(len(frees), np.bool_))
        moves = _in_time(freed, moves)
    end = max(int(t[-1]), int(moves.t[-1]) if len(moves) else 0)
    return Chunk(end, dirty, moves, zero)


def _inserted(values: Int64s, others: Int64s, where: Int64s) -> Int64s:
    """Return the values with the others in between, at these places of the result."""
    result = np.empty(len(values) + len(others), np.int64)
    here = np.zeros(len(result), np.bool_)
    here[where] = True
    result[here] = others
    result[~here] = values
    return result


def _in_time(first: Table, second: Table) -> Table:
    t = np.concatenate((first.t, second.t))
    order = np.argsort(t, kind="stable")
    columns = (
        np.concatenate((getattr(first, name), getattr(second, name)))[order]
        for name in ("page", "count", "free")
    )
    return Table(t[order], *columns)
