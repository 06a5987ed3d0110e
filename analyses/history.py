"""In which order things happen in a replay, as far as the order can matter: one digest.

Two replays of a trace whose parameters differ in one time, and whose digests are equal, lose the
same pages. So does every replay between them. As long as the order of things stays, each moment of
a replay is an affine function of a delay (of the bandwidth: the sum of times of copies, each
monotone), and "this comes before that" holds for a half-line of values. What a digest stands for is
a conjunction of such comparisons, and holds for an interval of values. That makes it sound to halve
an interval whose ends agree in it, and not sound to halve one whose ends agree in their losses.

Two things in a row of which neither touches what the other does are in no order: a copy of a page
and a row of another page, a copy and a sync that does not concern the page.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from analyses.windows import mark
from replay.engine import Event, Migration
from replay.feed import Feed
from replay.hints import Report
from replay.kernels import FOREVER
from replay.memory import bit_numbers
from replay.observe import touches
from replay.parameters import Parameters
from replay.policies import Accept, Fate, ReportView, Request, Resubmit, View
from replay.profiles import Outcome, profile
from replay.profiles.qemu import MS_NS
from replay.strategies import Strategy
from tracer.format import TableName
from tracer.rows import Int64s
from tracer.trace import Trace

_TABLES: tuple[TableName, ...] = ("dirty", "freelist", "zero")
#: Traces with more rows are not indexed: their replays hardly ever agree in all their order.
MOST_ROWS = 1 << 19


@dataclass(frozen=True)
class Checked:
    """One replay: what became of its pages, and the digest of its order.

    lost and near_misses are None without a switchover. missed: pages lost right after a handling.
    digest: None where the trace is not indexed, so that no two replays agree. room: how far (ns)
    things are apart whose order counts, in an order that is the digest's; to guess with.
    """

    lost: int | None
    near_misses: int | None
    missed: int
    digest: bytes | None
    room: Int64s


class Order:
    """The rows of one kind of thing (all of them, those of a page, those of a chunk) in time order.

    who: int64, which thing a row concerns; t: int64 guest ns.
    """

    def __init__(self, who: Int64s, t: Int64s):
        self._t = np.unique(t)
        self._base = len(self._t) + 1
        self._keys = np.sort(who * self._base + np.searchsorted(self._t, t))

    def before(self, who: Int64s, guest: Int64s) -> tuple[Int64s, Int64s]:
        """Return how many rows come at or before each instant, and the ns to the next of them.

        The count is of all rows of smaller things too, which is as good as its own.
        """
        rank = np.searchsorted(self._t, guest, side="right")
        at = np.searchsorted(self._keys, who * self._base + rank, side="left")
        room = np.full(len(at), FOREVER)
        inside = np.flatnonzero(at < len(self._keys))
        found = self._keys[at[inside]]
        own = found // self._base == who[inside]
        room[inside[own]] = self._t[found[own] % self._base] - guest[inside[own]]
        return at.astype(np.int64), room


class Index:
    """The rows of a trace after its start, found by page; made once for many replays.

    pages: int64, ascending, those that rows touch. indexed: whether there are few enough rows.
    """

    def __init__(self, trace: Trace):
        self.pages = touched(trace)
        rows = sum(trace.num_rows(table) for table in _TABLES)
        self.indexed = rows <= MOST_ROWS and trace.meta.duration_ns > 0
        if not self.indexed:
            return
        found = [touches(Feed(trace, table), self.pages, FOREVER) for table in _TABLES]
        who, t = (np.concatenate([getattr(one, name) for one in found]) for name in ("who", "t"))
        self._who, self._t = who[t > 0], t[t > 0]
        self.own = Order(self._who, self._t)
        self.every = Order(np.zeros(len(self._t), np.int64), self._t)
        self._by_chunk: Order | None = None

    def chunked(self, chunks: Int64s) -> Order:
        """Return the rows by chunk; the chunks are the same in all replays of one trace."""
        if self._by_chunk is None:
            chunk = np.searchsorted(chunks, self.pages[self._who], side="right") - 1
            self._by_chunk = Order(chunk, self._t)
        return self._by_chunk


def touched(trace: Trace) -> Int64s:
    """Return the pages that rows after the start touch, ascending."""
    bits = np.zeros((trace.meta.pages + 63) // 64, np.uint64)
    for table in _TABLES:
        for rows in trace.rows(table):
            start = int(np.searchsorted(rows.t, 0, side="right"))
            mark(bits, rows.page[start:], rows.count[start:])
    return bit_numbers(bits)


class _Noted(Migration):
    """A migration that folds what happens into a digest, round by round."""

    def __init__(self, trace: Trace, strategy: Strategy, parameters: Parameters, index: Index):
        super().__init__(trace, strategy, parameters, watch=index.pages)
        self._index = index
        self._hash = hashlib.blake2b(digest_size=16)
        self._room: list[Int64s] = []
        self._hosts: list[int] = []

    def end_round(self, now: int) -> None:
        """Fold the round in, and forget who was passed when."""
        super().end_round(now)
        self.fold()

    def fold(self) -> None:
        """Fold in and forget the events so far."""
        for event in self.events:
            self._note_event(event)
        self.events.clear()

    def close(self, outcome: Outcome) -> tuple[bytes, Int64s]:
        """Return the digest of all, and the room between things."""
        self.fold()
        self._add(outcome.reason, outcome.stop_ns is None, self.round, self.syncs)
        for row in outcome.rounds:
            self._add(row.round, row.pages_sent, row.zero_pages_sent, row.pending_pages)
        wake = self.parameters.wake_ns
        for moment in outcome.course:
            # QEMU's loop counts in whole ms, and sleeps until one of them.
            ms = (moment.host_ns // MS_NS, (moment.host_ns + wake) // MS_NS)
            self._add(*ms, moment.pages_sent, moment.zero_pages_sent, moment.pending_pages)
        for report in self.hinting.reports:
            self._note_report(report)
        between = np.array([b - a for a, b in pairwise(self._hosts)], np.int64)
        return self._hash.digest(), np.concatenate([*self._room, between])

    def _note_event(self, event: Event) -> None:
        self._add(event.kind, event.round)
        if event.kind == "pass":
            assert event.passed is not None
            assert event.sent is not None
            who = np.flatnonzero(event.sent)
            self._hash.update(event.sent.tobytes())
            self._place(self._index.own, who, self._guest(event.passed[who]))
            return
        guest = np.array([event.guest_ns], np.int64)
        if event.kind == "chunk":
            order = self._index.chunked(self.memory.chunks)
            self._add(event.chunk, event.report is None)
            self._place(order, np.array([event.chunk]), guest)
            return
        self._hosts.append(event.host_ns)
        self._place(self._index.every, np.zeros(1, np.int64), guest)
        if event.report is not None:
            report = event.report
            self._add(report.number, report.pages, report.skipped, report.conflicts)
        if event.skipped is not None:
            self._hash.update(event.skipped.tobytes())

    def _note_report(self, report: Report) -> None:
        """Where a report's stages lie between the syncs, and by which tick it was handled."""
        self._add(report.number, report.outcome, report.missed)
        syncs = np.array(self._hosts, np.int64)
        for at in (report.requested_ns, report.snapshot_ns, report.arrived_ns, report.done_ns):
            if at is not None:
                self._add(*(int(np.searchsorted(syncs, at, side=s)) for s in ("left", "right")))
        if report.arrived_ns is not None:
            due = report.arrived_ns + self.parameters.handle_delay_ns
            self._add(report.due_ns if report.due_ns != due else None)

    def _place(self, order: Order, who: Int64s, guest: Int64s) -> None:
        turn, rest = np.zeros_like(guest), guest
        if self.passes > 1:
            turn, rest = np.divmod(guest, self.trace.meta.duration_ns)
        count, room = order.before(who, rest)
        self._hash.update(turn.tobytes())
        self._hash.update(count.tobytes())
        self._room.append(room)

    def _guest(self, host: Int64s) -> Int64s:
        h0, g0, rate = (np.array(column, np.int64) for column in zip(*self.clock.segments))  # noqa: B905
        at = np.searchsorted(h0, host, side="right") - 1
        return g0[at] + (host - h0[at]) * rate[at] // 100

    def _add(self, *values: Any) -> None:
        self._hash.update(repr(values).encode())


