"""What loop profiles have in common: waiting, giving up, and rows about rounds."""

from __future__ import annotations

from replay import kernels as k
from replay.engine import Migration
from replay.profiles.base import Outcome, Reason, Round


def wait_for_answer(migration: Migration) -> int:
    """Send nothing until the first report is done; return when that is."""
    now = 0
    while not migration.hinting.done:
        now = migration.next_due()
        migration.idle(now)
        migration.settle(now)
    return now


def drain(migration: Migration, now: int) -> int | None:
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


def exhausted(migration: Migration, drained: int | None, rounds: list[Round]) -> Outcome:
    """End where a sync would know nothing of the guest any more."""
    if drained is None:
        drained = migration.clock.host(migration.last_guest_ns)
        assert drained is not None, "a guest that stands still never reaches the trace's end"
    return given_up(migration, "trace-exhausted", drained, rounds)


def given_up(migration: Migration, reason: Reason, now: int, rounds: list[Round]) -> Outcome:
    """End without a switchover."""
    migration.abandon()
    return Outcome(reason, now, None, tuple(rounds))


def counters(migration: Migration) -> list[int]:
    """Return the kernel's counters, for a later `round_row`."""
    return migration.memory.ctl.tolist()


def round_row(
    migration: Migration,
    before: list[int],
    start: int,
    end: int,
    pending: int | None,
    *,
    stopped: bool = False,
) -> Round:
    """Return the row of what was copied since the counters were `before`."""
    after = counters(migration)
    sent, zero, redundant, free = (
        after[slot] - before[slot] for slot in (k.SENT, k.ZERO_SENT, k.REDUNDANT, k.FREE_SENT)
    )
    return Round(migration.round, stopped, start, end, sent, zero, redundant, free, pending)
