"""What a loop profile is given and gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from replay.engine import Migration

Reason = Literal["downtime-limit", "max-rounds", "trace-exhausted", "livelock"]


@dataclass(frozen=True)
class Round:
    """One sweep of the cursor, or (stopped) the copying after the guest has stopped.

    Times are host ns; the rest counts pages. pending_pages: after the sync that ended the round,
    None where there was none. In profile `qemu` a sync does not end the sweep but the row: the next
    one has the same round's number.
    """

    round: int
    stopped: bool
    start_ns: int
    end_ns: int
    pages_sent: int
    zero_pages_sent: int
    redundant: int
    free: int
    pending_pages: int | None


@dataclass(frozen=True)
class Moment:
    """How far a migration had come at a host instant in ns: totals so far, and pages pending."""

    host_ns: int
    pages_sent: int
    zero_pages_sent: int
    wire_bytes: int
    syncs: int
    pending_pages: int


@dataclass(frozen=True)
class Outcome:
    """How a migration ended. end_ns: the last byte, or where the replay ended.

    stop_ns: when the guest was stopped for good, None where it was not. framing: bytes on the wire
    beside pages and their headers. throttles: (host ns, percent) from each change on. course: what
    the loop knew of itself each time it came round, of profile `qemu` alone.
    """

    reason: Reason
    end_ns: int
    stop_ns: int | None
    rounds: tuple[Round, ...]
    framing: int = 0
    throttles: tuple[tuple[int, int], ...] = ()
    course: tuple[Moment, ...] = ()


class Profile(Protocol):
    """Runs a migration to its end."""

    def __call__(self, migration: Migration) -> Outcome:
        """Run it."""
