"""A course of events that loses a page, put on the clock: a trace and parameters for a replay.

The search knows an order of steps and no times. Here every step gets one: copies follow each other
at a fixed pace, the guest's steps and the stages of reports lie between them on a grid, and the
delays are constants as a replay wants them. The replay is then the judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise, product
from typing import NamedTuple

import pyarrow as pa

from analyses.interleavings import DRAINING, STOPPED, WAITING, Course, Moves, State, at_once
from replay.link import HEADER_BYTES, SECOND_NS
from replay.parameters import Parameters
from replay.policies import axis_of
from replay.replay import replay
from tracer.errors import FloodError
from tracer.format import SCHEMAS, Block, Meta, TableName
from tracer.trace import Trace

PAGE_SIZE = 4096
#: A copy takes so many steps of the grid, each so many ns.
STEPS_PER_COPY = 32
STEP_NS = 100_000
COPY_NS = STEPS_PER_COPY * STEP_NS
BANDWIDTH = (PAGE_SIZE + HEADER_BYTES) * SECOND_NS // COPY_NS
#: After so many steps the choice of times is given up.
_PATIENCE = 20_000
#: So many sets of times are replayed at most.
_REPLAYS = 8
#: An interval is sought among the first so many parts of a tick's time.
_PARTS = 5


@dataclass(frozen=True)
class Enactment:
    """A trace (with its tables) and parameters under which a replay loses pages."""

    trace: Trace
    tables: dict[TableName, pa.Table]
    parameters: Parameters
    lost: tuple[int, ...]


def enact(course: Course) -> Enactment | None:
    """Return a replay that loses what the course loses; None if no constant delays lead to it."""
    exact, loose = (
        islice(_Clockwork(course, exact).timings(), _REPLAYS) for exact in (True, False)
    )
    for times in chain(exact, loose):
        tables, parameters = _tables(course, times), _parameters(course, times)
        trace = Trace.from_tables(_meta(course, times), **tables)
        trace.validate()
        try:
            (found,) = replay(trace, course.setting.strategy, parameters)
        except FloodError:
            # The search follows a few reports at a time, a replay all that are asked for.
            continue
        lost = tuple(row.page for row in found.unsafe)
        if any(course.lost >> page & 1 for page in lost):
            return Enactment(trace, tables, parameters, lost)
    return None


class _Times(NamedTuple):
    """What is settled so far, in host ns.

    at: of the step before. link: when the link is free. stopped: how long the guest has stood
    still, or since when. delays: from request to snapshot to queue to handling, -1 while open.
    interval: of ticks. entered: when each outstanding report came to its stage. ticked: the last
    tick at which a request was made, 0 for none. rows: guest ns, kind and page.
    """

    at: int = 0
    link: int = 0
    still_ns: int = 0
    still_since: int = 0
    delays: tuple[int, int, int] = (-1, -1, -1)
    interval: int = -1
    entered: tuple[int, ...] = ()
    ticked: int = 0
    rows: tuple[tuple[int, str, int], ...] = ()


_STAGES = ("snapshot", "arrive", "consume")


class _Clockwork:
    """Finds times for the steps of a course, step by step, going back where one does not fit.

    exact: nothing else would happen in the meantime. Else later reports may take steps that the
    course does not have: most do no harm, and the replay will tell.
    """

    def __init__(self, course: Course, exact: bool):
        self._exact = exact
        self._course = course
        self._moves = Moves(course.setting, course.pages)
        self._request = course.setting.strategy.request
        self._tried = 0

    def timings(self) -> Iterator[_Times]:
        """Yield what fits."""
        yield from self._from(0, _Times(entered=(0,) * len(self._course.states[0].bits)))

    def _from(self, number: int, now: _Times) -> Iterator[_Times]:
        if number == len(self._course.labels):
            yield now
            return
        for then in self._step(number, now):
            self._tried += 1
            if self._tried > _PATIENCE:
                return
            if self._in_time(number, then):
                yield from self._from(number + 1, then)

    def _in_time(self, number: int, then: _Times) -> bool:
        """Whether nothing else would have happened by then."""
        if self._request is not None and then.interval > 0:
            tick = self._request.next_tick(then.ticked, then.interval)
            if tick is not None and tick <= then.at:
                return False
        if not self._exact:
            return True
        after = self._course.states[number + 1]
        soonest = then.at + (after.spot == STOPPED)
        return all(
            then.delays[stage] < 0 or self._due(then, stage, entered) >= soonest
            for (stage, _), entered in zip(after.hints[1], then.entered, strict=True)
        )

    def _due(self, times: _Times, stage: int, entered: int) -> int:
        due = entered + times.delays[stage]
        if stage == 2 and self._request is not None:
            return self._request.handling_time(due, max(times.interval, 1))
        return due

    def _step(self, number: int, now: _Times) -> Iterator[_Times]:
        """Yield the times that a step may take place at, with what that settles."""
        kind, which = self._course.labels[number]
        before = self._course.states[number]
        if kind in ("free", "take", "write"):
            at = now.at + STEP_NS
            row = (at - now.still_ns, kind, which)
            if at <= self._until(before, now):
                yield now._replace(at=at, rows=(*now.rows, row))
        elif kind == "request":
            for at, interval in self._ticks(before, now):
                ticked = now._replace(at=at, interval=interval, ticked=at)
                yield self._settled(number, ticked)
        elif kind in _STAGES:
            for then in self._reports(number, now):
                yield self._settled(number, then)
        else:
            at = now.at if at_once(before) else now.link
            link = at + COPY_NS if kind == "copy" else at
            if at >= now.at:
                yield self._settled(number, now._replace(at=at, link=link))

    def _until(self, state: State, now: _Times) -> int:
        """Return up to when something may happen before the host's next step."""
        if state.spot in (WAITING, DRAINING):
            return now.at + COPY_NS
        return now.at if at_once(state) else now.link

    def _open(self, state: State, now: _Times) -> range:
        if at_once(state):
            return range(now.at, now.at + 1)
        return range(now.at + STEP_NS, self._until(state, now) + 1, STEP_NS)

    def _ticks(self, state: State, now: _Times) -> Iterator[tuple[int, int]]:
        """Yield the times of a next tick with the interval that makes it one."""
        assert self._request is not None
        choices = self._open(state, now)
        if now.interval < 0:
            for at, parts in product(choices, range(1, _PARTS)):
                interval = at // parts
                if at % parts == 0 and self._request.next_tick(0, interval) == at:
                    yield at, interval
        elif (tick := self._request.next_tick(now.ticked, now.interval)) in choices:
            assert tick is not None
            yield tick, now.interval

    def _reports(self, number: int, now: _Times) -> Iterator[_Times]:
        kind, which = self._course.labels[number]
        stage, entered = _STAGES.index(kind), now.entered[which]
        choices = self._open(self._course.states[number], now)
        if now.delays[stage] >= 0:
            if (at := self._due(now, stage, entered)) in choices:
                yield now._replace(at=at)
            return
        assert self._request is not None
        ticking = stage == 2 and self._request.handling_time(0, 1) != 0
        for at in choices:
            delay = 0 if ticking else at - entered
            delays = list(now.delays)
            delays[stage] = delay
            then = now._replace(at=at, delays=(delays[0], delays[1], delays[2]))
            if not ticking:
                yield then
                continue
            for parts in range(1, _PARTS):
                if at % parts or not at:
                    continue
                if self._request.handling_time(entered, at // parts) == at:
                    yield then._replace(interval=at // parts)

    def _settled(self, number: int, then: _Times) -> _Times:
        """Note what a step did to reports and to the guest's clock."""
        before, after = self._course.states[number : number + 2]
        label = self._course.labels[number]
        kept = self._moves.effect(before, label).kept
        entered = [
            then.at if (label[0] in _STAGES and i == label[1]) else then.entered[i] for i in kept
        ]
        entered += [then.at] * (len(after.bits) - len(kept))
        still, since = then.still_ns, then.still_since
        if before.hints[0] and not after.hints[0]:
            since = then.at
        elif after.hints[0] and not before.hints[0]:
            still += then.at - since
        return then._replace(entered=tuple(entered), still_ns=still, still_since=since)


def _parameters(course: Course, times: _Times) -> Parameters:
    setting, never = course.setting, times.at + COPY_NS
    request = setting.strategy.request
    delays = [delay if delay >= 0 else never for delay in times.delays]
    return Parameters(
        bandwidth=BANDWIDTH,
        downtime_limit_ns=0,
        log_mode=setting.log_mode,
        hint_clears_log=setting.hint_clears_log,
        request=None if request is None else axis_of(request),
        request_delay_ns=delays[0],
        report_delay_ns=delays[1],
        handle_delay_ns=delays[2],
        hint_interval_ns=times.interval if times.interval > 0 else never,
        guest_hold=setting.hold,
        max_rounds=sum(kind == "sync" for kind, _ in course.labels),
    )


def _meta(course: Course, times: _Times) -> Meta:
    chunks, pages = course.states[0].chunks, course.pages
    firsts = [page for page in range(pages) if chunks >> page & 1] or [0]
    return Meta(
        page_size=PAGE_SIZE,
        pages=pages,
        duration_ns=times.at + COPY_NS,
        blocks=tuple(
            Block(f"ram{i}", first, end - first)
            for i, (first, end) in enumerate(pairwise([*firsts, pages]))
        ),
        resolution="write",
        freelist_resolution="event",
        source={"recorder": "dirtylog prove", "strategy": course.setting.strategy.name},
    )


def _tables(course: Course, times: _Times) -> dict[TableName, pa.Table]:
    free = course.states[0].free
    moves = [(0, page, 1, True) for page in range(course.pages) if free >> page & 1]
    moves += [(t, page, 1, kind == "free") for t, kind, page in times.rows if kind != "write"]
    writes = [(t, page, 1) for t, kind, page in times.rows if kind == "write"]
    return {"dirty": _table("dirty", writes), "freelist": _table("freelist", moves)}


def _table(name: TableName, rows: Sequence[tuple[int, ...]]) -> pa.Table:
    schema = SCHEMAS[name]
    columns = [pa.array([row[i] for row in rows], column.type) for i, column in enumerate(schema)]
    return pa.table(columns, schema=schema)
