"""What every strategy must hold to, users' own included, tried on random guests.

Whether a strategy can lose a write is not asked here: that is `prove`'s question, and one that
loses some may conform.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from analyses.properties import CHECKS, applies
from analyses.random_guests import Case, random_case
from replay.policies import Accept, Request, View
from replay.policies.guard import guarded_accept, guarded_request
from replay.replay import replay
from replay.result import Replay
from replay.strategies import Strategy
from tracer.errors import CheckError, FloodError, ImpureError, PolicyError, UsageError

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Finding:
    """A property and how it went.

    tried: on so many random guests; a refused replay shows nothing of what comes out of one, nor a
    guest that holds no page what holding does.
    failed: on how many it did not hold, 1 where no guest was needed to see that. reason: of the
    smallest of these, None if it held. case: that guest, if any.
    """

    name: str
    says: str
    tried: int
    failed: int = 0
    reason: str | None = None
    case: Case | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "property": self.name,
            "says": self.says,
            "tried": self.tried,
            "failed": self.failed,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Conformance:
    """How a strategy went through all properties.

    cases: guests tried. losing: on how many of them it lost a page, by log mode.
    """

    strategy: Strategy
    cases: int
    losing: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        """Whether every property held."""
        return not any(finding.failed for finding in self.findings)

    @property
    def case(self) -> tuple[Finding, Case] | None:
        """The first failed property that a replay of one guest shows, and that guest."""
        shows = (f for f in self.findings if f.name != "is pure")
        return next(((f, f.case) for f in shows if f.case is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "strategy": self.strategy.name,
            "conforms": self.holds,
            "guests": self.cases,
            "losing": self.losing,
            "properties": [finding.to_dict() for finding in self.findings],
        }


def conformance(
    strategy: Strategy, *, cases: int = 200, seed: int = 5, watch: Watch | None = None
) -> Conformance:
    """Try a strategy on `cases` random guests; the same seed gives the same guests.

    A strategy that floods its guest with reports is tried on no further guests.

    Raises UsageError for less than one guest. What the strategy does wrong is found, not raised.
    """
    if cases < 1:
        raise UsageError(f"{cases} guests: wanted at least 1")
    strategy = replace(
        strategy,
        request=strategy.request and guarded_request(strategy.request),
        accept=strategy.accept and guarded_accept(strategy.accept),
    )
    rng = random.Random(seed)  # noqa: S311 - guests, no secrets
    ledger = _Ledger()
    ledger.ask(strategy)
    losing = {"legacy": 0, "manual": 0}
    tried = 0
    while tried < cases and not ledger.endless:
        case = random_case(rng)
        if strategy.drain and case.parameters.request == "resubmit":
            case = replace(case, parameters=replace(case.parameters, request=None))
        losing[case.parameters.log_mode] += ledger.try_on(strategy, case)
        tried += 1
        if watch is not None:
            watch(f"{strategy.name}: random guests", tried, cases)
    return Conformance(strategy, tried, losing, ledger.findings(tried))


def conforms(strategy: Strategy, *, cases: int = 200, seed: int = 5) -> None:
    """Raise CheckError unless the strategy holds to everything; for a test of one's own."""
    found = conformance(strategy, cases=cases, seed=seed)
    wrong = "; ".join(f"{f.name}: {f.reason}" for f in found.findings if f.failed)
    if wrong:
        raise CheckError(f"{strategy.name} does not conform: {wrong}")


