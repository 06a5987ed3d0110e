"""Can a strategy lose a write at all? Every interleaving of a tiny guest, reports and the host.

The search drives `replay.hints.Hinting` and the strategy's own policies, the code that replays
traces, through every order of steps that profile `rounds` can bring about (the model, sections 3,
5 and 6), without a clock. A guest of a few pages is a handful of integers, one bit a page. The
states are finitely many, so a breadth-first search ends: with a proof, or with a shortest story of
how a page is lost.

`Hinting` sees no bitmap. What it does with reports therefore depends on their stages alone, and is
asked for once for every combination of stages and kept (`Effect`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from replay.hints import Hinting, Report, Stage
from replay.parameters import LogMode
from replay.policies import Accept, Fate, Request, View
from replay.strategies import Hold, Strategy
from tracer.errors import UsageError
from tracer.words import size

#: A Python tuple of small integers with its place in the table of states: 320 to 380 measured.
BYTES_PER_STATE = 400
MAX_PAGES = 8
#: So many syncs since its request are told apart for a report; a policy may not look further back.
MAX_SYNCS = 8
#: A search looks so often (in states) how far it has come.
_LOOK = 4096
LEAST_MEMORY = 1 << 20

#: Where the host stands; a positive number is the cursor while the link is busy. AT_ONCE: it
#: copies at this very instant. FRESH: the same, but what was just asked for may be answered first.
#: WAITING: it sends nothing before the first answer. DRAINING: the link is idle until no report is
#: outstanding. DRAINED: none is, it syncs at this very instant. STOPPED: the guest is.
AT_ONCE, FRESH, WAITING, DRAINING, DRAINED, STOPPED = range(-6, 0)
_INSTANT = (AT_ONCE, FRESH, DRAINED)

#: A step: what happens, and to which page or to which of the outstanding reports.
Label = tuple[str, int]
#: Whether the guest runs; of each outstanding report its stage and how many syncs came since, as
#: far as the accept policy tells them apart.
Hints = tuple[bool, tuple[tuple[int, int], ...]]


class State(NamedTuple):
    """A state; bit p of a mask is page p. The search itself uses plain tuples, which are equal.

    chunks: the first page of each chunk, 0 in log mode legacy. harvested: logged pages whose log
    bit the next clearing of their (marked) chunk takes. stale: in use, written since it was last
    taken, and the destination lacks that; a stale page that is not pending at the stop is lost.
    held: reported to a guest that keeps what it reports. bits: what each outstanding report names.
    """

    spot: int
    chunks: int
    pending: int
    log: int
    harvested: int
    free: int
    stale: int
    held: int
    hints: Hints
    bits: tuple[int, ...]


_Plain = tuple[int, int, int, int, int, int, int, int, Hints, tuple[int, ...]]


@dataclass(frozen=True)
class Bounds:
    """How much is searched.

    reports: outstanding at once; courses with more are not followed. steps: in one course, None
    for all. memory: bytes for the states of a search, beyond which it ends.
    """

    pages: int = 3
    reports: int = 2
    steps: int | None = None
    memory: int = 1 << 30

    def __post_init__(self) -> None:
        if not 1 <= self.pages <= MAX_PAGES:
            raise UsageError(f"{self.pages} pages: wanted 1 to {MAX_PAGES}")
        for name in ("reports", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: wanted at least 1")
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if not LEAST_MEMORY <= self.memory <= there:
            raise UsageError(
                f"memory {size(self.memory)}: wanted {size(LEAST_MEMORY)} to the {size(there)} "
                "that this machine has"
            )

    @property
    def states(self) -> int:
        """How many states the memory holds."""
        return self.memory // BYTES_PER_STATE


@dataclass(frozen=True)
class Setting:
    """What is to be proved: a strategy (its request axis chosen), and how log and guest behave."""

    strategy: Strategy
    log_mode: LogMode = "legacy"
    hold: Hold = "none"
    hint_clears_log: bool = True

    def partitions(self, pages: int) -> list[int]:
        """Return every way to cut the guest into chunks, as the mask of their first pages.

        Chunks are counted from the first page of each RAM block, so any cut can be. A log that is
        not cleared by chunks has none.
        """
        return list(range(1, 1 << pages, 2)) if self.log_mode == "manual" else [0]


@dataclass(frozen=True)
class Course:
    """A course of events from the start: labels[i] leads from states[i] to states[i + 1].

    lost: the mask of pages that it loses, with the stop at its last step.
    """

    setting: Setting
    pages: int
    states: tuple[State, ...]
    labels: tuple[Label, ...]
    lost: int

    @property
    def lost_pages(self) -> tuple[int, ...]:
        """The pages of the mask."""
        return tuple(page for page in range(self.pages) if self.lost >> page & 1)


@dataclass
class Search:
    """One search; `losses` runs it, the counts tell how far it has come.

    watch is told the states so far now and then. states: visited. depth: steps of the longest of
    the shortest courses. switchovers: states in which a course ends. cut: whether `steps` ended
    courses that go on. waiting: states that were yet to be followed when the memory was full.
    """

    setting: Setting
    bounds: Bounds
    pages: int
    watch: Callable[[int], None] | None = None
    states: int = 0
    depth: int = 0
    switchovers: int = 0
    cut: bool = False
    waiting: int = 0
    _came: dict[_Plain, tuple[_Plain, Label] | None] = field(default_factory=dict, repr=False)

    def losses(self) -> Iterator[Course]:
        """Yield the courses that lose a page, shortest first.

        Raises FullError where the memory does not hold the states, UsageError where the accept
        policy looks at more than the search knows.
        """
        moves = Moves(self.setting, self.pages, self.bounds.reports)
        level = moves.starts()
        came = self._came
        came.update(dict.fromkeys(level))
        look = self._look(len(level))
        while level:
            self.states = len(came)
            if self.bounds.steps is not None and self.depth >= self.bounds.steps:
                self.cut = True
                return
            following = []
            for state in level:
                for label, new in moves.after(state):
                    if new in came:
                        continue
                    came[new] = state, label
                    if new[0] != STOPPED:
                        following.append(new)
                        continue
                    self.switchovers += 1
                    if lost := _lost(new):
                        self.states = len(came)
                        yield self._course(new, lost)
                if len(came) >= look:
                    look = self._look(len(following))
            self.depth += 1
            level = following
        self.states = len(came)

    def _course(self, last: _Plain, lost: int) -> Course:
        states, labels = [State(*last)], []
        at = self._came[last]
        while at is not None:
            states.append(State(*at[0]))
            labels.append(at[1])
            at = self._came[at[0]]
        return Course(self.setting, self.pages, tuple(states[::-1]), tuple(labels[::-1]), lost)

    def _look(self, waiting: int) -> int:
        """Tell how far it is; return at how many states to look again."""
        self.states = len(self._came)
        if self.watch is not None:
            self.watch(self.states)
        if self.states > self.bounds.states:
            self.waiting = waiting
            raise FullError(
                f"{self.states:,} states are more than the memory given holds; allow more with "
                "--memory"
            )
        return min(self.states + _LOOK, self.bounds.states + 1)


class FullError(UsageError):
    """The memory given to a search is full."""


def at_once(state: State) -> bool:
    """Whether the host's next step follows at the same instant."""
    return state.spot in _INSTANT


