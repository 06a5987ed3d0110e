"""Handle queued reports before each sync."""

from replay.policies.base import Accept, Fate, ReportView


class FlushBefore(Accept):
    """Handle the reports that lie in the queue, in order of arrival, before each regular sync."""

    name = "flush-before"

    def before_sync(self, report: ReportView) -> Fate:
        """Handle what is queued; what is still on its way straddles the sync."""
        return Fate.HANDLE if report.queued else Fate.KEEP
