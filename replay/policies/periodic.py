"""Ask at fixed times."""

from replay.policies.base import Request


class Periodic(Request):
    """A report at the start and at every multiple of the interval (host clock)."""

    name = "periodic"

    def next_tick(self, now: int, interval_ns: int) -> int:
        """Return the first multiple of the interval after `now`."""
        return (now // interval_ns + 1) * interval_ns
