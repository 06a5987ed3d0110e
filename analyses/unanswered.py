"""The migration whose guest is asked once and never answers, and the lives of pages in it.

Up to the handling of its only report every other migration runs like this one, so it tells at which
instants a handling would lose which page.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analyses.unanswered_kernels import CHUNK, FREE, PASS, SYNC, TAKE, WRITE, ZERO, intervals
from analyses.windows import mark
from replay.engine import Migration
from replay.feed import Feed
from replay.memory import bit_numbers
from replay.observe import touches
from replay.parameters import Parameters
from replay.profiles import profile
from replay.strategies import Strategy
from tracer.format import TableName
from tracer.rows import Int64s
from tracer.trace import Trace

#: Later than anything (ns).
NEVER = 1 << 60
#: Tables in the model's order at one instant, and what their rows do.
_TABLES: tuple[tuple[TableName, int, int], ...] = (
    ("freelist", 0, TAKE),
    ("dirty", 1, WRITE),
    ("zero", 2, ZERO),
)


class Lives:
    """When a handling would lose which page, and when pages are free, as intervals of host ns.

    loss: first and last ns of each losing interval. pair and free: for each combination of such an
    interval with one in which its page is free, the former's number and the latter's ends.
    """

    def __init__(self, page: Int64s, first: Int64s, last: Int64s, is_loss: Int64s):
        loss, free = np.flatnonzero(is_loss), np.flatnonzero(is_loss == 0)
        self.loss = first[loss], last[loss]
        # Each losing interval with each interval in which its page was free.
        low, high = (np.searchsorted(page[free], page[loss], side=s) for s in ("left", "right"))
        times = high - low
        self.pair = np.repeat(np.arange(len(loss)), times)
        ahead = np.cumsum(times) - times
        other = free[np.repeat(low - ahead, times) + np.arange(int(times.sum()))]
        self.free = first[other], last[other]


class _Silent(Migration):
    """A migration whose regular syncs are noted."""

    def __init__(self, trace: Trace, strategy: Strategy, parameters: Parameters, watch: Int64s):
        super().__init__(trace, strategy, parameters, watch=watch)
        self.regular: list[int] = []

    def regular_sync(self, now: int) -> None:
        """Note it and make it."""
        self.regular.append(now)
        super().regular_sync(now)


class Unanswered:
    """The migration in which the report never comes back. end: the last instant of it (ns)."""

    def __init__(
        self, trace: Trace, strategy: Strategy, parameters: Parameters, *, moving: bool
    ) -> None:
        parameters = replace(parameters, report_delay_ns=NEVER)
        pages = _taken(trace) if moving else _named(trace, strategy, parameters)
        self._migration = _Silent(trace, strategy, parameters, pages)
        self._sync_first = strategy.sync == "before"
        if strategy.start == "wait":
            # Nothing is sent.
            self.end = NEVER
        else:
            outcome = profile(parameters.profile)(self._migration)
            self.end = outcome.end_ns if outcome.stop_ns is None else outcome.stop_ns
            if outcome.stop_ns is None and parameters.profile == "qemu":
                # It was given up in the middle of a round.
                self._migration.end_round(outcome.end_ns)
        self.regular = self._migration.regular

    def lives(self) -> Lives:
        """Follow the watched pages through it."""
        memory, watch = self._migration.memory, self._migration.watch
        t, kind, starts = self._rows()
        control, times, copied = self._control()
        chunk_of = np.full(len(watch), -1, np.int64)
        if memory.manual:
            chunk_of = np.searchsorted(memory.chunks, watch, side="right").astype(np.int64) - 1
        found = intervals(
            t, kind, starts, control, times, copied, chunk_of,
            memory.manual, self._sync_first, NEVER,
        )  # fmt: skip
        return Lives(*found)

    def _rows(self) -> tuple[Int64s, Int64s, Int64s]:
        """Return time and kind of the rows of each page, in the model's order, and their starts."""
        migration, parts = self._migration, []
        for table, place, kind in _TABLES:
            found = touches(Feed(migration.trace, table), migration.watch, self.end)
            kinds = np.full(len(found.t), kind, np.int64)
            if table == "freelist":
                kinds[found.free] = FREE
            parts.append((found.who, found.t, np.full(len(found.t), place), kinds))
        who, t, places, kinds = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((places, t, who))
        starts = np.searchsorted(who[order], np.arange(len(migration.watch) + 1))
        return t[order], kinds[order], starts.astype(np.int64)

    def _control(self) -> tuple[Int64s, Int64s, Int64s]:
        """Return kind and number of what concerns many pages, its host ns, and the copies."""
        control, times = [], []
        copied = np.full((self._migration.round + 1, len(self._migration.watch)), -1, np.int64)
        rounds = 0
        for event in self._migration.events:
            if event.kind == "pass":
                assert event.passed is not None
                assert event.sent is not None
                copied[rounds][event.sent] = event.passed[event.sent]
                control.append((PASS, rounds))
                rounds += 1
            elif event.kind in ("sync", "chunk"):
                control.append((SYNC, 0) if event.kind == "sync" else (CHUNK, event.chunk))
            else:
                continue
            times.append(event.host_ns)
        return np.array(control, np.int64).reshape(-1, 2), np.array(times, np.int64), copied


def _named(trace: Trace, strategy: Strategy, parameters: Parameters) -> Int64s:
    """Return the pages that the first report names, ascending."""
    migration = Migration(trace, strategy, parameters)
    migration.begin()
    migration.idle(parameters.request_delay_ns)
    migration.settle(parameters.request_delay_ns)
    return bit_numbers(migration.memory.reported.noted)


def _taken(trace: Trace) -> Int64s:
    """Return the pages that leave the free list after the start, ascending."""
    bits = np.zeros((trace.meta.pages + 63) // 64, np.uint64)
    for rows in trace.rows("freelist"):
        takes = (rows.t > 0) & ~rows.free
        mark(bits, rows.page[takes], rows.count[takes])
    return bit_numbers(bits)