class _Overseen(Accept):
    """A strategy's accept policy, and whether it looked at when a report was asked for.

    What such a policy decides need not hold for an interval of values.
    """

    name = "overseen"

    def __init__(self, policy: Accept):
        self._policy = policy
        self.looked = False

    def before_sync(self, report: ReportView) -> Fate:
        """Ask the policy."""
        return self._policy.before_sync(_Look(report, self))

    def when_due(self, report: ReportView) -> Fate:
        """Ask the policy."""
        return self._policy.when_due(_Look(report, self))


class _Look(View):
    """A report as a policy sees it, that notices a look at the clock.

    A guard takes it as it is, and keeps answers by it: that is no look.
    """

    _overseer: _Overseen

    def __init__(self, report: ReportView, overseer: _Overseen):
        super().__init__(report.requested_ns, report.queued, report.syncs_since_request)
        object.__setattr__(self, "_overseer", overseer)

    def __getattribute__(self, name: str) -> Any:
        if name in ("requested_ns", "__dict__"):
            object.__getattribute__(self, "_overseer").looked = True
        return object.__getattribute__(self, name)

    def __hash__(self) -> int:
        return hash((self.queued, self.syncs_since_request))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Look):
            return View(self.requested_ns, self.queued, self.syncs_since_request) == other
        mine, others = (object.__getattribute__(one, "__dict__").values() for one in (self, other))
        return [*mine][:3] == [*others][:3]


def _in_order(strategy: Strategy) -> bool:
    """Whether handlings move as delays do, and no policy of a user's own puts them off."""
    known = (Request.handling_time, Resubmit.handling_time)
    return strategy.request is None or type(strategy.request).handling_time in known


def check(trace: Trace, strategy: Strategy, parameters: Parameters, index: Index) -> Checked:
    """Replay the recorded scenario once; the strategy's request axis is chosen already."""
    run = profile(parameters.profile)
    digest, room = None, np.empty(0, np.int64)
    if index.indexed:
        overseer = None if strategy.accept is None else _Overseen(strategy.accept)
        noted = _Noted(trace, replace(strategy, accept=overseer), parameters, index)
        migration: Migration = noted
        outcome = run(noted)
        if (overseer is None or not overseer.looked) and _in_order(strategy):
            digest, room = noted.close(outcome)
    else:
        migration = Migration(trace, strategy, parameters)
        outcome = run(migration)
    missed = sum(report.missed for report in migration.hinting.reports)
    if outcome.stop_ns is None:
        return Checked(None, None, missed, digest, room)
    judged = migration.memory.judge()
    return Checked(judged.lost, judged.near_misses, missed, digest, room)
