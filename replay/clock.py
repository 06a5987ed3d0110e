"""The guest's clock: it stands still while the vCPUs are stopped, and is slowed by a throttle.

The model, section 2.
"""

from __future__ import annotations

import numpy as np

from replay import kernels as k
from tracer.rows import Int64s


class Clock:
    """Guest time as a function of host time; both start at 0.

    `segments` is the history: (host ns, guest ns, rate) from that host instant on, the rate in
    hundredths of host time.
    """

    def __init__(self) -> None:
        self.segments: list[tuple[int, int, int]] = [(0, 0, k.FULL_RATE)]
        self.stopped_ns = 0
        self._pace = k.FULL_RATE
        #: Whether the vCPUs are stopped, a throttle that takes all their time aside.
        self.stopped = False

    def guest(self, host: int) -> int:
        """Return the guest time at a host instant not before the last change of rate."""
        h0, g0, rate = self.segments[-1]
        return g0 + (host - h0) * rate // k.FULL_RATE

    def guest_at(self, host: int) -> int:
        """Return the guest time at any host instant up to now."""
        h0, g0, rate = next(segment for segment in reversed(self.segments) if segment[0] <= host)
        return g0 + (host - h0) * rate // k.FULL_RATE

    def host(self, guest: int) -> int | None:
        """Return the first host instant at which guest time will reach `guest`, None if never."""
        h0, g0, rate = self.segments[-1]
        if guest <= g0:
            return h0
        return None if rate == 0 else h0 + -(-(guest - g0) * k.FULL_RATE // rate)

    def stop(self, host: int) -> None:
        """Stop the vCPUs."""
        if not self.stopped:
            self.segments.append((host, self.guest(host), 0))
            self.stopped = True

    def run(self, host: int) -> None:
        """Let the vCPUs run on."""
        if self.stopped:
            h0, g0, _ = self.segments[-1]
            self.stopped_ns += host - h0
            self.segments.append((host, g0, self._pace))
            self.stopped = False

    def throttle(self, host: int, percent: int) -> None:
        """Take `percent` (0 to 100) of the vCPUs' time from them, from `host` on."""
        self._pace = k.FULL_RATE - percent
        if not self.stopped:
            self.segments.append((host, self.guest(host), self._pace))

    def account(self, host: int) -> int:
        """Return the ns that the vCPUs have been stopped up to `host`."""
        return self.stopped_ns + (host - self.segments[-1][0] if self.stopped else 0)

    def host_of(self, guest: Int64s) -> Int64s:
        """Return for each past guest time the host instant at which guest time reached it.

        `guest` is int64 ns > 0; so is what comes back.
        """
        running = [segment for segment in self.segments if segment[2]]
        h0, g0, rate = (np.array(column, np.int64) for column in zip(*running, strict=True))
        # The last running segment that begins before `guest` is the one that reaches it.
        at = np.maximum(np.searchsorted(g0, guest, side="left") - 1, 0)
        ahead = guest - g0[at]
        return h0[at] + -(-ahead * k.FULL_RATE // rate[at])

    def guest_of(self, host: Int64s) -> Int64s:
        """Return the guest times of past host instants, int64 ns."""
        h0, g0, rate = (np.array(column, np.int64) for column in zip(*self.segments, strict=True))
        at = np.maximum(np.searchsorted(h0, host, side="right") - 1, 0)
        return g0[at] + (host - h0[at]) * rate[at] // k.FULL_RATE
