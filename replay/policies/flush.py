"""Return queued reports unread with each sync."""

from replay.policies.base import Accept, Fate, ReportView


class Flush(Accept):
    """Drop the reports that lie in the queue before each regular sync."""

    name = "flush"

    def before_sync(self, report: ReportView) -> Fate:
        """Drop what is queued; what is still on its way straddles the sync."""
        return Fate.DROP if report.queued else Fate.KEEP