class _Ledger:
    """What has failed: by property how often, and the smallest guest."""

    def __init__(self) -> None:
        self._failed: dict[str, list[tuple[str, Case | None]]] = {name: [] for name in PROPERTIES}
        self._checked = dict.fromkeys(CHECKS, 0)
        self._repeated = 0

    @property
    def endless(self) -> bool:
        """Whether a replay took so long that no more should be tried."""
        return bool(self._failed["ends"])

    def ask(self, strategy: Strategy) -> None:
        """Ask the policies all kinds of questions, in one order and in the other."""
        questions = list(_questions(strategy))
        for question in (*questions, *reversed(questions)):
            self._calmly(question, None)

    def try_on(self, strategy: Strategy, case: Case) -> bool:
        """Replay a case in every way and check what comes out; return whether a page was lost."""
        runs: list[Replay] = []
        if not self._calmly(lambda: runs.extend(_replays(strategy, case)), case):
            return False
        again: list[Replay] = []
        done = self._calmly(lambda: again.extend(_replays(strategy, case, batch=2)), case)
        self._repeated += done
        if done and again != runs:
            self._note("repeats", "replayed again in other batches, the rows differ", case)
        for name, check in CHECKS.items():
            self._checked[name] += applies(name, case, strategy)
            for wrong in check(case, strategy, runs):
                self._note(name, wrong, case)
                break
        return any(run.result.lost for run in runs)

    def findings(self, tried: int) -> tuple[Finding, ...]:
        """Return all properties."""
        guests = self._checked | {"repeats": self._repeated}
        return tuple(
            Finding(
                name, says, guests.get(name, tried), self._failures(name), *self._smallest(name)
            )
            for name, says in PROPERTIES.items()
        )

    def _calmly(self, deed: Callable[[], object], case: Case | None) -> bool:
        """Do it; what the strategy does wrong is noted."""
        try:
            deed()
        except ImpureError as error:
            self._note("is pure", str(error), case)
        except PolicyError as error:
            self._note("answers", str(error), case)
        except FloodError as error:
            self._note("ends", str(error), case)
        else:
            return True
        return False

    def _note(self, name: str, wrong: str, case: Case | None) -> None:
        self._failed[name].append((wrong, case))

    def _failures(self, name: str) -> int:
        guests = sum(case is not None for _, case in self._failed[name])
        return guests or len(self._failed[name][:1])

    def _smallest(self, name: str) -> tuple[str | None, Case | None]:
        failures = self._failed[name]
        with_case = [failure for failure in failures if failure[1] is not None]
        if not failures:
            return None, None
        return min(with_case or failures, key=lambda failure: failure[1].rows if failure[1] else 0)


def _replays(strategy: Strategy, case: Case, *, batch: int | None = None) -> list[Replay]:
    return replay(case.trace(batch=batch), strategy, case.parameters)


_TIMES = (0, 1, 7, 10**3, 10**6 + 1, 10**9, 10**13)
_INTERVALS = (1, 3, 10**3, 10**8)


def _questions(strategy: Strategy) -> Iterator[Callable[[], object]]:
    """Yield what a migration may ask."""
    if strategy.request is not None:
        yield from _requests(strategy.request)
    if strategy.accept is not None:
        yield from _accepts(strategy.accept)


def _requests(request: Request) -> Iterator[Callable[[], object]]:
    yield request.at_sync
    yield request.when_done
    for interval in _INTERVALS:
        for time in _TIMES:
            yield partial(request.next_tick, time, interval)
            yield partial(request.handling_time, time, interval)


def _accepts(accept: Accept) -> Iterator[Callable[[], object]]:
    for syncs in (0, 1, 2, 3, 100):
        for time in _TIMES:
            queued = View(time, queued=True, syncs_since_request=syncs)
            early = View(time, queued=False, syncs_since_request=syncs)
            yield partial(accept.before_sync, queued)
            yield partial(accept.before_sync, early)
            yield partial(accept.when_due, queued)


#: Every property by name, and what it says.
PROPERTIES: dict[str, str] = {
    "answers": "every question gets an answer of the right kind, and nothing is raised",
    "is pure": "the same question gets the same answer, and asking changes nothing",
    "ends": "reports are not asked for without end",
    "repeats": "the same trace gives the same rows, however it is cut in batches",
    "adds up": "copies, bytes and reports sum to what the result says",
    "ascends": "reports, rounds and witnesses go forward in time",
    "fits": "verdict, reason, lost pages and witnesses fit each other",
    "held": "a guest that keeps what it reports loses nothing",
}
