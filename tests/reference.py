"""The slow, obvious replay: the model written down literally, page by page and event by event.

It knows the `rounds` profile and the scenarios `exact`, `recorded` and `saturated`. It shares no
code with the fast engine and is written from the model alone, so that the two can be compared
number for number. Times are integer nanoseconds, sizes integer bytes, pages indexes 0...pages-1.

"Replay order" is a sequence counter: every write, take, snapshot, sync, handling and copy gets the
next number, and "after" means a greater number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

BILLION = 10**9
PAGE_HEADER = 8
ZERO_PAGE = 9

# Rounds in a row without guest time moving on, after which a replay is taken never to end.
STANDSTILL_ROUNDS = 100

# The order of things at one instant (the model, section 2), with the ends of epochs between them.
FREELIST, FIRST_WRITE_EPOCH_END, DIRTY, ZERO, EPOCH_END, EPOCH_START = range(6)


@dataclass(frozen=True)
class ReferenceTrace:
    """The model, section 1. Rows are `(t, page, count)`, free-list rows end with `free`."""

    page_size: int
    pages: int
    duration_ns: int
    dirty: list[tuple[int, int, int]]
    freelist: list[tuple[int, int, int, bool]]
    zero: list[tuple[int, int, int]]
    epochs: list[int]
    blocks: list[tuple[int, int]]
    resolution: str = "write"


@dataclass(frozen=True)
class ReferenceParameters:
    """Bandwidth in bytes per second, delays and intervals in ns of the host clock."""

    bandwidth: int
    downtime_limit_ns: int
    log_mode: str = "legacy"
    clear_chunk: int = 2**18
    hint_clears_log: bool = True
    request: str | None = None
    request_delay_ns: int = 0
    report_delay_ns: int = 0
    handle_delay_ns: int = 0
    hint_interval_ns: int = 1000
    guest_hold: str = "auto"
    min_order: int = 0
    max_rounds: int | None = None


@dataclass(frozen=True)
class ReferenceResult:
    """One result row, a witness per lost page, and what happened to each round and report."""

    row: dict[str, Any]
    witnesses: list[dict[str, Any]]
    rounds: list[dict[str, Any]]
    reports: list[dict[str, Any]]


@dataclass(frozen=True)
class Composition:
    """A strategy by its axes (the model, section 6)."""

    start: str
    request: str | None
    accept: str | None
    sync: str = "none"
    drain: bool = False
    stop_guest: bool = False


COMPOSITIONS: dict[str, Composition] = {
    "precopy": Composition("eager", None, None),
    "hint-wait": Composition("wait", "once", "always"),
    "hint-async": Composition("eager", "once", "always", sync="after"),
    "hint-first-pass": Composition("eager", "once", "first-pass", sync="after"),
    "hint-drain": Composition("eager", "once", "always", drain=True),
    "hint-stop-vcpu": Composition("eager", "once", "always", sync="before", stop_guest=True),
    "hint-flush-before": Composition("eager", "once", "flush-before"),
    "hint-flush": Composition("eager", "once", "flush"),
    "hint-periodic": Composition("eager", "periodic", "flush"),
    "hint-resubmit": Composition("eager", "resubmit", "flush"),
    "hint-tagged": Composition("eager", "every-sync", "tagged"),
}


class Moment(NamedTuple):
    """A place in replay order and its instant on the host clock."""

    seq: int
    t: int


class TraceRow(NamedTuple):
    """Something that happens when guest time reaches `t`; `until` is for `heat` alone."""

    t: int
    phase: int
    kind: str
    pages: range
    until: int


class Copy(NamedTuple):
    """A non-zero copy, with what was true of its page at that instant."""

    page: int
    moment: Moment
    was_synced: bool
    was_free: bool


class Skip(NamedTuple):
    """The last handling that cleared a page's set pending bit."""

    snapshot: Moment
    handled: Moment
    round: int


class Sync(NamedTuple):
    """A sync and the log it found."""

    moment: Moment
    log: frozenset[int]


