"""Textbook pre-copy: sweep after sweep, a sync between them (Clark et al., NSDI 2005).

The model, section 3, profile `rounds`.
"""

from __future__ import annotations

from replay import kernels as k
from replay.engine import Migration
from replay.link import SECOND_NS
from replay.profiles.base import Outcome, Reason, Round

#: So many rounds at one guest time end the replay: overlapping reports keep the guest stopped.
STANDSTILL_ROUNDS = 100


def run(migration: Migration) -> Outcome:
    """Run a migration in rounds until it switches over or the trace knows no more."""
    migration.begin()
    now = _wait_for_answer(migration) if migration.strategy.start == "wait" else 0
    rounds: list[Round] = []
    standstill = _Standstill()
    while True:
        migration.round += 1
        before, start, guest = _counters(migration), now, migration.clock.guest(now)
        ended = _sweep(migration, start)
        migration.end_round(ended)
        copied = _copies(migration) - before[k.SENT] - before[k.ZERO_SENT]
        drained = _drain(migration, ended)
        if drained is None or migration.clock.guest(drained) > migration.last_guest_ns:
            rounds.append(_round(migration, before, start, ended, None))
            return _exhausted(migration, drained, rounds)
        now = drained
        standstill.note(guest, migration.clock.guest(now), copied=copied, took=ended - start)
        migration.regular_sync(now)
        rounds.append(_round(migration, before, start, ended, migration.pending_pages))
        reason = _reason_to_stop(migration)
        if reason is not None:
            return _switched_over(migration, reason, now, rounds)
        if standstill.reached:
            return _given_up(migration, "livelock", now, rounds)
        migration.ask_after_sync(now)


class _Standstill:
    """Whether the rounds have stopped getting anywhere."""

    def __init__(self) -> None:
        self._empty = self._still = 0

    def note(self, began: int, guest: int, *, copied: int, took: int) -> None:
        """Take down a round: guest time at its beginning and now, its copies, how long it took."""
        self._empty = 0 if copied or took else self._empty + 1
        self._still = self._still + 1 if guest == began else 0

    @property
    def reached(self) -> bool:
        """Whether the next sync that does not stop the guest ends the replay."""
        return self._empty >= 2 or self._still >= STANDSTILL_ROUNDS


def _wait_for_answer(migration: Migration) -> int:
    """Send nothing until the first report is done; return when that is."""
    now = 0
    while not migration.hinting.done:
        now = migration.next_due()
        migration.idle(now)
        migration.settle(now)
    return now


def _sweep(migration: Migration, start: int) -> int:
    """Move the cursor once from the first page to the last; return when it is through."""
    migration.link_free(start)
    while True:
        due = migration.next_due()
        if migration.sweep(due):
            return migration.link_ns
        migration.settle(due)


def _drain(migration: Migration, now: int) -> int | None:
    """Wait, link idle, until no report is outstanding; None if the trace ends before that."""
    if not migration.strategy.drain or migration.clock.guest(now) > migration.last_guest_ns:
        return now
    while migration.hinting.outstanding:
        due, limit = migration.next_due(), migration.clock.host(migration.last_guest_ns)
        if limit is not None and due > limit:
            migration.idle(limit)
            return None
        migration.idle(due)
        migration.settle(due)
        now = due
    return now


def _reason_to_stop(migration: Migration) -> Reason | None:
    parameters = migration.parameters
    needed = migration.pending_pages * migration.trace.meta.page_size * SECOND_NS
    if needed <= parameters.bandwidth * parameters.downtime_limit_ns:
        return "downtime-limit"
    if parameters.max_rounds is not None and migration.round >= parameters.max_rounds:
        return "max-rounds"
    return None


def _switched_over(migration: Migration, reason: Reason, now: int, rounds: list[Round]) -> Outcome:
    before = _counters(migration)
    end = migration.switch_over(now)
    rounds.append(_round(migration, before, now, end, None, stopped=True))
    return Outcome(reason, end, now, tuple(rounds))


def _exhausted(migration: Migration, drained: int | None, rounds: list[Round]) -> Outcome:
    """End where a sync would know nothing of the guest any more."""
    if drained is None:
        drained = migration.clock.host(migration.last_guest_ns)
        assert drained is not None, "a guest that stands still never reaches the trace's end"
    return _given_up(migration, "trace-exhausted", drained, rounds)


def _given_up(migration: Migration, reason: Reason, now: int, rounds: list[Round]) -> Outcome:
    migration.abandon()
    return Outcome(reason, now, None, tuple(rounds))


def _copies(migration: Migration) -> int:
    return int(migration.memory.ctl[k.SENT] + migration.memory.ctl[k.ZERO_SENT])


def _counters(migration: Migration) -> list[int]:
    return [int(value) for value in migration.memory.ctl]


def _round(
    migration: Migration,
    before: list[int],
    start: int,
    end: int,
    pending: int | None,
    *,
    stopped: bool = False,
) -> Round:
    after = _counters(migration)
    sent, zero, redundant, free = (
        after[slot] - before[slot] for slot in (k.SENT, k.ZERO_SENT, k.REDUNDANT, k.FREE_SENT)
    )
    return Round(migration.round, stopped, start, end, sent, zero, redundant, free, pending)
