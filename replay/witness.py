"""The witness of each lost page: what was reported, written, harvested and skipped, and when."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from replay.engine import Event
from replay.hints import Report
from replay.observe import (
    COPY,
    DIRTY_ROWS,
    EPOCH_FIRST,
    EPOCH_LATE,
    FREE_ROWS,
    Observation,
    key,
)
from tracer.rows import Int64s

_NEVER = -1
_NOBODY: Int64s = np.empty(0, np.int64)


@dataclass(frozen=True)
class Witness:
    """How one page was lost; host ns since the migration's start (the model, section 4)."""

    page: int
    t_snapshot: int
    t_written: int
    t_harvested: int | None
    t_skipped: int
    round: int


@dataclass(frozen=True)
class Trail:
    """What became of the last write not carried, for each watched page.

    Every field is int64, one entry a page, _NEVER (-1) for what did not happen. written,
    harvested, snapshot, skipped: host ns. harvested_at, cleared_at, skipped_at: which control event
    of the observation it was that harvested the write before the page was skipped, that cleared the
    log bit on which the write had left no new record, and that skipped the page. round: of that.
    """

    written: Int64s
    harvested: Int64s
    harvested_at: Int64s
    cleared_at: Int64s
    snapshot: Int64s
    skipped: Int64s
    skipped_at: Int64s
    round: Int64s


_TAKE, _FREE, _WRITE, _SENT = range(4)


class _Lives:
    """What is known of each watched page at some moment; arrays of one entry a page."""

    def __init__(self, pages: int):
        #: Whether a row makes its pages hot (saturated `first-write` traces).
        self.heats = False
        self.in_use = np.ones(pages, np.bool_)
        self.hot = np.zeros(pages, np.bool_)
        self.log = np.zeros(pages, np.bool_)
        self.harvest = np.zeros(pages, np.bool_)
        self.waiting = np.zeros(pages, np.bool_)
        self.written = np.full(pages, _NEVER)
        self.harvested = np.full(pages, _NEVER)
        self.harvested_at = np.full(pages, _NEVER)
        self.cleared_at = np.full(pages, _NEVER)
        self.snapshot = np.full(pages, _NEVER)
        self.skipped = np.full(pages, _NEVER)
        self.skipped_at = np.full(pages, _NEVER)
        self.round = np.zeros(pages, np.int64)
        #: The trails of pages right after the last handling that left them lost.
        self.missed = {field.name: np.full(pages, _NEVER) for field in fields(Trail)}

    def write(self, who: Int64s, host: Int64s) -> None:
        """Let pages be written; the first write that is not carried counts."""
        self.log[who] = True
        fresh = self.written[who] == _NEVER
        # Assigned from the last to the first, so that of several the first stays.
        self.written[who[fresh][::-1]] = host[fresh][::-1]
        self.waiting[who[fresh]] = True
        self.harvested[who[fresh]] = _NEVER
        self.cleared_at[who[fresh]] = _NEVER

    def carry(self, who: Int64s) -> None:
        """Forget what was written before a copy or a take."""
        self.written[who] = _NEVER
        self.waiting[who] = False

    def miss(self, who: Int64s) -> None:
        """Note the trails of pages that are lost as things stand."""
        for name, column in self.missed.items():
            column[who] = getattr(self, name)[who]


def witnesses(observation: Observation) -> tuple[Witness, ...]:
    """Return the witness of each watched page, all of which are lost, in page order."""
    trail, _ = trails(observation)
    return tuple(
        Witness(
            int(page),
            int(trail.snapshot[i]),
            int(trail.written[i]),
            int(trail.harvested[i]) if trail.harvested[i] != _NEVER else None,
            int(trail.skipped[i]),
            int(trail.round[i]),
        )
        for i, page in enumerate(observation.migration.watch)
    )


def trails(observation: Observation) -> tuple[Trail, Trail]:
    """Return the trails of the watched pages at the end, and where a handling last left them lost.

    The first says how a page that is lost was lost, the second how a near miss was.
    """
    migration = observation.migration
    lives = _Lives(len(migration.watch))
    if migration.memory.manual:
        lives.log[:] = True
        lives.harvest[:] = True
    lives.heats = len(migration.memory.hot) > 0 and not migration.late_epochs
    if len(migration.memory.hot):
        lives.hot[_hot_after(observation, 0)] = True
    chunk = np.searchsorted(migration.memory.chunks, migration.watch, side="right") - 1
    keys, hosts, who, kinds = _items(observation)
    at = 0
    for number, (moment, event) in enumerate(_control(observation)):
        upto = int(np.searchsorted(keys, moment, side="left"))
        _apply(lives, hosts[at:upto], who[at:upto], kinds[at:upto])
        at = upto
        _control_step(lives, event, number, chunk, migration.memory.manual)
    _apply(lives, hosts[at:], who[at:], kinds[at:])
    return (
        _trail({field.name: getattr(lives, field.name) for field in fields(Trail)}),
        _trail(lives.missed),
    )