@dataclass
class Report:
    """A free-list report on its way (the model, section 5)."""

    requested: Moment
    snapshot: Moment | None = None
    pages: frozenset[int] = frozenset()
    rows_before: int = 0
    arrived_ns: int | None = None
    done_ns: int | None = None
    outcome: str = "in-flight"
    skipped: int = 0
    conflicts: int = 0


@dataclass
class Round:
    """One sweep of the cursor."""

    start_ns: int
    guest_ns: int
    end_ns: int | None = None
    pages_sent: int = 0
    zero_pages_sent: int = 0
    bytes_sent: int = 0
    pending_at_sync: int | None = None

    def is_empty(self) -> bool:
        return self.pages_sent + self.zero_pages_sent == 0 and self.end_ns == self.start_ns


@dataclass
class Tally:
    """Plain counters of section 4."""

    zero_pages_sent: int = 0
    wire_bytes: int = 0
    vcpu_stopped_ns: int = 0
    downtime_ns: int = 0
    near: set[int] = field(default_factory=set)


def replay(
    trace: ReferenceTrace,
    strategy_name: str,
    parameters: ReferenceParameters,
    scenario: str = "recorded",
) -> ReferenceResult:
    """Replay `trace` under a named strategy.

    Raises ValueError for a composition that is refused, AssertionError where the replay
    contradicts the model.
    """
    composition = _compose(strategy_name, parameters)
    if scenario not in ("exact", "recorded", "saturated"):
        raise ValueError(f"no such scenario here: {scenario}")
    if scenario == "saturated" and trace.resolution == "write":
        raise ValueError("a trace that has every write cannot be saturated")
    run = _Replay(trace, composition, parameters, saturated=scenario == "saturated")
    run.run()
    return run.result()


def _compose(strategy_name: str, parameters: ReferenceParameters) -> Composition:
    """The named composition with its request axis overridden; `precopy` never asks."""
    named = COMPOSITIONS[strategy_name]
    request = named.request
    if request is not None and parameters.request is not None:
        request = parameters.request
    if request not in (None, "once", "every-sync", "periodic", "resubmit"):
        raise ValueError(f"no such request axis: {request}")
    if named.drain and request == "resubmit":
        raise ValueError("drain with resubmit cannot end")
    if request in ("periodic", "resubmit") and parameters.hint_interval_ns <= 0:
        raise ValueError("the hint interval must be more than 0")
    return Composition(
        named.start, request, named.accept, named.sync, named.drain, named.stop_guest
    )


def _timeline(trace: ReferenceTrace, *, saturated: bool) -> list[TraceRow]:
    """All rows in the order in which they happen; a stable sort keeps the file order."""
    rows: list[TraceRow] = []
    for t, page, count, free in trace.freelist:
        kind = "free" if free else "take"
        rows.append(TraceRow(t, FREELIST, kind, range(page, page + count), 0))
    for t, page, count in trace.dirty:
        rows.append(TraceRow(t, DIRTY, "dirty", range(page, page + count), 0))
        if saturated:
            rows.extend(_heat(trace, t, range(page, page + count)))
    for t, page, count in trace.zero:
        rows.append(TraceRow(t, ZERO, "zero", range(page, page + count), 0))
    if saturated and trace.resolution == "first-write":
        rows.extend(TraceRow(e, FIRST_WRITE_EPOCH_END, "cool", range(0), 0) for e in trace.epochs)
        end = trace.duration_ns + 1  # what the last epoch hides ends with the trace
        rows.append(TraceRow(end, FIRST_WRITE_EPOCH_END, "cool", range(0), 0))
    return sorted(rows, key=lambda row: (row.t, row.phase))


def _heat(trace: ReferenceTrace, t: int, pages: range) -> list[TraceRow]:
    """When the pages of a dirty row at `t` are written without pause (the model, section 7)."""
    if trace.resolution == "first-write":
        until = min((e for e in trace.epochs if e > t), default=trace.duration_ns + 1)
        return [TraceRow(t, DIRTY, "heat", pages, until)]
    if t <= 0:
        return []
    start = max((e for e in trace.epochs if 0 < e < t), default=0)
    return [
        TraceRow(start, EPOCH_START, "heat", pages, t),
        TraceRow(t, EPOCH_END, "cool", range(0), 0),
    ]


