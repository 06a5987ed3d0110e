"""Free-list reports on their way, and what the host does about them (the model, sections 5, 6).

`Hinting` knows no clock and no bitmap: it drives a strategy's policies through the life of each
report and asks a `Host` for the deeds. A replay calls it when the times come; a search over
interleavings may call it in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol

from replay.policies import Fate
from replay.reported import SomeWords
from replay.strategies import Strategy
from tracer.errors import FloodError
from tracer.rows import Int64s

#: More reports than this in one replay, or outstanding or asked for at one instant, are refused:
#: a policy that asks without end would take all time and memory. (QEMU's largest virtqueue holds
#: 1024 elements.)
MOST_REPORTS = 1_000_000
MOST_AT_ONCE = 4096


class Stage(IntEnum):
    """How far a report has come."""

    REQUESTED = 0
    SNAPSHOT = 1
    QUEUED = 2
    DONE = 3


@dataclass(eq=False)
class Report:
    """One free page report. Times are host ns since the migration's start, None if not yet.

    pages: in the guest's snapshot. skipped: pending bits that its handling cleared. conflicts:
    pages left out because the recorded guest took what it would have held. missed: pages that
    were lost right after its handling; missed_watched: those of them that are watched, as indexes
    into the watch list. changes: what it says that the one before did not. skips: the pages whose
    pending bits its handling cleared; both gone when it is done.
    """

    number: int
    requested_ns: int
    _host: Host = field(repr=False)
    _syncs: int
    stage: Stage = Stage.REQUESTED
    due_ns: int = 0
    snapshot_ns: int | None = None
    arrived_ns: int | None = None
    done_ns: int | None = None
    outcome: Literal["in-flight", "handled", "dropped"] = "in-flight"
    pages: int = 0
    skipped: int = 0
    conflicts: int = 0
    missed: int = 0
    missed_watched: Int64s | None = field(default=None, repr=False)
    changes: SomeWords | None = field(default=None, repr=False)
    skips: SomeWords | None = field(default=None, repr=False)
    row: int = 0

    @property
    def queued(self) -> bool:
        """Whether it lies in the virtqueue."""
        return self.stage == Stage.QUEUED

    @property
    def syncs_since_request(self) -> int:
        """How many syncs have happened since it was asked for."""
        return self._host.syncs - self._syncs


class Host(Protocol):
    """The deeds that hinting asks of a migration."""

    syncs: int

    def sync(self, now: int) -> None:
        """Harvest the dirty log."""

    def take_snapshot(self, report: Report, now: int) -> None:
        """Let the guest note its free pages."""

    def skip(self, report: Report, now: int) -> None:
        """Clear the pending bits of the report's pages."""

    def skipped(self, report: Report, now: int) -> None:
        """Look at what the handling (with its sync) has done."""

    def forget(self, report: Report) -> None:
        """The report is handled or dropped: let go of what it names."""

    def stop_guest(self, now: int) -> None:
        """Stop the vCPUs."""

    def run_guest(self, now: int) -> None:
        """Let the vCPUs run on."""


class Hinting:
    """All reports of one migration under one strategy.

    `reports` are all of them, `outstanding` those neither handled nor dropped, in the order of
    their requests. `asked` counts the requests that handled or dropped reports ask for and that
    the caller has yet to make.
    """

    def __init__(self, strategy: Strategy, host: Host):
        self._strategy = strategy
        self._host = host
        self.reports: list[Report] = []
        self.outstanding: list[Report] = []
        self.asked = 0
        self.done = 0

    def request(self, now: int) -> Report:
        """Ask the guest for a report; raises FloodError where that has no end."""
        made, waiting = len(self.reports), len(self.outstanding)
        if made >= MOST_AT_ONCE and (
            made >= MOST_REPORTS
            or waiting >= MOST_AT_ONCE
            or self.reports[-MOST_AT_ONCE].requested_ns == now
        ):
            raise FloodError(
                f"strategy {self._strategy.name} floods the guest: {made:,} reports asked for "
                f"within {now / 1_000_000:,.3f} ms, {waiting:,} of them outstanding; let it ask "
                "less often, or handle later (a longer --hint-interval where it goes by that)"
            )
        report = Report(len(self.reports), now, self._host, self._host.syncs)
        self.reports.append(report)
        self.outstanding.append(report)
        return report

    def snapshot(self, report: Report, now: int) -> None:
        """The guest looks at its free list."""
        report.stage, report.snapshot_ns = Stage.SNAPSHOT, now
        self._host.take_snapshot(report, now)
        if self._strategy.stop_guest:
            self._host.stop_guest(now)

    def arrive(self, report: Report, now: int) -> None:
        """The report reaches the virtqueue."""
        report.stage, report.arrived_ns = Stage.QUEUED, now

    def consume(self, report: Report, now: int) -> None:
        """The host comes to the report: it handles or drops it."""
        accept = self._strategy.accept
        assert accept is not None
        if accept.when_due(report) is Fate.DROP:
            self._finish(report, now, "dropped")
        else:
            self._handle(report, now)

    def regular_sync(self, now: int) -> None:
        """Do with the reports what the strategy does before a regular sync, and sync."""
        if self._strategy.accept is not None:
            arrivals = sorted(
                self.outstanding, key=lambda report: (not report.queued, report.arrived_ns or 0)
            )
            for report in arrivals:
                fate = self._strategy.accept.before_sync(report)
                if fate is Fate.HANDLE:
                    self._handle(report, now)
                elif fate is Fate.DROP:
                    self._finish(report, now, "dropped")
        self._host.sync(now)

    def _handle(self, report: Report, now: int) -> None:
        if self._strategy.sync == "before":
            self._host.sync(now)
        self._host.skip(report, now)
        if self._strategy.sync == "after":
            self._host.sync(now)
        self._host.skipped(report, now)
        self._finish(report, now, "handled")

    def _finish(self, report: Report, now: int, outcome: Literal["handled", "dropped"]) -> None:
        report.stage, report.done_ns, report.outcome = Stage.DONE, now, outcome
        self._host.forget(report)
        self.outstanding.remove(report)
        self.done += 1
        request = self._strategy.request
        if request is not None and request.when_done():
            self.asked += 1
        if self._strategy.stop_guest and not any(
            Stage.SNAPSHOT <= other.stage <= Stage.QUEUED for other in self.outstanding
        ):
            self._host.run_guest(now)
