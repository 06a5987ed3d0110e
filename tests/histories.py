"""Every history that a recording allows a page, one by one: the plain meaning of `possible`.

The model, section 7. The schedule of the recorded replay (its syncs, snapshots, handlings, chunk
clears and the instants at which the cursor passes each page) is taken from the engine. What a page
may have done between them is enumerated here, and what would have become of it is played through
for each history alone. It shares no code with `replay.doubt`. Times are ns of guest time.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from replay.engine import Event, Migration
from replay.observe import Observation, observe
from replay.parameters import Parameters
from replay.profiles import profile
from replay.strategies import Strategy, strategy
from tracer import Block, Meta, Trace
from tracer.format import SAMPLED_FREELIST, SCHEMAS

PAGE_BYTES = 4096


@dataclass(frozen=True)
class Recording:
    """A small trace of single pages, and how much its times say.

    dirty and zero: (t, page). freelist: (since, t, page, free).
    """

    pages: int
    duration: int
    dirty: tuple[tuple[int, int], ...] = ()
    freelist: tuple[tuple[int, int, int, bool], ...] = ()
    zero: tuple[tuple[int, int], ...] = ()
    epochs: tuple[int, ...] = ()
    resolution: str = "write"
    quantum: int = 1

    def trace(self) -> Trace:
        """Return it as a validated trace in memory."""
        meta = Meta(
            page_size=PAGE_BYTES,
            pages=self.pages,
            duration_ns=self.duration,
            blocks=(Block("ram", 0, self.pages),),
            resolution=self.resolution,  # type: ignore[arg-type]
            freelist_resolution="sampled",
            quantum_ns=self.quantum,
        )
        tables = {
            "dirty": _table(SCHEMAS["dirty"], [(t, page, 1) for t, page in self.dirty]),
            "freelist": _table(
                SAMPLED_FREELIST,
                [(t, page, 1, free, since) for since, t, page, free in self.freelist],
            ),
            "zero": _table(SCHEMAS["zero"], [(t, page, 1) for t, page in self.zero]),
            "epochs": _table(SCHEMAS["epochs"], [(t,) for t in self.epochs]),
        }
        trace = Trace.from_tables(meta, **tables)
        trace.validate()
        return trace


def _table(schema: pa.Schema, rows: list[tuple[int, ...]]) -> pa.Table:
    columns = [pa.array([row[i] for row in rows], column.type) for i, column in enumerate(schema)]
    return pa.table(columns, schema=schema)


class Window(NamedTuple):
    """Where a page may be written: any number of times from `low` to `high`, `must`: at least once.

    on_free: even on its free list, as the recording itself has it there.
    """

    low: int
    high: int
    must: bool
    on_free: bool


class Move(NamedTuple):
    """A free-list transition at some instant from `low` to `high`."""

    low: int
    high: int
    free: bool


@dataclass(frozen=True)
class Story:
    """What the recording says about one page. zeros: times > 0 at which it is all zeros."""

    zero: bool
    free: bool
    moves: tuple[Move, ...]
    windows: tuple[Window, ...]
    zeros: tuple[int, ...]


def story(recording: Recording, page: int, stop: int) -> Story:
    """Gather what may have happened to a page up to guest time `stop`."""
    q = recording.quantum
    rows = [(since, t, free) for since, t, who, free in recording.freelist if who == page]
    moves = [
        Move(max(since // q * q, 0), t // q * q + q - 1, free) for since, t, free in rows if t > 0
    ]
    initial = [free for _, t, free in rows if t <= 0]
    windows = []
    for t in (t for t, who in recording.dirty if who == page):
        recorded_free = any([free for _, at, free in rows if at <= t][-1:])
        first, last = t // q * q, t // q * q + q - 1
        if recording.resolution == "epoch":
            first = max((e for e in recording.epochs if e < t), default=0)
            first = first // q * q if q > 1 else first + 1
        if t > 0:
            windows.append(Window(max(first, 1), last, True, recorded_free))
        if recording.resolution == "first-write":
            end = min((e for e in recording.epochs if e > t), default=stop)
            windows.append(Window(max(first, 1), end // q * q + q - 1, False, False))
    zeros = [t for t, who in recording.zero if who == page]
    written = [t for t, who in recording.dirty if who == page and t <= 0]
    blank = [t for t in zeros if t <= 0]
    return Story(
        zero=bool(blank) and max(blank) >= max(written, default=max(blank)),
        free=bool(initial) and initial[-1],
        moves=tuple(moves),
        windows=tuple(windows),
        zeros=tuple(t for t in zeros if t > 0),
    )


class Deed(NamedTuple):
    """Something the schedule does at guest time `at`; number: of the report or the chunk."""

    at: int
    kind: str
    number: int = -1


def schedule(observation: Observation) -> list[Deed]:
    """Return the recorded replay's deeds for the only watched page, in replay order.

    Within a round the clears and passes of the cursor come after all else at their host instant.
    The cursor passes the last pages before the sync that begins the next round.
    """
    migration = observation.migration
    deeds: list[Deed] = []
    segment: list[tuple[tuple[int, int], Deed]] = []
    guest = _GuestClock(migration)
    for event in migration.events:
        number = event.report.number if event.report is not None else event.chunk
        if event.kind == "pass":
            assert event.passed is not None
            host = int(event.passed[0])
            segment.append(((host, 2), Deed(guest.at(host), "pass")))
            deeds += [deed for _, deed in sorted(segment, key=lambda entry: entry[0])]
            segment = []
        elif event.kind != "stop":
            cursor = event.kind == "chunk" and event.report is None
            number = event.chunk if event.kind == "chunk" else number
            deed = Deed(guest.at(event.host_ns), event.kind, number)
            segment.append(((event.host_ns, int(cursor)), deed))
    return deeds + [deed for _, deed in sorted(segment, key=lambda entry: entry[0])]


class _GuestClock:
    def __init__(self, migration: Migration):
        self._segments = migration.clock.segments

    def at(self, host: int) -> int:
        begin, guest, rate = [s for s in self._segments if s[0] <= host][-1]
        return guest + (host - begin) * rate // 100


class Span(NamedTuple):
    """Instants between which nothing else tells them apart, and what follows the last of them."""

    low: int
    high: int
    zero: bool
    deeds: tuple[Deed, ...]


def spans(page: Story, deeds: list[Deed], stop: int) -> list[Span]:
    """Cut 0..stop into spans."""
    ends = {stop, *(deed.at for deed in deeds)}
    for low, high in [w[:2] for w in page.windows] + [m[:2] for m in page.moves]:
        ends |= {low - 1, high}
    for t in page.zeros:
        ends |= {t - 1, t}
    cuts = [-1, *sorted(end for end in ends if 0 <= end <= stop)]
    return [
        Span(before + 1, end, end in page.zeros, tuple(deed for deed in deeds if deed.at == end))
        for before, end in pairwise(cuts)
    ]


#: A history: for each span what the guest does in it, in order.
WRITE, TAKE, FREE = "write", "take", "free"
History = list[tuple[str, ...]]


def histories(page: Story, cut: list[Span]) -> Iterator[History]:
    """Yield every history that the recording allows."""
    yield from _from(page, cut, 0, 0, [])


def _from(page: Story, cut: list[Span], at: int, moved: int, past: History) -> Iterator[History]:
    if at == len(cut):
        yield past
        return
    for deeds in _within(page, cut[at], moved):
        grown = [*past, deeds]
        now = moved + sum(deed != WRITE for deed in deeds)
        if _in_time(page, cut, at, now, grown):
            yield from _from(page, cut, at + 1, now, grown)


def _within(page: Story, span: Span, moved: int) -> Iterator[tuple[str, ...]]:
    """Yield what the guest may do within a span; a second write between two moves is no news."""
    free = page.moves[moved - 1].free if moved else page.free
    open_windows = [w for w in page.windows if w.low <= span.low and span.high <= w.high]
    may_write = any(window.on_free or not free for window in open_windows)
    for written in ((), (WRITE,)) if may_write else ((),):
        yield written
        if moved < len(page.moves):
            move = page.moves[moved]
            if move.low <= span.low and span.high <= move.high:
                for rest in _within(page, span, moved + 1):
                    yield (*written, FREE if move.free else TAKE, *rest)


def _in_time(page: Story, cut: list[Span], at: int, moved: int, past: History) -> bool:
    """Whether all has happened that had to happen by the end of span `at`."""
    end = cut[at].high
    if any(move.high <= end for move in page.moves[moved:]):
        return False
    return all(
        any(
            WRITE in deeds
            for span, deeds in zip(cut, past, strict=False)
            if window.low <= span.low and span.high <= window.high
        )
        for window in page.windows
        if window.must and window.high == end
    )


@dataclass
class Life:
    """Belief and truth about one page."""

    manual: bool
    hint_clears_log: bool
    ack: bool
    free: bool
    zero: bool
    pending: bool = True
    logged: bool = False
    harvested: bool = False
    marked: bool = False
    synced: bool = False
    holds_data: bool = False
    written: bool = False
    skipped: bool = False
    named: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.logged = self.harvested = self.marked = self.manual
        self.synced = self.zero

    def guest(self, deed: str) -> None:
        if deed == WRITE:
            self.logged = self.written = True
            self.synced = self.zero = False
        elif deed == FREE:
            self.free = True
        else:
            self.free = self.written = False
            if self.ack:
                self.named.clear()

    def zeroed(self) -> None:
        self.zero = True
        self.synced = self.synced or not self.holds_data

    def host(self, deed: Deed) -> None:
        if deed.kind == "sync":
            self.pending = self.pending or self.logged
            self.harvested = self.logged = self.logged and self.manual
            self.marked = self.manual
        elif deed.kind == "snapshot" and self.free:
            self.named.add(deed.number)
        elif deed.kind == "handled" and deed.number in self.named:
            self.named.remove(deed.number)
            if self.hint_clears_log:
                self._clear_chunk()
            self.skipped = self.skipped or self.pending
            self.pending = False
        elif deed.kind == "chunk":
            self._clear_chunk()
        elif deed.kind == "pass" and self.pending:
            self._clear_chunk()
            self.copied()

    def copied(self) -> None:
        self.pending = False
        self.synced = True
        self.holds_data = not self.zero

    def _clear_chunk(self) -> None:
        if self.marked:
            self.logged = self.logged and not self.harvested
            self.marked = False

    @property
    def lost(self) -> bool:
        return not self.synced and not self.free and self.skipped and self.written


def is_lost(life: Life, cut: list[Span], history: History) -> bool:
    """Play a history through to switchover."""
    for span, happened in zip(cut, history, strict=True):
        for what in happened:
            life.guest(what)
        if span.zero:
            life.zeroed()
        for deed in span.deeds:
            life.host(deed)
    if life.pending:
        life.copied()
    return life.lost


@dataclass
class Case:
    """A recording, a strategy and its parameters, and what the engine makes of them."""

    recording: Recording
    strategy: Strategy
    parameters: Parameters

    def migration(self, watch: np.ndarray) -> Migration:
        return Migration(self.trace, self.strategy, self.parameters, watch=watch)

    def __post_init__(self) -> None:
        self.trace = self.recording.trace()

    def watched(self, page: int) -> Observation:
        """Run it with one page watched."""
        return observe(self.migration(np.array([page], np.int64)))


class TooManyError(Exception):
    """More histories than one wants to wait for."""


def losable(case: Case, page: int, observation: Observation, most: int) -> History | None:
    """Return a history that loses the page, or None; raises TooManyError beyond `most`."""
    migration = observation.migration
    stop = migration.clock.guest(observation.stop_ns)
    tale = story(case.recording, page, stop)
    if migration.hold == "done" or (not tale.free and not tale.moves):
        return None  # a report that names it holds it for good, or none ever names it
    chunk = bisect_right(migration.memory.chunks.tolist(), page) - 1
    deeds = [
        deed
        for deed in schedule(observation)
        if (deed.kind != "chunk" or deed.number == chunk)
        and (deed.kind not in ("snapshot", "handled") or _is_handled(migration, deed.number))
    ]
    cut = spans(tale, deeds, stop)
    for number, history in enumerate(histories(tale, cut)):
        if number == most:
            raise TooManyError
        life = Life(
            migration.memory.manual,
            case.parameters.hint_clears_log,
            migration.hold == "ack",
            tale.free,
            tale.zero,
        )
        if is_lost(life, cut, history):
            return history
    return None


def _is_handled(migration: Migration, number: int) -> bool:
    return migration.hinting.reports[number].outcome == "handled"


#: Those that a race can hurt in legacy mode too are likelier.
_STRATEGIES = (
    *("hint-wait", "hint-first-pass", "hint-drain", "hint-stop-vcpu", "hint-tagged"),
    *("hint-flush-before", "hint-flush") * 2,
    *("hint-async", "hint-periodic", "hint-resubmit") * 4,
)
_REQUESTS = ("once", "every-sync", "periodic", "resubmit")


def random_case(rng: random.Random) -> Case:
    """Return a case in which reports race with takes and writes, on times that often meet."""
    unit, racers, busy = rng.choice((2, 4, 10)), rng.randint(1, 3), rng.randint(2, 3)
    sweep = (racers + busy) * unit
    chosen = strategy(rng.choice(_STRATEGIES))
    # `drain` with `resubmit` cannot end.
    request = rng.choice((None, None, *_REQUESTS[: 3 if chosen.drain else 4]))
    parameters = Parameters(
        bandwidth=(PAGE_BYTES + 8) * 10**9 // unit,
        downtime_limit_ns=rng.choice((0, 0, 0, 0, unit)),
        log_mode=rng.choice(("legacy", "manual")),
        clear_chunk=rng.choice((1, 2, 2**18)),
        hint_clears_log=rng.random() < 0.5,
        request=request,
        request_delay_ns=rng.choice((0, rng.randint(0, sweep))),
        report_delay_ns=rng.randint(0, 2 * sweep),
        handle_delay_ns=rng.choice((0, 0, 0, rng.randint(0, sweep))),
        hint_interval_ns=rng.randint(unit, 2 * sweep),
        guest_hold=rng.choice(("none", "none", "none", "ack")),
        max_rounds=rng.randint(2, 5),
    )
    chosen = chosen.with_request(request)
    for _ in range(2):  # the second time with a report that is handled soon after some sync
        calm = _random_recording(rng, unit, racers, busy, ())
        migration = Case(calm, chosen, parameters).migration(np.empty(0, np.int64))
        profile(parameters.profile)(migration)
        asked = parameters.request_delay_ns + parameters.handle_delay_ns
        syncs = [event.host_ns - asked for event in migration.events if event.kind == "sync"]
        later = [at for at in syncs if at >= 0]
        if later and rng.random() < 0.8:
            parameters = replace(
                parameters, report_delay_ns=rng.choice(later) + rng.randint(0, busy * unit)
            )
    recording = _random_recording(rng, unit, racers, busy, _races(migration.events))
    return Case(recording, chosen, parameters)


def _races(events: list[Event]) -> list[tuple[int, int]]:
    """Return when a take and a write could be swallowed: from a snapshot to a sync (guest ns)."""
    found = []
    for first, before in enumerate(events):
        for middle, sync in enumerate(events[first:], first):
            if before.kind == "snapshot" and sync.kind == "sync":
                after = [event.report for event in events[middle:] if event.kind == "handled"]
                if before.report in after:
                    found.append((before.guest_ns, sync.guest_ns))
    return found or [(event.guest_ns, event.guest_ns) for event in events if event.kind == "sync"]


def _random_recording(
    rng: random.Random, unit: int, racers: int, busy: int, races: Sequence[tuple[int, int]]
) -> Recording:
    """Return lives of some pages that come and go, between pages written all the time.

    A page that is always dirty gives every round something to send, so that rounds take time.
    Lives are about `races`; without any the racers stay on the free list.
    """
    quantum = rng.choice((1, 1, 1, 2, 3, unit, 2 * unit))
    sweep = (racers + busy) * unit
    duration = 8 * sweep // quantum * quantum
    resolution = rng.choice(("write", "first-write", "epoch"))
    aligned = quantum if rng.random() < 0.7 else 1

    def instant(low: int, high: int) -> int:
        return rng.randint(low, max(low, high)) // aligned * aligned

    epochs: list[int] = []
    if resolution != "write":
        some = {instant(1, 6 * sweep) for _ in range(rng.randint(0, 4))}
        if resolution == "epoch":
            some |= set(range(unit, duration, rng.choice((1, 2, 4)) * unit))
        epochs = sorted({*some, duration} - {0})
    slack = rng.choice((0, 0, 2, unit, sweep))
    pages = list(range(racers + busy))
    pages.reverse()  # what the cursor passes late is longer at risk
    if rng.random() < 0.4:
        rng.shuffle(pages)
    dirty = {(t, page) for page in pages[racers:] for t in range(unit, duration, unit)}
    freelist: list[tuple[int, int, int, bool]] = []
    zero: list[tuple[int, int]] = []
    for page in pages[:racers]:
        free = not races or rng.random() < 0.8
        if free:
            t = rng.choice((0, 0, -3))
            freelist.append((t, t, page, True))
        if rng.random() < 0.3:
            zero.append((rng.choice((0, 0, -2, instant(0, 2 * sweep))), page))
        if rng.random() < 0.2:
            dirty.add((rng.choice((0, -2)), page))
        t = instant(1, 4 * sweep)
        if free and races and rng.random() < 0.8:
            t = instant(*rng.choice(races)) + 1
        for _ in range(rng.choice((1, 1, 2, 3)) if races else 0):
            free = not free
            after = t + rng.randint(0, slack)
            freelist.append((t - rng.randint(0, slack), after, page, free))
            if not free or rng.random() < 0.1:
                at = rng.choice((t, after, after + rng.randint(0, unit)))
                dirty.add((at // aligned * aligned, page))
            t = max(after, instant(after, after + rng.choice((1, unit, sweep))))
    duration = max([duration, *(t for t, _ in dirty), *(row[1] for row in freelist)])
    if epochs:
        epochs[-1] = duration
    if resolution == "epoch":
        dirty = {(min(e for e in epochs if e >= t) if t > 0 else t, page) for t, page in dirty}
    return Recording(
        racers + busy,
        duration,
        tuple(sorted(dirty)),
        tuple(sorted(freelist, key=lambda row: row[1])),
        tuple(sorted(zero)),
        tuple(epochs),
        resolution,
        quantum,
    )
