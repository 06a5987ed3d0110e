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
    None where there was none.
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
class Outcome:
    """How a migration ended. end_ns: the last byte, or where the replay ended.

    stop_ns: when the guest was stopped for good, None where it was not.
    """

    reason: Reason
    end_ns: int
    stop_ns: int | None
    rounds: tuple[Round, ...]


class Profile(Protocol):
    """Runs a migration to its end."""

    def __call__(self, migration: Migration) -> Outcome:
        """Run it."""