def own_syncs(observation: Observation) -> dict[int, Report]:
    """Return the syncs that go with a handling: their place in `control`, and whose it was."""
    migration = observation.migration
    at = {id(event): number for number, (_, event) in enumerate(observation.control)}
    events = [event for event in migration.events if event.kind in ("sync", "handled")]
    found = {}
    for one, next_ in pairwise(events):
        sync, handled = (one, next_) if migration.strategy.sync == "before" else (next_, one)
        if migration.strategy.sync == "none" or (sync.kind, handled.kind) != ("sync", "handled"):
            continue
        assert handled.report is not None
        found[at[id(sync)]] = handled.report
    return found


def _trail(columns: dict[str, Int64s]) -> Trail:
    """A sync after the skipping did not swallow the write: it made the page pending again."""
    swallowed = columns["harvested"] != _NEVER
    swallowed &= columns["harvested_at"] < columns["skipped_at"]
    for name in ("harvested", "harvested_at"):
        columns[name] = np.where(swallowed, columns[name], _NEVER)
    return Trail(**columns)


def _items(observation: Observation) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Return all rows and copies of watched pages in replay order: key, host ns, who, kind."""
    columns = []
    moves, writes = observation.moves, observation.writes
    for touched, kind, place in (
        (moves, np.where(moves.free, _FREE, _TAKE), FREE_ROWS),
        (writes, np.full(len(writes.t), _WRITE), DIRTY_ROWS),
    ):
        host = np.where(touched.t > 0, observation.host(np.maximum(touched.t, 1)), touched.t)
        columns.append((key(host, place), host, touched.who, kind))
    for event in observation.passes:
        assert event.passed is not None
        assert event.sent is not None
        who = np.flatnonzero(event.sent)
        host = event.passed[who]
        columns.append((key(host, COPY), host, who, np.full(len(who), _SENT)))
    joined = [np.concatenate(parts).astype(np.int64) for parts in zip(*columns, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    keys, host, who, kind = (column[order] for column in joined)
    return keys, host, who, kind


def _control(observation: Observation) -> list[tuple[int, Event | Int64s]]:
    """Return the control events and the ends of epochs, in replay order.

    For the end of an epoch stand the pages that hidden writes dirty from then on.
    """
    migration = observation.migration
    ends = migration.epoch_ends
    ends = ends[(ends > 0) & (ends <= migration.clock.guest(observation.stop_ns))]
    place = EPOCH_LATE if migration.late_epochs else EPOCH_FIRST
    control: list[tuple[int, Event | Int64s]] = [*observation.control]
    for moment, end in zip(key(observation.host(ends), place), ends, strict=True):
        control.append((int(moment), _hot_after(observation, int(end))))
    control.sort(key=lambda entry: entry[0])
    return control


def _hot_after(observation: Observation, begin: int) -> Int64s:
    """Return the watched pages that are hot from `begin` on: known beforehand for `epoch` rows."""
    migration, writes = observation.migration, observation.writes
    if not migration.late_epochs:
        return _NOBODY
    later = migration.epoch_ends[migration.epoch_ends > begin]
    end = later[0] if len(later) else begin
    return np.unique(writes.who[(writes.t > begin) & (writes.t <= end)])


def _apply(lives: _Lives, host: Int64s, who: Int64s, kind: Int64s) -> None:
    """Let rows and copies between two control events happen.

    A page that appears once (nearly all do) is done at once with the others; the few that appear
    again take another turn.
    """
    while len(who):
        _, first = np.unique(who, return_index=True)
        now = np.zeros(len(who), np.bool_)
        now[first] = True
        _one_each(lives, host[now], who[now], kind[now])
        host, who, kind = host[~now], who[~now], kind[~now]


def _one_each(lives: _Lives, host: Int64s, who: Int64s, kind: Int64s) -> None:
    carried = (kind == _TAKE) | (kind == _SENT)
    lives.carry(who[carried])
    lives.in_use[who[kind == _TAKE]] = True
    burning = carried & lives.hot[who] & lives.in_use[who]
    lives.in_use[who[kind == _FREE]] = False
    written = (kind == _WRITE) & (host > 0)
    lives.write(who[written | burning], host[written | burning])
    if lives.heats:
        lives.hot[who[kind == _WRITE]] = True


def _control_step(
    lives: _Lives, event: Event | Int64s, number: int, chunk: Int64s, manual: bool
) -> None:
    if not isinstance(event, Event):
        lives.hot[:] = False
        lives.hot[event] = True
    elif event.kind == "sync":
        lives.log |= lives.hot & lives.in_use
        found = lives.waiting & lives.log
        lives.harvested[found] = event.host_ns
        lives.harvested_at[found] = number
        lives.waiting[found] = False
        lives.harvest[:] = lives.log
        lives.log &= manual
    elif event.kind == "chunk":
        cleared = (chunk == event.chunk) & lives.harvest
        told = cleared & lives.log & (lives.waiting | (lives.harvested != _NEVER))
        lives.cleared_at[told] = number
        lives.log[cleared] = False
        lives.waiting[cleared] = False
    elif event.kind == "handled":
        assert event.skipped is not None
        assert event.report is not None
        lives.snapshot[event.skipped] = event.report.snapshot_ns
        lives.skipped[event.skipped] = event.host_ns
        lives.skipped_at[event.skipped] = number
        lives.round[event.skipped] = event.round
        if event.report.missed_watched is not None:
            lives.miss(event.report.missed_watched)
