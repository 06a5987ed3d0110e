"""The delays, or the bandwidths, at which a strategy loses a write on a trace.

Two ways to the answer. Where a guest is asked once, `handling` knows for every delay which pages a
handling loses, at any size; delays outside these windows are safe, and what becomes of the pages
inside them is replayed. Elsewhere everything is replayed. `stepping` makes of replays at single
values what holds for all values between, and says where it could not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from analyses.handling import Window, applies, windows
from analyses.history import Checked, Index, check
from analyses.load import as_worked
from analyses.stepping import Piece, Stepper
from replay.parameters import Parameters
from replay.strategies import Strategy
from tracer.errors import UsageError
from tracer.format import SCHEMAS
from tracer.trace import Trace
from tracer.words import rate, setting

Varied = Literal["request-delay", "report-delay", "handle-delay", "bandwidth"]
#: Told after each replay: how many there were.
Tell = Callable[[int], None]

_FIELDS: dict[Varied, str] = {
    "request-delay": "request_delay_ns",
    "report-delay": "report_delay_ns",
    "handle-delay": "handle_delay_ns",
    "bandwidth": "bandwidth",
}
#: How long it may take where the user does not say, and what a replay takes, about: in ns, and in
#: ns for each row and page. And how many replays it is at least and at most.
_PATIENCE, _REPLAY, _ROW = 8_000_000_000, 1_000_000, 60
_FEWEST, _MOST = 80, 4_000
#: A bandwidth is varied from a quarter to four times of what is given.
_SPREAD = 4

#: lost: pages are lost for good. healed: some are lost right after a handling, but written and sent
#: again, or freed, before the switchover. safe: none. no-switchover: the replay does not end in
#: one. unknown: not checked, and no neighbour speaks for it.
State = Literal["lost", "unknown", "no-switchover", "healed", "safe"]


@dataclass(frozen=True)
class Interval:
    """Values from lo to hi, for all of which the same holds.

    lost, near_misses: pages, None where unknown or without a switchover. missed: pages lost right
    after a handling, at most, at one value of the interval; None where unknown.
    """

    lo: int
    hi: int
    state: State
    lost: int | None
    near_misses: int | None
    missed: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {
            "from": self.lo,
            "to": self.hi,
            "state": self.state,
            "lost": self.lost,
            "near_misses": self.near_misses,
            "missed": self.missed,
        }


@dataclass(frozen=True)
class Danger:
    """A run of intervals that lose pages, from the first value known to do so to the last.

    lost: pages at worst. settled: of so many values it is known that they lose pages.
    """

    lo: int
    hi: int
    lost: int
    settled: int

    @property
    def values(self) -> int:
        """How many values there are from the first to the last."""
        return self.hi - self.lo + 1

    @property
    def whole(self) -> bool:
        """Whether every value between was settled."""
        return self.settled == self.values


@dataclass(frozen=True)
class Hazards:
    """The answer for one strategy on one trace: the intervals from lo to hi, without a gap.

    by_handling: whether the handling alone says where pages can be lost at all. replays: made.
    """

    trace: Trace
    strategy: Strategy
    parameters: Parameters
    varied: Varied
    lo: int
    hi: int
    intervals: tuple[Interval, ...]
    by_handling: bool
    replays: int

    @property
    def scenario(self) -> Literal["exact", "recorded"]:
        """What was replayed (the model, section 7)."""
        return "exact" if self.trace.exact else "recorded"

    @property
    def complete(self) -> bool:
        """Whether something is known of every value."""
        return not any(one.state == "unknown" for one in self.intervals)

    @property
    def settled(self) -> int:
        """Of how many values something is known."""
        return sum(one.hi - one.lo + 1 for one in self.intervals if one.state != "unknown")

    @property
    def unsafe(self) -> tuple[Interval, ...]:
        """The intervals in which pages are lost."""
        return tuple(one for one in self.intervals if one.state == "lost")

    @property
    def dangers(self) -> tuple[Danger, ...]:
        """The intervals in which pages are lost, joined where at most unknown ones part them."""
        found: list[Danger] = []
        joined = False
        for one in self.intervals:
            if one.state == "lost":
                danger = Danger(one.lo, one.hi, one.lost or 0, one.hi - one.lo + 1)
                if joined:
                    last = found.pop()
                    settled = last.settled + danger.settled
                    danger = Danger(last.lo, one.hi, max(last.lost, danger.lost), settled)
                found.append(danger)
            joined = bool(found) and (one.state == "lost" or (joined and one.state == "unknown"))
        return tuple(found)

    @property
    def smallest(self) -> int | None:
        """The smallest value known to lose a page, None if there is none."""
        return self.unsafe[0].lo if self.unsafe else None

    @property
    def smallest_open(self) -> int | None:
        """The smallest value of which nothing is known, if it is below all that lose a page."""
        for one in self.intervals:
            if one.state == "unknown":
                return one.lo
            if one.state == "lost":
                return None
        return None

    @property
    def worst(self) -> int:
        """How many pages are lost at worst."""
        return max((one.lost or 0 for one in self.unsafe), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it; delays in ns, bandwidths in bytes/s."""
        request = self.strategy.request
        return {
            "trace": self.trace.name,
            "strategy": self.strategy.name,
            "request": None if request is None else request.name,
            "profile": self.parameters.profile,
            "log_mode": self.parameters.log_mode,
            "guest_hold": self.parameters.hold(self.strategy),
            "scenario": self.scenario,
            "vary": self.varied,
            "from": self.lo,
            "up_to": self.hi,
            "unsafe": bool(self.unsafe),
            "smallest_unsafe": self.smallest,
            "worst_lost": self.worst,
            "complete": self.complete,
            "smallest_unknown": self.smallest_open,
            "replays": self.replays,
            "intervals": [one.to_dict() for one in self.intervals],
        }


