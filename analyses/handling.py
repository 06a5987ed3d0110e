"""Which delays lose pages at the moment of handling, where a guest is asked once.

Exact for traces of any size.

Up to the handling of its only report a migration runs as if no answer came. One replay without an
answer therefore tells for every page at which instants a handling would lose it: the cases of
`replay.kernels.note_missed`, as intervals. Delays only choose the instant.

No page is lost for good that was not lost right after a handling: what is pending or logged then is
sent later, and what is written later is logged. (But for log mode manual where handling leaves the
log: a harvested bit that stays hides later writes.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from analyses.unanswered import Lives, Unanswered
from replay.parameters import Parameters
from replay.policies import Fate, Once
from replay.strategies import Strategy
from tracer.rows import Int64s
from tracer.trace import Trace

Delay = Literal["request-delay", "report-delay", "handle-delay"]


@dataclass(frozen=True)
class Window:
    """Delays from lo to hi (ns), at each of which a handling loses so many pages."""

    lo: int
    hi: int
    pages: int


def applies(strategy: Strategy, parameters: Parameters, varied: str) -> bool:
    """Return whether `windows` can tell, and no page is lost that was not lost at the handling."""
    request = strategy.request
    if request is None:
        return True
    # What another policy does at the times that matter here no number of questions tells.
    once = type(request) is Once
    log = parameters.log_mode == "legacy" or parameters.hint_clears_log
    snapshot = varied != "request-delay" or parameters.min_order == 0
    single = parameters.at_end == "stop"
    return once and log and snapshot and single and varied != "bandwidth"


def windows(
    trace: Trace, strategy: Strategy, parameters: Parameters, varied: Delay, lo: int, hi: int
) -> list[Window]:
    """Return the delays from lo to hi at which the handling loses pages; `applies` must hold."""
    held = parameters.hold(strategy) != "none"
    if strategy.request is None or held or strategy.stop_guest:
        # What is reported is not taken before the handling.
        return []
    timetable = _Timetable.of(parameters, varied)
    moving = varied == "request-delay"
    course = Unanswered(trace, strategy, parameters, moving=moving)
    lives = course.lives()
    ends: list[tuple[Int64s, Int64s]] = []
    for first, last, at in _handlings(strategy, course, timetable, lo, hi):
        ends.append(_losing(lives, timetable, first, last, at))
    return _stacked(ends)


@dataclass(frozen=True)
class _Timetable:
    """Snapshot, arrival and handling in ns, without the varied delay where it comes before them."""

    snapshot: int
    arrival: int
    handling: int
    varied: Delay

    @classmethod
    def of(cls, parameters: Parameters, varied: Delay) -> _Timetable:
        delays = {
            "request-delay": parameters.request_delay_ns,
            "report-delay": parameters.report_delay_ns,
            "handle-delay": parameters.handle_delay_ns,
            varied: 0,
        }
        request, report, handle = (
            delays[name] for name in ("request-delay", "report-delay", "handle-delay")
        )
        return cls(request, request + report, request + report + handle, varied)

    def at(self, delay: int) -> tuple[int, int, int]:
        """Return the times of snapshot, arrival and handling."""
        snapshot = self.snapshot + delay * (self.varied == "request-delay")
        return (
            snapshot,
            self.arrival + delay * (self.varied != "handle-delay"),
            self.handling + delay,
        )


def _losing(
    lives: Lives, timetable: _Timetable, lo: int, hi: int, at: int | None
) -> tuple[Int64s, Int64s]:
    """Return the delays from lo to hi that lose a page, as one interval for each of them.

    at: the instant of the handling, None where it comes when it is due.
    """
    first, last = lives.loss
    if at is None:
        begin, end = first - timetable.handling, last - timetable.handling
    else:
        hit = (first <= at) & (at <= last)
        begin, end = np.where(hit, lo, 1), np.where(hit, hi, 0)
    if timetable.varied == "request-delay":
        begin, end = begin[lives.pair], end[lives.pair]
        begin = np.maximum(begin, lives.free[0] - timetable.snapshot)
        end = np.minimum(end, lives.free[1] - timetable.snapshot)
    begin, end = np.maximum(begin, lo), np.minimum(end, hi)
    some = begin <= end
    return begin[some], end[some]


def _handlings(
    strategy: Strategy, course: Unanswered, timetable: _Timetable, lo: int, hi: int
) -> list[tuple[int, int, int | None]]:
    """Return runs of delays (lo, hi) and when the report is handled in them.

    None stands for when it is due. Runs in which it is dropped, or comes too late, are left out.
    """
    zero = timetable.at(0)
    edges = {lo, hi + 1}
    for moment, moves in zip(zero, (timetable.at(1)[i] > zero[i] for i in range(3)), strict=True):
        for sync in (*course.regular, course.end):
            edges |= {edge for edge in (sync - moment, sync - moment + 1) if moves}
    inside = sorted(edge for edge in edges if lo <= edge <= hi + 1)
    found: list[tuple[int, int, int | None]] = []
    for first, past in pairwise(inside):
        fate, at = _fate(strategy, course, timetable.at(first))
        if fate is Fate.HANDLE:
            found.append((first, past - 1, at))
    return found


@dataclass(frozen=True)
class _View:
    requested_ns: int
    queued: bool
    syncs_since_request: int


def _fate(
    strategy: Strategy, course: Unanswered, times: tuple[int, int, int]
) -> tuple[Fate, int | None]:
    """Ask the policy what becomes of the report, sync by sync; KEEP if it comes too late."""
    snapshot, arrival, handling = times
    accept = strategy.accept
    assert accept is not None
    syncs = 0
    for sync in course.regular:
        if handling <= sync:
            break
        fate = accept.before_sync(_View(0, arrival <= sync, syncs))
        if fate is Fate.DROP or (fate is Fate.HANDLE and sync < snapshot):
            return Fate.DROP, None
        if fate is Fate.HANDLE:
            return fate, sync
        syncs += 1
    if handling > course.end:
        return Fate.KEEP, None
    return accept.when_due(_View(0, True, syncs)), None


def _stacked(ends: list[tuple[Int64s, Int64s]]) -> list[Window]:
    """Count how many of the intervals cover each delay."""
    if not ends:
        return []
    first = np.concatenate([pair[0] for pair in ends])
    past = np.concatenate([pair[1] for pair in ends]) + 1
    edges, where = np.unique(np.concatenate([first, past]), return_inverse=True)
    step = np.repeat(np.array([1, -1]), len(first))
    covers = np.cumsum(np.bincount(where, step, len(edges)).astype(np.int64))
    found: list[Window] = []
    for i in np.flatnonzero(covers):
        lo, hi, pages = int(edges[i]), int(edges[i + 1]) - 1, int(covers[i])
        if found and found[-1].hi == lo - 1 and found[-1].pages == pages:
            found[-1] = replace(found[-1], hi=hi)
        else:
            found.append(Window(lo, hi, pages))
    return found