class _Replay:
    """One replay. Belief (section 3) and truth (section 4) are kept apart by name."""

    def __init__(
        self,
        trace: ReferenceTrace,
        composition: Composition,
        parameters: ReferenceParameters,
        *,
        saturated: bool,
    ) -> None:
        self.trace = trace
        self.axes = composition
        self.parameters = parameters
        self.timeline = _timeline(trace, saturated=saturated)
        self.position = 0
        # Clocks (section 2).
        self.now = 0
        self.guest_now = 0
        self.seq = 0
        self.guest_stopped = False
        self.started = False
        # The guest.
        everything = set(range(trace.pages))
        self.in_use = set(everything)
        self.content_zero: set[int] = set()
        self.hot: dict[int, int] = {}
        self.writes: dict[int, list[Moment]] = {page: [] for page in everything}
        self.takes: dict[int, list[Moment]] = {page: [] for page in everything}
        # Belief.
        self.manual = parameters.log_mode == "manual"
        self.pending = set(everything)
        self.log = set(everything) if self.manual else set()
        self.harvested = set(self.log)
        self.marked = {self._chunk(page) for page in everything} if self.manual else set()
        self.syncs: list[Sync] = []
        self.cleared_unsynced: dict[int, list[Moment]] = {page: [] for page in everything}
        # Truth.
        self.synced: set[int] = set()
        self.destination_nonzero: set[int] = set()
        self.copies: list[Copy] = []
        self.last_copy: dict[int, Moment] = {}
        self.skips: dict[int, Skip] = {}
        # Reports and rounds.
        self.requests_at: list[int] = []
        self.resubmits = 0
        self.reports: list[Report] = []
        self.rounds: list[Round] = []
        self.link_free_at = 0
        self.cursor = 0
        self.sending = False
        self.tally = Tally()
        self.completed = False
        self.reason: str | None = None

    # ---- the clock ------------------------------------------------------------------------

    def run(self) -> None:
        """Instant by instant: everything that is due, then what the sender does."""
        self._start()
        while self.reason is None:
            self._everything_due()
            if not self._sender_acts():
                self._advance()

    def _start(self) -> None:
        """Rows at or before the start are the initial state (section 2)."""
        while self.position < len(self.timeline) and self.timeline[self.position].t <= 0:
            self._initial_row(self.timeline[self.position])
            self.position += 1
        self.started = True
        if self.axes.request is not None:
            self.requests_at.append(0)
        if self.axes.start == "eager":
            self._begin_round()

    def _advance(self) -> None:
        """Go to the next instant at which anything may happen."""
        instants = [*self.requests_at, *self._report_instants()]
        if not self.guest_stopped:
            guest_ahead = [self.trace.duration_ns]
            if self.position < len(self.timeline):
                guest_ahead.append(self.timeline[self.position].t)
            instants.extend(self.now + t - self.guest_now for t in guest_ahead)
        if self.sending:
            instants.append(self.link_free_at)
        ahead = [t for t in instants if t > self.now]
        assert ahead, "nothing will ever happen again, and the replay has not ended"
        passed = min(ahead) - self.now
        self.now += passed
        if self.guest_stopped:
            self.tally.vcpu_stopped_ns += passed
        else:
            self.guest_now += passed

    def _moment(self) -> Moment:
        self.seq += 1
        return Moment(self.seq, self.now)

    # ---- the guest ------------------------------------------------------------------------

    def _initial_row(self, row: TraceRow) -> None:
        """They set free list and contents, and dirty nothing (section 2)."""
        for page in row.pages:
            if row.kind == "free":
                self._enter_free_list(page)
            elif row.kind == "take":
                self._leave_free_list(page)
            elif row.kind == "dirty":
                self.content_zero.discard(page)
                self.synced.discard(page)
            elif row.kind == "zero":
                self._becomes_zero(page)
        self._change_heat(row)

    def _row(self, row: TraceRow) -> None:
        """A trace row while the guest runs; `heat` and `cool` only mark epochs.

        Up to the moment at which an epoch ends its hot pages are written.
        """
        if row.kind in ("heat", "cool"):
            if row.kind == "cool":
                self._hot_writes()
            self._change_heat(row)
            return
        self._hot_writes()
        for page in row.pages:
            if row.kind == "free":
                self._enter_free_list(page)
            elif row.kind == "take":
                self._leave_free_list(page)
                self.takes[page].append(self._moment())
            elif row.kind == "dirty":
                self._write(page)
            elif row.kind == "zero":
                self._becomes_zero(page)
        self._hot_writes()

    def _enter_free_list(self, page: int) -> None:
        assert page in self.in_use, f"page {page} freed while free: not a trace (section 1)"
        self.in_use.discard(page)

    def _leave_free_list(self, page: int) -> None:
        assert page not in self.in_use, f"page {page} taken while in use: not a trace (section 1)"
        self.in_use.add(page)

    def _write(self, page: int) -> None:
        """Sets the log (section 3); ends `synced` (section 4)."""
        self.log.add(page)
        self.synced.discard(page)
        self.content_zero.discard(page)
        self.writes[page].append(self._moment())

    def _becomes_zero(self, page: int) -> None:
        """A zero row on a page of which the destination holds zeros makes it synced (section 4)."""
        self.content_zero.add(page)
        if page not in self.destination_nonzero:
            self.synced.add(page)

    def _change_heat(self, row: TraceRow) -> None:
        if row.kind == "heat":
            for page in row.pages:
                self.hot[page] = max(row.until, self.hot.get(page, row.until))
        elif row.kind == "cool":
            self.hot = {page: until for page, until in self.hot.items() if until > row.t}

    def _hot_writes(self) -> None:
        """`saturated`: written without pause, so before and after everything (section 7)."""
        if self.guest_stopped:
            return
        for page in sorted(self.hot):
            if page in self.in_use:
                self._write(page)

    # ---- the dirty log (section 3) --------------------------------------------------------

    def _chunk(self, page: int) -> tuple[int, int]:
        """Chunks are counted from each block's first page."""
        first_page, _ = self._block(page)
        return first_page, (page - first_page) // self.parameters.clear_chunk

    def _block(self, page: int) -> tuple[int, int]:
        for first_page, pages in self.trace.blocks:
            if first_page <= page < first_page + pages:
                return first_page, pages
        raise AssertionError(f"page {page} lies in no block")

    def _sync(self) -> None:
        """`pending |= log`; the log is cleared at once, or harvested and every chunk marked."""
        self.syncs.append(Sync(self._moment(), frozenset(self.log)))
        self.pending |= self.log
        if self.manual:
            self.harvested = set(self.log)
            self.marked = {self._chunk(page) for page in range(self.trace.pages)}
        else:
            self.log = set()

    def _own_sync(self) -> None:
        self._hot_writes()
        self._sync()
        self._hot_writes()

    def _clear_chunk_of(self, page: int) -> None:
        """`log &= ~harvested` for a marked chunk, and the mark goes."""
        chunk = self._chunk(page)
        if chunk not in self.marked:
            return
        for other in range(self.trace.pages):
            if self._chunk(other) == chunk and other in self.harvested and other in self.log:
                self.log.discard(other)
                self.cleared_unsynced[other].append(self._moment())
        self.marked.discard(chunk)

    # ---- the sender (section 3, profile `rounds`) -----------------------------------------

    def _sender_acts(self) -> bool:
        """One act of the sender at this instant; False if it has to wait for a later one."""
        if not self.rounds:
            if all(report.done_ns is None for report in self.reports):
                return False
            self._begin_round()
            return True
        if self.sending:
            if self.link_free_at > self.now:
                return False
            self._copy_next_or_end_round()
            return True
        return self._between_rounds()

    def _begin_round(self) -> None:
        self.rounds.append(Round(self.now, self.guest_now))
        self.cursor = 0
        self.link_free_at = self.now
        self.sending = True

    def _copy_next_or_end_round(self) -> None:
        """The cursor passes what is not pending and copies the next page that is."""
        this_round = self.rounds[-1]
        while self.cursor < self.trace.pages and self.cursor not in self.pending:
            self.cursor += 1
        if self.cursor == self.trace.pages:
            this_round.end_ns = self.now
            self.sending = False
            return
        self._hot_writes()
        size = self._copy(self.cursor)
        self._hot_writes()
        if size == ZERO_PAGE:
            this_round.zero_pages_sent += 1
        else:
            this_round.pages_sent += 1
        this_round.bytes_sent += size
        busy = this_round.bytes_sent * BILLION // self.parameters.bandwidth
        self.link_free_at = this_round.start_ns + busy
        self.cursor += 1

    def _copy(self, page: int) -> int:
        """The page's chunk, its pending bit, its content at that instant; returns its bytes."""
        self._clear_chunk_of(page)
        self.pending.discard(page)
        moment = self._moment()
        size = ZERO_PAGE
        if page in self.content_zero:
            self.tally.zero_pages_sent += 1
            self.destination_nonzero.discard(page)
        else:
            was_free = page not in self.in_use
            self.copies.append(Copy(page, moment, page in self.synced, was_free))
            self.destination_nonzero.add(page)
            size = self.trace.page_size + PAGE_HEADER
        self.synced.add(page)
        self.last_copy[page] = moment
        self.tally.wire_bytes += size
        return size

    def _between_rounds(self) -> bool:
        """A round has ended: a regular sync, perhaps after a wait for reports, or the end."""
        if self.guest_now > self.trace.duration_ns:
            self.reason = "trace-exhausted"
            return True
        if self.axes.drain and any(report.done_ns is None for report in self.reports):
            if self.guest_now < self.trace.duration_ns:
                return False
            self.reason = "trace-exhausted"
            return True
        self._regular_sync()
        return True

    def _regular_sync(self) -> None:
        self.resubmits = 0
        self._before_regular_sync()
        self._hot_writes()
        self._sync()
        pending = len(self.pending)
        self.rounds[-1].pending_at_sync = pending
        limit = self.parameters.bandwidth * self.parameters.downtime_limit_ns
        if pending * self.trace.page_size * BILLION <= limit:
            self._switch_over("downtime-limit")
        elif self.parameters.max_rounds is not None and (
            len(self.rounds) >= self.parameters.max_rounds
        ):
            self._switch_over("max-rounds")
        elif len(self.rounds) >= 2 and all(sweep.is_empty() for sweep in self.rounds[-2:]):
            self.reason = "livelock"
        elif len(self.rounds) >= STANDSTILL_ROUNDS and all(
            sweep.guest_ns == self.guest_now for sweep in self.rounds[-STANDSTILL_ROUNDS:]
        ):
            self.reason = "livelock"  # overlapping reports keep the guest stopped for good
        else:
            self._hot_writes()
            self._begin_round()
            asked = 1 if self.axes.request == "every-sync" else self.resubmits
            self.requests_at.extend([self.now] * asked)
            self.resubmits = 0

    def _switch_over(self, reason: str) -> None:
        """The guest is stopped and everything pending is copied as one run."""
        self.guest_stopped = True
        sent = sum(self._copy(page) for page in sorted(self.pending))
        self.tally.downtime_ns = sent * BILLION // self.parameters.bandwidth
        self.completed = True
        self.reason = reason

    # ---- reports (sections 5 and 6) -------------------------------------------------------

    def _everything_due(self) -> None:
        """What happens at one instant before the sender's turn, in the order of section 2."""
        while (
            self.position < len(self.timeline) and self.timeline[self.position].t <= self.guest_now
        ):
            self.position += 1
            self._row(self.timeline[self.position - 1])
        busy = True
        while busy:
            busy = self._requests_due()
            busy = self._snapshots_due() or busy
            busy = self._arrivals_due() or busy
            busy = self._handlings_due() or busy

    def _requests_due(self) -> bool:
        due = [t for t in self.requests_at if t <= self.now]
        self.requests_at = [t for t in self.requests_at if t > self.now]
        for _ in due:
            self.reports.append(Report(requested=self._moment()))
            if self.axes.request == "periodic":
                self.requests_at.append(self.now + self.parameters.hint_interval_ns)
        return bool(due)

    def _outstanding(self) -> list[Report]:
        return [report for report in self.reports if report.done_ns is None]

    def _queue(self) -> list[Report]:
        """The reports that lie in the virtqueue, in the order of arrival."""
        return [report for report in self._outstanding() if report.arrived_ns is not None]

    def _snapshot_due_ns(self, report: Report) -> int:
        return report.requested.t + self.parameters.request_delay_ns

    def _arrival_due_ns(self, report: Report) -> int:
        assert report.snapshot is not None
        return report.snapshot.t + self.parameters.report_delay_ns

    def _handling_due_ns(self, report: Report) -> int:
        """With `resubmit` the first tick later than the report's time."""
        assert report.arrived_ns is not None
        ready = report.arrived_ns + self.parameters.handle_delay_ns
        if self.axes.request == "resubmit":
            interval = self.parameters.hint_interval_ns
            return (ready // interval + 1) * interval
        return ready

    def _report_instants(self) -> Iterable[int]:
        for report in self._outstanding():
            if report.snapshot is None:
                yield self._snapshot_due_ns(report)
            elif report.arrived_ns is None:
                yield self._arrival_due_ns(report)
            else:
                yield self._handling_due_ns(report)

    def _snapshots_due(self) -> bool:
        due = [
            report
            for report in self._outstanding()
            if report.snapshot is None and self._snapshot_due_ns(report) <= self.now
        ]
        for report in due:
            self._hot_writes()
            report.snapshot = self._moment()
            report.pages = frozenset(
                page for page in range(self.trace.pages) if self._is_reported(page)
            )
            report.rows_before = self.position
            if self.axes.stop_guest:
                self.guest_stopped = True
            self._hot_writes()
        return bool(due)

    def _is_reported(self, page: int) -> bool:
        """Its aligned block of 2^min_order pages lies in its RAM block and is wholly free."""
        first_page, pages = self._block(page)
        size = 2**self.parameters.min_order
        start = first_page + (page - first_page) // size * size
        if start + size > first_page + pages:
            return False
        return all(other not in self.in_use for other in range(start, start + size))

    def _arrivals_due(self) -> bool:
        due = [
            report
            for report in self._outstanding()
            if report.snapshot is not None
            and report.arrived_ns is None
            and self._arrival_due_ns(report) <= self.now
        ]
        for report in due:
            report.arrived_ns = self.now
        return bool(due)

    def _handlings_due(self) -> bool:
        due = [report for report in self._queue() if self._handling_due_ns(report) <= self.now]
        for report in due:
            if self.axes.accept == "first-pass" and self._sync_since(report.requested):
                self._drop(report)
            else:
                self._handle(report)
            self.requests_at.extend([self.now] * self.resubmits)
            self.resubmits = 0
        return bool(due)

    def _sync_since(self, moment: Moment) -> bool:
        return any(sync.moment.seq > moment.seq for sync in self.syncs)

    def _before_regular_sync(self) -> None:
        """What becomes of outstanding reports at each regular sync, before it (section 6)."""
        if self.axes.accept == "flush":
            for report in self._queue():
                self._drop(report)
        elif self.axes.accept == "flush-before":
            for report in self._queue():
                self._handle(report)
        elif self.axes.accept == "tagged":
            for report in self._outstanding():
                self._drop(report)

    def _drop(self, report: Report) -> None:
        self._done(report, "dropped")

    def _done(self, report: Report, outcome: str) -> None:
        """The guest runs on once no report is between its snapshot and its end."""
        report.outcome = outcome
        report.done_ns = self.now
        if self.axes.request == "resubmit":
            self.resubmits += 1
        if self.axes.stop_guest:
            waiting = [other for other in self._outstanding() if other.snapshot is not None]
            self.guest_stopped = bool(waiting)

    def _handle(self, report: Report) -> None:
        """Clears `pending` for the snapshot's pages, with the sync that goes with it."""
        if self.axes.sync == "before":
            self._own_sync()
        self._hot_writes()
        conflicts = {page for page in report.pages if self._conflicts(report, page)}
        named = sorted(report.pages - conflicts)
        if self.parameters.hint_clears_log:
            for page in named:
                self._clear_chunk_of(page)
        skipped = [page for page in named if page in self.pending]
        handled = self._moment()
        assert report.snapshot is not None
        for page in skipped:
            self.pending.discard(page)
            self.skips[page] = Skip(report.snapshot, handled, len(self.rounds))
        report.skipped = len(skipped)
        report.conflicts = len(conflicts)
        self._hot_writes()
        if self.axes.sync == "after":
            self._own_sync()
        self.tally.near |= {page for page in skipped if self._lost_at_this_moment(page)}
        self._done(report, "handled")

    def _conflicts(self, report: Report, page: int) -> bool:
        """The recorded guest took the page while it would have held it (section 5)."""
        hold = self.parameters.guest_hold
        if hold == "auto":
            hold = "done" if self.axes.accept == "tagged" else "none"
        assert report.snapshot is not None
        if hold == "none":
            return False
        if hold == "ack":
            return any(take.seq > report.snapshot.seq for take in self.takes[page])
        assert hold == "done", hold
        return any(
            row.kind == "take" and page in row.pages and row.t <= self.trace.duration_ns
            for row in self.timeline[report.rows_before :]
        )

    # ---- truth (section 4) ----------------------------------------------------------------

    def _writes_not_carried(self, page: int) -> list[Moment]:
        """Writes after the snapshot that made the host skip it, at or after its last take."""
        snapshot = self.skips[page].snapshot
        last_take = self.takes[page][-1].seq if self.takes[page] else 0
        return [
            write
            for write in self.writes[page]
            if write.seq > snapshot.seq and write.seq > last_take
        ]

    def _lost_at_this_moment(self, page: int) -> bool:
        believed = page in self.pending or page in self.log
        return (
            page in self.in_use
            and not believed
            and page not in self.synced
            and bool(self._writes_not_carried(page))
        )

    def _class_of(self, copy: Copy) -> str:
        """Exactly one class for each non-zero copy; the last two need a switchover."""
        if copy.was_synced:
            return "redundant"
        if copy.was_free:
            return "free"
        if any(write.seq > copy.moment.seq for write in self.writes[copy.page]):
            return "superseded"
        return "freed_later" if copy.page not in self.in_use else "needed"

    def _fate_of(self, page: int) -> str:
        """What a page is at switchover."""
        if page in self.synced:
            return "synced"
        if page not in self.in_use:
            return "stale_free"
        assert page in self.skips, f"page {page} is wrong, in use, and was never skipped"
        if page in self.last_copy:
            later = self.skips[page].handled.seq > self.last_copy[page].seq
            assert later, f"page {page} is wrong, in use, and was copied after it was skipped"
        return "lost" if self._writes_not_carried(page) else "unwritten"

    def _witness(self, page: int) -> dict[str, Any]:
        skip = self.skips[page]
        copied = self.last_copy[page].seq if page in self.last_copy else 0
        written = next(write for write in self._writes_not_carried(page) if write.seq > copied)
        harvested = self._harvest_of(page, written, skip)
        return {
            "page": page,
            "t_snapshot": skip.snapshot.t,
            "t_written": written.t,
            "t_harvested": None if harvested is None else harvested.t,
            "t_skipped": skip.handled.t,
            "round": skip.round,
        }

    def _harvest_of(self, page: int, written: Moment, skip: Skip) -> Moment | None:
        """The sync that swallowed the write; None where the log had no record of it."""
        for sync in self.syncs:
            if sync.moment.seq < written.seq or page not in sync.log:
                continue
            cleared = any(
                written.seq < clear.seq < sync.moment.seq for clear in self.cleared_unsynced[page]
            )
            if cleared or sync.moment.seq > skip.handled.seq:
                return None
            return sync.moment
        return None

    # ---- the result -----------------------------------------------------------------------

    def result(self) -> ReferenceResult:
        fates = {page: self._fate_of(page) for page in range(self.trace.pages) if self.completed}
        lost = [page for page in sorted(fates) if fates[page] == "lost"]
        row = self._progress() | self._partition() | self._report_counts()
        row |= self._page_counts(fates)
        return ReferenceResult(
            row=row,
            witnesses=[self._witness(page) for page in lost],
            rounds=[
                {
                    "round": number,
                    "start_ns": sweep.start_ns,
                    "end_ns": sweep.end_ns,
                    "pages_sent": sweep.pages_sent,
                    "zero_pages_sent": sweep.zero_pages_sent,
                    "pending_at_sync": sweep.pending_at_sync,
                }
                for number, sweep in enumerate(self.rounds, start=1)
            ],
            reports=[self._report_record(report) for report in self.reports],
        )

    def _progress(self) -> dict[str, Any]:
        return {
            "completed": self.completed,
            "converged": self.reason == "downtime-limit",
            "reason": self.reason,
            "rounds": len(self.rounds),
            "syncs": len(self.syncs),
            "pages_sent": len(self.copies),
            "zero_pages_sent": self.tally.zero_pages_sent,
            "wire_bytes": self.tally.wire_bytes,
            "total_ns": self.now + self.tally.downtime_ns,
            "downtime_ns": self.tally.downtime_ns if self.completed else None,
            "vcpu_stopped_ns": self.tally.vcpu_stopped_ns,
        }

    def _partition(self) -> dict[str, Any]:
        classes = [self._class_of(copy) for copy in self.copies]
        needed = classes.count("needed")
        return {
            "redundant": classes.count("redundant"),
            "free": classes.count("free"),
            "superseded": classes.count("superseded"),
            "freed_later": classes.count("freed_later") if self.completed else None,
            "needed": needed if self.completed else None,
            "wasted": len(classes) - needed if self.completed else None,
        }

    def _report_counts(self) -> dict[str, Any]:
        outcomes = [report.outcome for report in self.reports]
        return {
            "reports_requested": len(self.reports),
            "reports_handled": outcomes.count("handled"),
            "reports_dropped": outcomes.count("dropped"),
            "skipped_pages": sum(report.skipped for report in self.reports),
            "hold_conflicts": sum(report.conflicts for report in self.reports),
        }

    def _page_counts(self, fates: dict[int, str]) -> dict[str, Any]:
        if not self.completed:
            names = ("lost", "unwritten", "stale_free", "old_bytes", "near_misses")
            return dict.fromkeys(names)
        wrong = [page for page, fate in fates.items() if fate in ("stale_free", "unwritten")]
        kinds = list(fates.values())
        return {
            "lost": kinds.count("lost"),
            "unwritten": kinds.count("unwritten"),
            "stale_free": kinds.count("stale_free"),
            "old_bytes": sum(page in self.destination_nonzero for page in wrong),
            "near_misses": sum(fates[page] != "lost" for page in self.tally.near),
        }

    def _report_record(self, report: Report) -> dict[str, Any]:
        return {
            "requested_ns": report.requested.t,
            "snapshot_ns": None if report.snapshot is None else report.snapshot.t,
            "arrived_ns": report.arrived_ns,
            "done_ns": report.done_ns,
            "outcome": report.outcome,
            "pages": None if report.snapshot is None else len(report.pages),
            "skipped": report.skipped,
            "conflicts": report.conflicts,
        }