def hazards(
    trace: Trace,
    strategy: Strategy,
    parameters: Parameters,
    varied: Varied,
    *,
    lo: int | None = None,
    hi: int | None = None,
    budget: int | None = None,
    tell: Tell | None = None,
) -> Hazards:
    """Find out what a strategy (its request axis chosen) does at every value from lo to hi.

    trace: validated. lo and hi default to 0 and the trace's duration for delays, a quarter and four
    times of the given one for the bandwidth. budget: replays at most. Raises UsageError for an
    empty range or a strategy that needs a free list where the trace has none.
    """
    trace = as_worked(trace, parameters)
    lo, hi = _range(trace, parameters, varied, lo, hi)
    for end in (lo, hi):
        _with(parameters, varied, end)  # what it accepts at the ends it accepts between them
    budget = budget or default_budget(trace)

    @cache
    def index() -> Index:
        return Index(trace)

    def at(value: int) -> Checked:
        return check(trace, strategy, _with(parameters, varied, value), index())

    stepper = Stepper(at, budget, guesses=varied != "bandwidth")
    stepper.tell = tell or stepper.tell
    by_handling = varied != "bandwidth" and applies(strategy, parameters, varied)
    found: list[Interval] = []
    if by_handling and varied != "bandwidth":
        missed = windows(trace, strategy, parameters, varied, lo, hi)
        spans = _spans(missed)
        # The first of all, then the wide ones: the budget may not last for all.
        for span in (*spans[:1], *sorted(spans[1:], key=lambda span: span[0] - span[1])):
            stepper.add(*span)
        stepper.run()
        found = _outside(spans, lo, hi)
        for window in missed:
            found += [_interval(piece, window) for piece in stepper.pieces(window.lo, window.hi)]
        found.sort(key=lambda one: one.lo)
    else:
        stepper.add(lo, hi)
        stepper.run()
        found = [_interval(piece) for piece in stepper.pieces(lo, hi)]
    return Hazards(
        trace, strategy, parameters, varied, lo, hi, tuple(_merged(found)), by_handling,
        len(stepper.checked),
    )  # fmt: skip


def _with(parameters: Parameters, varied: Varied, value: int) -> Parameters:
    fields: dict[str, Any] = {_FIELDS[varied]: value}
    return replace(parameters, **fields)


def default_budget(trace: Trace) -> int:
    """Return how many replays are made at most where the user does not say: it goes by the size."""
    size = trace.meta.pages + sum(trace.num_rows(name) for name in SCHEMAS)
    return min(max(_PATIENCE // (_REPLAY + _ROW * size), _FEWEST), _MOST)


def _range(
    trace: Trace, parameters: Parameters, varied: Varied, lo: int | None, hi: int | None
) -> tuple[int, int]:
    if varied == "bandwidth":
        given = parameters.bandwidth
        lo = max(given // _SPREAD, 1) if lo is None else lo
        hi = given * _SPREAD if hi is None else hi
    else:
        lo = 0 if lo is None else lo
        hi = max(trace.meta.duration_ns, lo) if hi is None else hi
    if lo > hi:
        said = rate if varied == "bandwidth" else setting
        raise UsageError(
            f"{varied} from {said(lo)} up to {said(hi)}: there is nothing between them"
        )
    return lo, hi


def _interval(piece: Piece, window: Window | None = None) -> Interval:
    outcome = piece.outcome
    if outcome is None:
        missed = None if window is None else window.pages
        return Interval(piece.lo, piece.hi, "unknown", None, None, missed)
    state: State = "safe"
    if outcome.lost is None:
        state = "no-switchover"
    elif outcome.lost:
        state = "lost"
    elif outcome.near_misses:
        state = "healed"
    return Interval(
        piece.lo, piece.hi, state, outcome.lost, outcome.near_misses, outcome.missed
    )  # fmt: skip


def _spans(missed: Sequence[Window]) -> list[tuple[int, int]]:
    """Return the windows, those that touch made one."""
    spans: list[tuple[int, int]] = []
    for window in missed:
        if spans and spans[-1][1] == window.lo - 1:
            spans[-1] = spans[-1][0], window.hi
        else:
            spans.append((window.lo, window.hi))
    return spans


def _outside(spans: Sequence[tuple[int, int]], lo: int, hi: int) -> list[Interval]:
    """Return the rest of the range, where no handling loses a page."""
    edges = [lo, *(edge for begin, end in spans for edge in (begin, end + 1)), hi + 1]
    return [
        Interval(begin, past - 1, "safe", 0, 0, 0)
        for begin, past in zip(edges[::2], edges[1::2], strict=True)
        if begin < past
    ]


def _merged(found: Sequence[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for one in found:
        if merged and replace(merged[-1], hi=one.hi) == replace(one, lo=merged[-1].lo):
            merged[-1] = replace(merged[-1], hi=one.hi)
        else:
            merged.append(one)
    return merged
