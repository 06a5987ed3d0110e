"""The guest resubmits when the host has consumed."""

from replay.policies.base import Request


class Resubmit(Request):
    """A report at the start and whenever the one before is handled or dropped.

    The handler runs on host ticks, so a handling waits for the first multiple of the interval
    after its time.
    """

    name = "resubmit"

    def when_done(self) -> bool:
        """Ask."""
        return True

    def handling_time(self, due: int, interval_ns: int) -> int:
        """Return the first tick after `due`."""
        return (due // interval_ns + 1) * interval_ns
