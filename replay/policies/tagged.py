"""Reports carry a command id that a sync retires."""

from replay.policies.base import Accept, Fate, ReportView


class Tagged(Accept):
    """Drop at each regular sync all reports that were asked for before it, queued or not."""

    name = "tagged"

    def before_sync(self, report: ReportView) -> Fate:  # noqa: ARG002
        """Retire it."""
        return Fate.DROP
