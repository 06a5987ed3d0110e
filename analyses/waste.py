"""What was sent and how much of it for nothing, also against precopy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from analyses.compare import Comparison
    from replay.result import Result

Share = Literal["needed", "superseded", "freed_later", "free", "redundant", "undecided"]

#: The partition of `pages_sent`, what the destination runs on first.
SHARES: tuple[Share, ...] = (
    "needed",
    "superseded",
    "freed_later",
    "free",
    "redundant",
    "undecided",
)


@dataclass(frozen=True)
class Cost:
    """What one replay sent (pages) and took (ns), and the same of precopy where it was replayed.

    parts: pages by class, in the order of SHARES; they add up to `sent`. `undecided` are copies
    of a replay without a switchover: whether the destination needed them is not known. wasted:
    pages for nothing; with `at_least`, no fewer than that. precopy_sent and precopy_ns are None
    for precopy itself, and unless both replays reached a switchover.
    """

    sent: int
    parts: tuple[int, ...]
    wasted: int
    at_least: bool
    precopy_sent: int | None
    precopy_ns: int | None


def cost(result: Result, baseline: Result | None) -> Cost:
    """Return what a replay cost, against precopy in the same scenario (None: not replayed)."""
    known = (result.superseded, result.freed_later or 0, result.free, result.redundant)
    rest = result.pages_sent - sum(known)
    done = result.completed
    comparable = baseline is not None and baseline.completed and done and baseline != result
    return Cost(
        sent=result.pages_sent,
        parts=(rest if done else 0, *known, 0 if done else rest),
        wasted=sum(known),
        at_least=not done,
        precopy_sent=baseline.pages_sent if baseline is not None and comparable else None,
        precopy_ns=baseline.total_ns if baseline is not None and comparable else None,
    )


def costs(comparison: Comparison) -> tuple[Cost, ...]:
    """Return the cost of every result of a comparison, in their order."""
    return tuple(
        cost(result, comparison.baseline(result.scenario)) for result in comparison.results
    )