def _lost(state: _Plain) -> int:
    return state[6] & ~state[2]


class Effect(NamedTuple):
    """What Hinting does at one step: deeds in order, reports that stay, their stages, requests."""

    deeds: tuple[tuple[str, int], ...]
    kept: tuple[int, ...]
    hints: Hints
    asked: int


class _Recorder:
    """A host that only notes what it is told to do."""

    def __init__(self, *, running: bool) -> None:
        self.syncs = 1
        self.running = running
        self.deeds: list[tuple[str, int]] = []

    def sync(self, now: int) -> None:  # noqa: ARG002
        self.syncs += 1
        self.deeds.append(("sync", -1))

    def take_snapshot(self, report: Report, now: int) -> None:  # noqa: ARG002
        self.deeds.append(("snapshot", report.number))

    def skip(self, report: Report, now: int) -> None:  # noqa: ARG002
        self.deeds.append(("skip", report.number))

    def skipped(self, report: Report, now: int) -> None:
        pass

    def forget(self, report: Report) -> None:
        pass

    def stop_guest(self, now: int) -> None:  # noqa: ARG002
        self.running = False

    def run_guest(self, now: int) -> None:  # noqa: ARG002
        self.running = True


class Moves:
    """The steps that a setting allows."""

    def __init__(self, setting: Setting, pages: int, reports: int = 1):
        self.setting = setting
        self.pages = pages
        self._limit = reports
        self._strategy = setting.strategy
        self._manual = setting.log_mode == "manual"
        self._clears = setting.hint_clears_log and self._manual
        self._ack, self._done = setting.hold == "ack", setting.hold == "done"
        self._pages = [(p, 1 << p) for p in range(pages)]
        request, accept = self._strategy.request, self._strategy.accept
        self._ticks = request is not None and any(
            request.next_tick(0, interval) is not None for interval in _INTERVALS
        )
        if request is not None:
            _in_turn(self._strategy.name, request)
        self._syncs = 0 if accept is None else _looks_back(self._strategy.name, accept)
        self._scripts: dict[tuple[str, int, Hints], Effect] = {}
        self._masks: dict[tuple[int, int], int] = {}

    def starts(self) -> list[_Plain]:
        """Return the states to begin with: any pages free, everything pending."""
        every = (1 << self.pages) - 1
        log = every if self._manual else 0
        hints: Hints = (True, ((0, 0),) if self._strategy.hints else ())
        bits = (0,) * len(hints[1])
        spot = AT_ONCE if not self._strategy.hints else FRESH
        if self._strategy.start == "wait":
            spot = WAITING
        return [
            (spot, chunks, every, log, log, free, 0, 0, hints, bits)
            for chunks in self.setting.partitions(self.pages)
            for free in range(every + 1)
        ]

    def after(self, state: _Plain) -> list[tuple[Label, _Plain]]:
        """Return every step from a state, and the state it leads to."""
        spot, hints = state[0], state[8]
        found: list[tuple[Label, _Plain]] = []
        if hints[0] and spot not in _INSTANT:
            self._guest(state, found)
        if spot not in (WAITING, DRAINING):
            self._host(state, found)
        if hints[1] and spot not in (AT_ONCE, DRAINED):
            self._reports(state, found)
        if self._ticks and spot not in _INSTANT and len(hints[1]) < self._limit:
            found.append((("request", -1), self._requested(state, 1)))
        return found

    # -- the guest ----------------------------------------------------------------------------

    def _guest(self, state: _Plain, found: list[tuple[Label, _Plain]]) -> None:
        spot, chunks, pending, log, harvested, free, stale, held, hints, bits = state
        kept = held
        if self._ack:
            for named in bits:
                kept |= named
        for p, bit in self._pages:
            if free & bit:
                if not kept & bit:
                    new = (spot, chunks, pending, log, harvested, free ^ bit, stale, held, hints,
                           bits)  # fmt: skip
                    found.append((("take", p), new))
                continue
            new = (spot, chunks, pending, log, harvested, free | bit, stale & ~bit, held, hints,
                   bits)  # fmt: skip
            found.append((("free", p), new))
            if not log & stale & bit:
                new = (spot, chunks, pending, log | bit, harvested, free, stale | bit, held, hints,
                       bits)  # fmt: skip
                found.append((("write", p), new))

    # -- reports ------------------------------------------------------------------------------

    def _reports(self, state: _Plain, found: list[tuple[Label, _Plain]]) -> None:
        """Let the oldest report in each stage move: constant delays keep them in order.

        At an instant at which a report was asked for, only that one may (all delays are 0 then).
        """
        spot, stages = state[0], state[8][1]
        for action, stage in (("snapshot", 0), ("arrive", 1), ("consume", 2)):
            index = next((i for i, report in enumerate(stages) if report[0] == stage), -1)
            if index < 0 or (spot == FRESH and index != len(stages) - 1):
                continue
            new, asked = self._acted(state, action, index)
            if action == "consume":
                if spot == WAITING:
                    new = (FRESH if asked else AT_ONCE, *new[1:])
                elif spot == DRAINING and not new[9] and not asked:
                    new = (DRAINED, *new[1:])
                elif spot == FRESH and not asked:
                    new = (AT_ONCE, *new[1:])
                if len(new[9]) + asked > self._limit:
                    continue
            found.append(((action, index), self._requested(new, asked)))

    def _requested(self, state: _Plain, count: int) -> _Plain:
        if not count:
            return state
        running, stages = state[8]
        hints = running, stages + ((0, 0),) * count
        return (*state[:8], hints, state[9] + (0,) * count)

    def _acted(self, state: _Plain, action: str, index: int) -> tuple[_Plain, int]:
        """Let Hinting act; return the new state and how many reports are to be asked for."""
        spot, chunks, pending, log, harvested, free, stale, held, hints, bits = state
        script = self._scripts.get((action, index, hints)) or self._script(action, index, hints)
        named = list(bits)
        for deed, which in script.deeds:
            if deed == "sync":
                pending |= log
                harvested = log = log if self._manual else 0
            elif deed == "snapshot":
                named[which] = free
                if self._done:
                    held |= free
            else:
                if self._clears:
                    gone = harvested & self._chunks_of(chunks, named[which])
                    log, harvested = log & ~gone, harvested & ~gone
                pending &= ~named[which]
        kept = tuple(named[i] for i in script.kept)
        new = (spot, chunks, pending, log, harvested, free, stale, held, script.hints, kept)
        return new, script.asked

    def _script(self, action: str, index: int, hints: Hints) -> Effect:
        """Ask Hinting, and through it the policies, what happens at such a step."""
        host = _Recorder(running=hints[0])
        hinting = Hinting(self._strategy, host)
        for number, (stage, syncs) in enumerate(hints[1]):
            host.syncs = 1 - syncs
            report = hinting.request(0)
            report.stage = Stage(stage)
            report.arrived_ns = number if report.queued else None
        host.syncs = 1
        if action == "sync":
            hinting.regular_sync(0)
        else:
            getattr(hinting, action)(hinting.reports[index], 0)
        stages = tuple(
            (int(report.stage), min(report.syncs_since_request, self._syncs))
            for report in hinting.outstanding
        )
        script = Effect(
            tuple(host.deeds),
            tuple(report.number for report in hinting.outstanding),
            (host.running, stages),
            hinting.asked,
        )
        self._scripts[action, index, hints] = script
        return script

    def effect(self, state: State, label: Label) -> Effect:
        """Return what Hinting did at a step of a course."""
        if label[0] in ("snapshot", "arrive", "consume", "sync"):
            return self._script(*label, state.hints)
        return Effect((), tuple(range(len(state.bits))), state.hints, 0)

    # -- the host -----------------------------------------------------------------------------

    def _host(self, state: _Plain, found: list[tuple[Label, _Plain]]) -> None:
        """The link is free: copy the next pending page, or sync when there is none."""
        spot, chunks, pending, log, harvested, free, stale, held, hints, bits = state
        ahead = pending >> max(spot, 0)
        if ahead and spot != DRAINED:
            page = max(spot, 0) + (ahead & -ahead).bit_length() - 1
            bit = 1 << page
            if chunks:
                gone = harvested & self._chunks_of(chunks, bit)
                log, harvested = log & ~gone, harvested & ~gone
            new = (page + 1, chunks, pending & ~bit, log, harvested, free, stale & ~bit, held,
                   hints, bits)  # fmt: skip
            found.append((("copy", page), new))
        elif self._strategy.drain and hints[1]:
            found.append((("drain", -1), (DRAINING, *state[1:])))
        else:
            self._sync(state, found)

    def _sync(self, state: _Plain, found: list[tuple[Label, _Plain]]) -> None:
        """Any regular sync may be the last one; it has to be if nothing is pending after it."""
        new, asked = self._acted(state, "sync", -1)
        found.append((("sync", -1), (STOPPED, *new[1:])))
        if not new[2]:
            return
        request = self._strategy.request
        asked += request is not None and request.at_sync()
        if len(new[9]) + asked <= self._limit:
            new = (FRESH if asked else AT_ONCE, *new[1:])
            found.append((("sync", -1), self._requested(new, asked)))

    def _chunks_of(self, chunks: int, named: int) -> int:
        """Return the pages of all chunks of which a page is named."""
        if (chunks, named) not in self._masks:
            firsts = [p for p, bit in self._pages if chunks & bit]
            runs = [(1 << end) - (1 << first) for first, end in pairwise([*firsts, self.pages])]
            self._masks[chunks, named] = sum(run for run in runs if run & named)
        return self._masks[chunks, named]


