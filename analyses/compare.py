"""Traces under strategies: what to replay, and the replays side by side.

Everything that can be refused is refused before the first row is read: unknown names, a strategy
without the data it needs, a trace that answers no question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock

from analyses.load import as_worked, shown_load
from analyses.recording import Recording
from replay.parameters import Parameters
from replay.profiles import profile
from replay.result import Replay, Result
from replay.strategies import Strategy, registered, strategy
from replay.together import replay_all
from tracer.errors import TraceError, UsageError
from tracer.format import SCHEMAS
from tracer.trace import Trace

#: Told how far it is: what is being done, work done, work in all (both in rows).
Watch = Callable[[str, int, int], None]

BASELINE = "precopy"


@dataclass(frozen=True)
class Plan:
    """What will be replayed: each trace under its strategies.

    remarks: what was left out and why, as sentences.
    """

    parameters: Parameters
    traces: tuple[tuple[Trace, tuple[Strategy, ...]], ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One trace's replays, strategy by strategy, each in all its scenarios.

    shown_load: percent of its vCPUs' time that the guest's work takes, as the recording shows it;
    None where it shows none, or where nothing holds the guest back.
    """

    trace: Trace
    parameters: Parameters
    strategies: tuple[Strategy, ...]
    replays: tuple[Replay, ...]
    shown_load: int | None = None

    @property
    def results(self) -> tuple[Result, ...]:
        """The result rows of the model's section 4, in the order of the replays."""
        return tuple(replay.result for replay in self.replays)

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The scenarios that were replayed, the leading one first."""
        return tuple(dict.fromkeys(result.scenario for result in self.results))

    def of(self, name: str) -> tuple[Replay, ...]:
        """Return the replays of one strategy, the leading scenario first."""
        return tuple(replay for replay in self.replays if replay.result.strategy == name)

    def baseline(self, scenario: str) -> Result | None:
        """Return what precopy did in the scenario, or None where it was not replayed."""
        for result in self.results:
            if (result.strategy, result.scenario) == (BASELINE, scenario):
                return result
        return None


def plan(
    paths: Sequence[Path], names: Sequence[str], parameters: Parameters, *, anyway: bool = False
) -> Plan:
    """Open the traces and choose the strategies: those named, or all that a trace has data for.

    anyway: replay traces that were recorded with hinting on. Raises UsageError for what cannot
    or should not be replayed, TraceError where a path is no trace.
    """
    profile(parameters.profile)
    wanted = [one.with_request(parameters.request) for one in named(names)]
    able, remarks = (wanted, []) if wanted else all_able(parameters)
    traces = [Trace.open(path) for path in paths]
    _distinct(traces, paths)
    chosen = []
    for trace in traces:
        if trace.meta.hinting and not anyway:
            raise UsageError(
                f"{trace.path}: recorded with free page hinting on: it contains what hinting did "
                "to the guest, and other strategies replayed on it answer no question; record "
                "with hinting off, or pass --anyway"
            )
        fitting = tuple(s for s in able if "freelist" in trace or not s.hints)
        if len(fitting) < len(wanted):
            lacking = next(s for s in wanted if s not in fitting)
            raise UsageError(
                f"{trace.path}: strategy {lacking.name} needs a free list and the trace has no "
                "freelist.arrow; record one along, or replay precopy"
            )
        if len(fitting) < len(able):
            alone = ", ".join(s.name for s in fitting)
            remarks.append(f"{trace.name}: no free list, so {alone} is all that can be replayed")
        if trace.unfinished:
            remarks.append(f"{trace.name}: {trace.unfinished}")
        chosen.append((trace, fitting))
    return Plan(parameters, tuple(chosen), tuple(remarks))


def compare(work: Plan, watch: Watch | None = None) -> list[Comparison]:
    """Check every trace once, then replay the plan.

    Raises TraceError with file and row for a trace that is none.
    """
    watch = watch or _nobody
    for trace, _ in work.traces:
        check(trace, watch)
    steps = _Steps(watch, work)
    comparisons = []
    for trace, strategies in work.traces:
        told = partial(steps.tell, trace)
        worked = as_worked(trace, work.parameters)
        replays = chain.from_iterable(replay_all(worked, strategies, work.parameters, told))
        load = _load(trace) if work.parameters.holds_back else None
        comparisons.append(Comparison(trace, work.parameters, strategies, tuple(replays), load))
    return comparisons


def check(trace: Trace, watch: Watch) -> None:
    """Validate the trace, telling how far it is."""
    watch(f"{trace.name}: checking", 0, sum(trace.num_rows(table) for table in SCHEMAS))
    trace.validate(progress=lambda done, total: watch(f"{trace.name}: checking", done, total))


def all_able(parameters: Parameters) -> tuple[list[Strategy], list[str]]:
    """Return all strategies but those that the request axis makes endless; and remarks on these."""
    able, remarks = [], []
    for one in registered().values():
        try:
            able.append(one.with_request(parameters.request))
        except UsageError as error:
            if parameters.request is None or one.with_request(None) is not one:
                raise
            remarks.append(f"left out: {error}")
    if not any(one.hints for one in able):
        # Then the axis itself was at fault, not its composition with one strategy.
        raise UsageError(remarks[0].removeprefix("left out: "))
    return able, remarks


def named(names: Sequence[str]) -> list[Strategy]:
    """Look strategies up; rows carry a strategy's name, so two of one name are refused."""
    found: dict[str, Strategy] = {}
    for name in names:
        one = strategy(name)
        other = found.setdefault(one.name, one)
        if other != one:
            raise UsageError(
                f"{other.argument} and {one.argument} are both named {one.name}, and results are "
                "told apart by the name; rename one"
            )
    return list(found.values())


def _distinct(traces: Sequence[Trace], paths: Sequence[Path]) -> None:
    """Rows carry a trace's name, so two of one name could not be told apart."""
    seen: dict[str, Path] = {}
    for trace, path in zip(traces, paths, strict=True):
        if trace.name in seen:
            raise UsageError(
                f"{path}: is named like {seen[trace.name]}, and results are told apart by the "
                "trace's name; rename one"
            )
        seen[trace.name] = path


def _load(trace: Trace) -> int | None:
    """Return the load that shows; what was recorded along may be of no use for a replay."""
    with suppress(TraceError):
        return None if trace.migration is None else shown_load(Recording.of(trace))
    return None


def _rows(trace: Trace) -> int:
    return max(1, trace.num_rows("dirty"))


def _nobody(_what: str, _done: int, _total: int) -> None:
    pass


class _Steps:
    """Adds up the rows of replays that run side by side to a count that never falls."""

    def __init__(self, watch: Watch, work: Plan):
        self._watch = watch
        self._total = sum(_rows(trace) * len(strategies) for trace, strategies in work.traces)
        self._most: dict[tuple[str, str], int] = {}
        self._done = 0
        self._lock = Lock()

    def tell(self, trace: Trace, strategy: Strategy, rows: int) -> None:
        """Take down how far a scenario of a strategy has come; each begins at 0 again."""
        with self._lock:
            before = self._most.get((trace.name, strategy.name), 0)
            now = min(max(before, rows), _rows(trace))
            self._most[trace.name, strategy.name] = now
            self._done += now - before
            self._watch(f"{trace.name}: {strategy.name}", self._done, self._total)
