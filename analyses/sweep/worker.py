"""What a worker does: some tasks of one trace, which it opens, checks and draws from once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from analyses.load import as_worked
from analyses.sweep.plan import Task, code_version
from replay.parameters import Parameters
from replay.replay import replay
from replay.result import Result
from replay.rewrites import Rewrites
from replay.scenarios import Readings
from replay.strategies import strategy
from tracer.errors import DirtylogError, TraceError, UsageError
from tracer.places import Cache, Header, forget, local
from tracer.trace import Trace


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its result rows, or why there are none.

    again: whether another try could come out otherwise.
    """

    key: str
    rows: tuple[Result, ...] = ()
    problem: str | None = None
    again: bool = False


@dataclass
class _Open:
    """A trace that is open and checked.

    worked: the same as guests of other loads worked, with what was drawn from it by seed; by load.
    """

    digest: str
    trace: Trace
    worked: dict[int, tuple[Trace, dict[int, Rewrites]]]

    def as_worked(self, parameters: Parameters) -> tuple[Trace, dict[int, Rewrites]]:
        """Return the trace as it is replayed, and what was drawn from it before."""
        if parameters.guest_load not in self.worked:
            self.worked[parameters.guest_load] = as_worked(self.trace, parameters), {}
        return self.worked[parameters.guest_load]


#: The last trace of each thread: its tasks come one after the other.
_last = threading.local()


def work(tasks: Sequence[Task], version: str, cache: Cache) -> list[Outcome]:
    """Do tasks that are all of one trace; what goes wrong becomes an outcome.

    version: `code_version` of who asks; another one here would give other results.
    """
    if version != code_version():
        raise UsageError(
            f"a worker runs dirtylog {code_version()} and this is {version}; install one version "
            "everywhere"
        )
    try:
        opened = _opened(tasks[0].trace, cache)
    except Exception as error:
        return [_failed(task, error) for task in tasks]
    return [_done(task, opened) for task in tasks]


def _done(task: Task, opened: _Open) -> Outcome:
    try:
        one = strategy(task.strategy)
        trace, drawn = opened.as_worked(task.parameters)
        readings = Readings(trace, task.parameters, drawn)
        replays = replay(trace, one, task.parameters, readings=readings)
    except Exception as error:
        return _failed(task, error)
    return Outcome(task.key, tuple(found.result for found in replays))


def _failed(task: Task, error: Exception) -> Outcome:
    if isinstance(error, DirtylogError):
        return Outcome(task.key, problem=str(error))
    reason = str(error).splitlines()[0] if str(error) else ""
    return Outcome(task.key, problem=f"{type(error).__name__}: {reason}", again=True)


def _opened(header: Header, cache: Cache) -> _Open:
    """Open and check a trace, unless it is the one that was asked for last."""
    last: _Open | None = getattr(_last, "opened", None)
    if last is not None and last.digest == header.digest:
        return last
    _last.opened = None
    with local(header.text, cache) as path:
        trace = Trace.open(path)
    try:
        _check(trace, header)
    except TraceError as error:
        # A copy that came over wrong is not kept, and a copy is not what the user knows it by.
        forget(header.text, cache)
        raise type(error)(str(error).replace(str(path), header.shown)) from None
    opened = _Open(header.digest, trace, {})
    _last.opened = opened
    return opened


def _check(trace: Trace, header: Header) -> None:
    if trace.digest != header.digest:
        raise TraceError(f"{header.shown}: has changed since the sweep began; start it again")
    trace.validate()
