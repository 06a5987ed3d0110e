"""Textbook pre-copy: sweep after sweep, a sync between them (Clark et al., NSDI 2005).

The model, section 3, profile `rounds`.
"""

from __future__ import annotations

from replay import kernels as k
from replay.engine import Migration
from replay.link import SECOND_NS
from replay.profiles.base import Outcome, Reason, Round
from replay.profiles.steps import (
    counters,
    drain,
    exhausted,
    given_up,
    round_row,
    wait_for_answer,
)

#: So many rounds at one guest time end the replay: overlapping reports keep the guest stopped.
STANDSTILL_ROUNDS = 100


def run(migration: Migration) -> Outcome:
    """Run a migration in rounds until it switches over or the trace knows no more."""
    waits = migration.strategy.start == "wait"
    # What is handled at the very instant at which a round begins is handled in it.
    migration.round = 0 if waits else 1
    migration.begin()
    now = wait_for_answer(migration) if waits else 0
    migration.round = 1
    rounds: list[Round] = []
    standstill = _Standstill()
    while True:
        before, start, guest = counters(migration), now, migration.clock.guest(now)
        ended = _sweep(migration, start)
        migration.end_round(ended)
        copied = migration.copies - before[k.SENT] - before[k.ZERO_SENT]
        drained = drain(migration, ended)
        if drained is None or migration.clock.guest(drained) > migration.last_guest_ns:
            rounds.append(round_row(migration, before, start, ended, None))
            return exhausted(migration, drained, rounds)
        now = drained
        standstill.note(guest, migration.clock.guest(now), copied=copied, took=ended - start)
        migration.regular_sync(now)
        rounds.append(round_row(migration, before, start, ended, migration.pending_pages))
        reason = _reason_to_stop(migration)
        if reason is not None:
            return _switched_over(migration, reason, now, rounds)
        if standstill.reached:
            return given_up(migration, "livelock", now, rounds)
        migration.round += 1
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


def _sweep(migration: Migration, start: int) -> int:
    """Move the cursor once from the first page to the last; return when it is through."""
    migration.move_cursor(0, start)
    migration.link_free(start)
    while True:
        due = migration.next_due()
        if migration.sweep(due) == k.SWEPT:
            return migration.link_ns
        migration.settle(due)


def _reason_to_stop(migration: Migration) -> Reason | None:
    parameters = migration.parameters
    needed = migration.pending_pages * migration.trace.meta.page_size * SECOND_NS
    if needed <= parameters.bandwidth * parameters.downtime_limit_ns:
        return "downtime-limit"
    if parameters.max_rounds is not None and migration.round >= parameters.max_rounds:
        return "max-rounds"
    return None


def _switched_over(migration: Migration, reason: Reason, now: int, rounds: list[Round]) -> Outcome:
    before = counters(migration)
    end = migration.switch_over(now)
    rounds.append(round_row(migration, before, now, end, None, stopped=True))
    return Outcome(reason, end, now, tuple(rounds))
