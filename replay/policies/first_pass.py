"""Ignore an answer that comes back after the first pass."""

from replay.policies.base import Accept, Fate, ReportView


class FirstPass(Accept):
    """Drop a report if a sync has happened since it was asked for."""

    name = "first-pass"

    def when_due(self, report: ReportView) -> Fate:
        """Look back for a sync."""
        return Fate.DROP if report.syncs_since_request else Fate.HANDLE
