"""What a request policy and an accept policy answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol


class Fate(Enum):
    """What becomes of a report."""

    KEEP = "keep"
    HANDLE = "handle"
    DROP = "drop"


class ReportView(Protocol):
    """What a policy may know of a report. Times are host ns since the migration's start."""

    @property
    def requested_ns(self) -> int:
        """When the host asked for it."""

    @property
    def queued(self) -> bool:
        """Whether it lies in the virtqueue: arrived, not handled."""

    @property
    def syncs_since_request(self) -> int:
        """How many syncs of either kind have happened since it was asked for."""


@dataclass(frozen=True)
class View:
    """A report as a policy sees it, and nothing else of it."""

    requested_ns: int
    queued: bool
    syncs_since_request: int


class Policy:
    """A policy is a pure function of what it is given: it is asked in any order, and again.

    name: as reports show it, the class's own name unless it says another.
    """

    name: str

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__


class Request(Policy):
    """When a report is asked for. One is always asked for at the start. Times are host ns."""

    def at_sync(self) -> bool:
        """Whether a regular sync (but the stopping one) asks for a report."""
        return False

    def when_done(self) -> bool:
        """Whether handling or dropping a report asks for the next."""
        return False

    def next_tick(self, now: int, interval_ns: int) -> int | None:  # noqa: ARG002
        """Return the first host instant after `now` at which a report is asked for.

        None for never again. `interval_ns` is the user's `--hint-interval`.
        """
        return None

    def handling_time(self, due: int, interval_ns: int) -> int:  # noqa: ARG002
        """Return when a report is handled whose handling is due at `due`: then or later."""
        return due


class Accept(Policy):
    """What becomes of a report."""

    def before_sync(self, report: ReportView) -> Fate:  # noqa: ARG002
        """Say what a regular sync does with an outstanding report before it harvests.

        HANDLE only what is queued.
        """
        return Fate.KEEP

    def when_due(self, report: ReportView) -> Fate:  # noqa: ARG002
        """Say, when the report's handling is due, whether to HANDLE or DROP it."""
        return Fate.HANDLE
