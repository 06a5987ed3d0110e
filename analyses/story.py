"""A story of pages: what happened step by step, what the bitmaps held, and why a write was lost.

There is one shape for both kinds: those of a replay have times (`analyses.explain`), those of a
search over interleavings have steps alone (`analyses.counterexample`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Holding = Literal["zeros", "current", "outdated"]

#: How a write can be lost, by what made the only record of it go.
CauseKind = Literal[
    "straddled-sync",
    "own-sync",
    "other-sync",
    "log-cleared-by-report",
    "log-cleared-by-other-report",
    "log-cleared-by-copy",
]

#: Each of them in a line.
CAUSES: dict[CauseKind, str] = {
    "straddled-sync": "a regular sync between snapshot and handling harvested the write",
    "own-sync": "the sync just before the handling, which goes with it, harvested the write",
    "other-sync": "the sync that goes with another report's handling harvested the write",
    "log-cleared-by-report": "the write left no record in a log bit that the handling cleared",
    "log-cleared-by-other-report": (
        "the write left no record in a log bit that another report's handling cleared"
    ),
    "log-cleared-by-copy": (
        "the write left no record in a log bit that the copy of another page cleared"
    ),
}


@dataclass(frozen=True)
class PageView:
    """One page after a step.

    awaiting: its log bit is from before the last sync and waits to be cleared with its chunk, so
    that a write leaves no new record. destination: what it holds of the page: zeros as from the
    start, the source's content, or earlier content.
    """

    free: bool
    pending: bool
    logged: bool
    awaiting: bool
    destination: Holding


@dataclass(frozen=True)
class Moment:
    """When a step was: host and guest ns, the sweep under way (0: none yet), where the cursor was.

    cursor: the page at which the search for pending pages went on, None where that is not known.
    """

    host_ns: int
    guest_ns: int
    pass_: int
    cursor: int | None


@dataclass(frozen=True)
class Event:
    """One step, and each of the story's pages after it. number 0 is the start.

    moment: None in a story without a clock. decisive: the loss hangs on it. left_out: so many steps
    between the event before and this one are not told.
    """

    number: int
    what: str
    pages: tuple[PageView, ...]
    moment: Moment | None = None
    decisive: bool = False
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        told: dict[str, Any] = {"step": self.number}
        if self.moment is not None:
            told |= {
                "host_ns": self.moment.host_ns,
                "guest_ns": self.moment.guest_ns,
                "pass": self.moment.pass_,
                "cursor": self.moment.cursor,
                "decisive": self.decisive,
                "left_out": self.left_out,
            }
        return told | {"what": self.what, "pages": [asdict(view) for view in self.pages]}


@dataclass(frozen=True)
class Story:
    """What happened to some pages, and in one sentence what came of it.

    pages: their numbers, in the order of an event's views.
    """

    pages: tuple[int, ...]
    events: tuple[Event, ...]
    cause: str


@dataclass(frozen=True)
class Cause:
    """Why a page was lost, with when each thing happened in words ("step 4", "6.711 ms").

    report: the one whose handling cleared the pending bit. harvest: the sync that took the write's
    record over, in words, None where the log had none. clearing: who cleared the log bit that
    counted, in words, None where there was none to clear (log mode legacy); by_handling: it was
    that report's handling. early: the handling came before the write.
    """

    kind: CauseKind
    page: int
    report: int
    snapshot: str
    written: str
    handled: str
    harvest: str | None = None
    clearing: str | None = None
    by_handling: bool = False
    early: bool = False

    def sentence(self, ending: str = "no bitmap knows of the write") -> str:
        """Return it as one sentence, without a full stop."""
        handling = f"the handling of report {self.report} ({self.handled})"
        snapshot = f"page {self.page} was free in the snapshot of report {self.report}"
        begin = f"{snapshot} ({self.snapshot}), then taken and written ({self.written}); "
        if self.harvest is not None and self.clearing is None:
            how = (
                f"{self.harvest} moved the only record of that write from the log to the pending "
                f"bitmap, and {handling} cleared it there"
            )
        elif self.harvest is not None:
            how = (
                f"{self.harvest} copied the record of that write from the log to the pending "
                "bitmap, "
            )
            how += (
                f"and {handling} cleared it in both"
                if self.by_handling
                else f"{self.clearing} cleared it in the log with its chunk, and {handling} in the "
                "pending bitmap"
            )
        else:
            how = "its log bit was still set from before, so the write left no record of its own; "
            if self.by_handling:
                how += f"{handling} cleared that bit with its chunk, and the pending bit too"
            elif self.early:
                how += (
                    f"{self.clearing} cleared that bit with its chunk, after {handling} had "
                    "cleared the pending bit"
                )
            else:
                how += (
                    f"{self.clearing} cleared that bit with its chunk, and {handling} the pending "
                    "bit"
                )
        return f"{begin}{how}: {ending}"