#: Intervals in ns with which it is tried whether a request policy asks at ticks.
_INTERVALS = (1, 10**3, 10**6, 10**8, 10**9, 10**12)
#: What an accept policy is tried with: syncs since the request, and the time of it in ns.
_TRIED_SYNCS = (*range(129), 10**3, 10**6)
_TRIED_TIMES = (0, 1, 10**6, 10**9, 10**12)
#: Instants at which handlings fall due, ascending, to try whether they keep their order.
_TRIED_DUE = sorted({n * step for n in range(256) for step in (1, 10**3, 10**6, 10**9)})


def _in_turn(name: str, request: Request) -> None:
    """Raise UsageError where a policy lets a later report be handled before an earlier one.

    The search has reports handled in the order in which they fell due.
    """
    if type(request).handling_time is Request.handling_time:
        return
    for interval in _INTERVALS:
        handled = [request.handling_time(due, interval) for due in _TRIED_DUE]
        if any(later < earlier for earlier, later in pairwise(handled)):
            raise UsageError(
                f"strategy {name}: its request policy {request.name!r} puts a report's handling "
                "off beyond that of a later one, and prove has them handled in turn; let "
                "handling_time ascend, or replay it"
            )


def _looks_back(name: str, accept: Accept) -> int:
    """Return how many syncs since its request a policy tells apart: from so many on, none more.

    Raises UsageError if it looks at the clock or further back: the search knows no times.
    """

    def answers(syncs: int, at: int) -> list[Fate]:
        queued = View(at, queued=True, syncs_since_request=syncs)
        early = View(at, queued=False, syncs_since_request=syncs)
        return [accept.before_sync(early), accept.before_sync(queued), accept.when_due(queued)]

    said = f"strategy {name}: its accept policy {accept.name!r} looks at"
    found = [answers(syncs, 0) for syncs in _TRIED_SYNCS]
    # Asked a second time, a policy under guard that throws dice is found out as what it is.
    again = [answers(syncs, 0) for syncs in _TRIED_SYNCS]
    if again != found:
        raise UsageError(f"{said} more than it is given: asked again, it answers differently")
    for at in _TRIED_TIMES:
        if [answers(syncs, at) for syncs in _TRIED_SYNCS] != found:
            raise UsageError(
                f"{said} when a report was asked for, and prove knows no times; let it count "
                "syncs, or replay it"
            )
    apart = max((i + 1 for i, answer in enumerate(found) if answer != found[-1]), default=0)
    if apart > MAX_SYNCS:
        raise UsageError(
            f"{said} more than {MAX_SYNCS} syncs since the request, and prove tells no more apart"
        )
    return apart
