"""A user's own policies under guard.

What they see of a report is a copy of what a policy may know. What they raise becomes one line
that names theirs; what they answer is checked before it reaches the engine; and an answer that
depends on more than the question is noticed, since a replay runs twice and a proof asks in any
order: each question is asked again at once, the first ones so often that dice show.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable
from typing import Any

from replay.policies.base import Accept, Fate, Policy, ReportView, Request, View
from replay.policies.blame import blame, shown
from tracer.errors import ImpureError, PolicyError

#: Times must stay below this, so that sums of them fit 64 bits.
_LATEST = 1 << 61
#: So many answers are remembered at most.
_REMEMBERED = 1 << 20
#: How often a new question is asked, among the first of them and later. Dice that say yes and no
#: equally often answer alike 16 times in one of 32,768 cases.
_FIRST, _OFTEN, _TWICE = 64, 16, 2


def guarded_accept(policy: Accept) -> Accept:
    """Return the policy under guard; those of this package need none."""
    return policy if _is_ours(policy) else _GuardedAccept(policy)


def guarded_request(policy: Request) -> Request:
    """Return the policy under guard; those of this package need none."""
    if _is_ours(policy):
        return policy
    # Whoever asks whether handlings are put off can tell by the class, guarded or not.
    plain = getattr(policy.handling_time, "__func__", None) is Request.handling_time
    return _GuardedRequest(policy) if plain else _GuardedDelay(policy)


def place(policy: Policy, hook: str) -> str:
    """Return `FILE:LINE in HOOK`, where a policy defines what it answers to a question."""
    code = _code(policy, hook)
    if code is None:
        file = getattr(sys.modules.get(type(policy).__module__), "__file__", None)
        return f"{file or type(policy).__module__} in {type(policy).__name__}.{hook}"
    return f"{code.co_filename}:{code.co_firstlineno} in {hook}"


class _Again(threading.local):
    """Whether this thread is asking a policy again what it has answered."""

    now = False


_AGAIN = _Again()


def asking_again() -> bool:
    """Whether a policy that runs in this thread was asked the same just before."""
    return _AGAIN.now


class _GuardedAccept(Accept):
    """Any accept policy; raises PolicyError for what it does wrong."""

    def __init__(self, policy: Accept):
        self._guard = _Guard(policy)
        self.name = policy.name

    def before_sync(self, report: ReportView) -> Fate:
        if report.queued:
            fits, wanted = _is_fate, "Fate.KEEP, Fate.HANDLE or Fate.DROP"
        else:
            fits, wanted = _can_be_early, "Fate.KEEP or Fate.DROP, as the report is not queued yet"
        fate: Fate = self._guard.ask("before_sync", (_view(report),), fits, wanted)
        return fate

    def when_due(self, report: ReportView) -> Fate:
        fate: Fate = self._guard.ask(
            "when_due", (_view(report),), _can_be_due, "Fate.HANDLE or Fate.DROP"
        )
        return fate


class _GuardedRequest(Request):
    """Any request policy; raises PolicyError for what it does wrong."""

    def __init__(self, policy: Request):
        self._guard = _Guard(policy)
        self.name = policy.name

    def at_sync(self) -> bool:
        answer: bool = self._guard.ask("at_sync", (), _is_bool, "True or False")
        return answer

    def when_done(self) -> bool:
        answer: bool = self._guard.ask("when_done", (), _is_bool, "True or False")
        return answer

    def next_tick(self, now: int, interval_ns: int) -> int | None:
        tick: int | None = self._guard.ask(
            "next_tick",
            (now, interval_ns),
            lambda answer: answer is None or _is_time(answer, now + 1),
            f"a whole number of ns after now ({now}) and below 2^61, or None for never",
        )
        return tick


class _GuardedDelay(_GuardedRequest):
    """A request policy that puts handlings off."""

    def handling_time(self, due: int, interval_ns: int) -> int:
        time: int = self._guard.ask(
            "handling_time",
            (due, interval_ns),
            lambda answer: _is_time(answer, due),
            f"a whole number of ns from {due} on, when it is due, and below 2^61",
        )
        return time


class _Guard:
    """Asks one policy."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self._answers: dict[tuple[Any, ...], object] = {}
        self._attributes = self._look()

    def ask(
        self, hook: str, given: tuple[Any, ...], fits: Callable[[object], bool], wanted: str
    ) -> Any:
        """Return the answer to a question; raises PolicyError for one that is none."""
        answer = self._answer(hook, given, fits, wanted)
        question = (hook, *given)
        if question not in self._answers:
            often = _OFTEN if len(self._answers) < _FIRST else _TWICE
            _AGAIN.now = True
            try:
                for _ in range(often - 1):
                    self._same(hook, answer, self._answer(hook, given, fits, wanted))
            finally:
                _AGAIN.now = False
        self._same(hook, self._answers.get(question, answer), answer)
        if len(self._answers) < _REMEMBERED:
            self._answers[question] = answer
        return answer

    def _same(self, hook: str, known: object, answer: object) -> None:
        if known != answer:
            raise ImpureError(
                f"{place(self._policy, hook)}: it answered {shown(known)}, and to the same "
                f"question again {shown(answer)}; {_PURE}"
            )

    def _answer(
        self, hook: str, given: tuple[Any, ...], fits: Callable[[object], bool], wanted: str
    ) -> Any:
        try:
            answer = getattr(self._policy, hook)(*given)
        except (Exception, SystemExit) as error:
            at = place(self._policy, hook)
            code = _code(self._policy, hook)
            raise PolicyError(blame(error, code.co_filename if code else "", at)) from error
        if not fits(answer):
            raise PolicyError(
                f"{place(self._policy, hook)}: it answered {shown(answer)}; wanted {wanted}"
            )
        if self._look() != self._attributes:
            raise ImpureError(
                f"{place(self._policy, hook)}: it changed an attribute of its policy; {_PURE}"
            )
        return answer

    def _look(self) -> str:
        return _attributes_of(getattr(self._policy, "__dict__", {}))


_PURE = "a policy is asked again and in other orders, so it answers from what it is given alone"


def _attributes_of(attributes: dict[str, object]) -> str:
    """Return attributes as text to compare, whatever they are; nothing for none."""
    if not attributes:
        return ""
    try:
        return repr(attributes)
    except Exception:
        return str(sorted(attributes))


def _view(report: ReportView) -> View:
    if isinstance(report, View):
        return report
    return View(report.requested_ns, report.queued, report.syncs_since_request)


def _is_ours(policy: Policy) -> bool:
    return type(policy).__module__.startswith("replay.policies.")


def _is_fate(answer: object) -> bool:
    return isinstance(answer, Fate)


def _can_be_early(answer: object) -> bool:
    return answer is Fate.KEEP or answer is Fate.DROP


def _can_be_due(answer: object) -> bool:
    return answer is Fate.HANDLE or answer is Fate.DROP


def _is_bool(answer: object) -> bool:
    return isinstance(answer, bool)


def _is_time(answer: object, earliest: int) -> bool:
    return type(answer) is int and earliest <= answer < _LATEST


def _code(policy: Policy, hook: str) -> Any:
    try:
        return getattr(inspect.unwrap(getattr(policy, hook)), "__code__", None)
    except Exception:
        return None
