"""Auto-converge: taking time from the vCPUs where a migration makes no progress.

What QEMU does (migration/ram.c, migration_trigger_throttle and mig_throttle_guest_down;
cpu-throttle.c), from 9.2 on with syncs of its own where a pass takes long.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: A throttled vCPU runs for a slice of 10 ms, then sleeps (CPU_THROTTLE_TIMESLICE_NS).
TIMESLICE_NS = 10_000_000
#: Syncs count towards the trigger when a period is longer than this.
_PERIOD_MS = 1000
#: How often the timer looks whether there was a sync (CPU_THROTTLE_DIRTY_SYNC_TIMESLICE_MS).
_SYNC_EVERY_MS = 5000


@dataclass(frozen=True)
class AutoConverge:
    """QEMU's migration parameters: throttle-trigger-threshold, cpu-throttle-*, max-cpu-throttle.

    All in percent. trigger: how much of the bytes sent in a period may be dirtied again.
    """

    trigger: int = 50
    initial: int = 20
    increment: int = 10
    maximum: int = 99
    tailslow: bool = False


class Trigger:
    """Follows the syncs of a migration and says when it makes too little progress.

    That is the second period in which more was dirtied than `percent` of what was sent, and each
    second one after it (migration_trigger_throttle). Times are whole ms of the host.
    """

    def __init__(self, percent: int, now_ms: int):
        self._percent = percent
        self._period_ms = now_ms
        self._dirtied_before = self._sent_before = 0
        self._high = 0

    def synced(self, now_ms: int, dirtied: int, sent: int) -> tuple[int, int] | None:
        """Take down a sync that is over; if it triggers, what the period dirtied, and might have.

        dirtied: bytes of the pages that syncs have made pending. sent: bytes sent. Both since the
        migration began; those returned are bytes too.
        """
        if now_ms <= self._period_ms + _PERIOD_MS:
            return None
        allowed = (sent - self._sent_before) * self._percent // 100
        again = dirtied - self._dirtied_before
        self._period_ms, self._sent_before, self._dirtied_before = now_ms, sent, dirtied
        if again <= allowed:
            return None
        self._high = (self._high + 1) % 2
        return None if self._high else (again, allowed)


class Throttle:
    """Follows the syncs of a migration and says when to slow the guest, and how much.

    percent: what is taken from the vCPUs now.
    """

    def __init__(self, settings: AutoConverge, now_ms: int):
        self.percent = 0
        self._settings = settings
        self._trigger = Trigger(settings.trigger, now_ms)

    def synced(self, now_ms: int, dirtied: int, sent: int) -> bool:
        """Take down a sync as `Trigger` does; return whether the throttle has changed."""
        triggered = self._trigger.synced(now_ms, dirtied, sent)
        if triggered is None:
            return False
        self.percent, before = self._next(*triggered), self.percent
        return self.percent != before

    def _next(self, dirtied: int, allowed: int) -> int:
        settings = self._settings
        if not self.percent:
            return settings.initial
        step = settings.increment
        if settings.tailslow:
            # The share of its time with which the guest would dirty just what is allowed.
            left = 100 - self.percent
            step = min(left - left * allowed // dirtied, step)
        return min(self.percent + step, settings.maximum)


class SyncTimer:
    """The timer of QEMU 9.2 and later that makes a sync where there was none since it last ticked.

    (cpu_throttle_dirty_sync_timer_tick.) due_ms: when it ticks next, None while its sync is under
    way. ending: the host ns at which that is over, None if there is none.
    """

    def __init__(self) -> None:
        self.due_ms: int | None = _SYNC_EVERY_MS
        self.ending: int | None = None
        self._seen = 0

    def wants(self, syncs: int) -> bool:
        """Tick, after so many syncs; return whether to make one, else it is set anew."""
        assert self.due_ms is not None
        # The first pass copies everything anyway.
        if syncs > 1 and syncs == self._seen:
            self.due_ms = None
            return True
        self.set(self.due_ms, syncs)
        return False

    def set(self, now_ms: int, syncs: int) -> None:
        """Let it tick next, after so many syncs by now."""
        self.due_ms, self.ending, self._seen = now_ms + _SYNC_EVERY_MS, None, syncs


def pace(percent: int, load: int) -> int:
    """Return how fast, in percent, a guest works that needs `load` percent of its vCPUs' time."""
    return min(100, (100 - percent) * 100 // load)


def sleep_left(steps: Sequence[tuple[int, int]], now: int, wakes: Sequence[int] = ()) -> int:
    """Return the ns that a throttled vCPU still sleeps; steps: (host ns, percent) up to `now`.

    A timer ticks at once when the guest is first throttled, and then after a slice and what goes
    with it at the percentage of that moment; a new percentage does not move the next tick. Each
    tick sends the vCPU to sleep (cpu_throttle_set, cpu_throttle_timer_tick, cpu_throttle_thread).
    wakes: moments (host ns, ascending) at which a vCPU is known to have woken; ticks are late by
    what keeps QEMU's main loop, so they are counted from the last of these.
    """
    asleep = _sleep_ns(steps[-1][1])
    after = bisect_right(wakes, now)
    if after < len(wakes) and wakes[after] - asleep <= now:
        return wakes[after] - now
    tick = steps[0][0]
    if after:
        # It runs for a slice before the next tick.
        tick = max(tick, wakes[after - 1] + TIMESLICE_NS)
    last, asleep = now, 0
    for (_, percent), (until, _) in pairwise((*steps, (now + 1, 0))):
        period = TIMESLICE_NS * 100 // (100 - percent)
        if tick < until:
            ticks = -(-(until - tick) // period)
            last, asleep = tick + (ticks - 1) * period, _sleep_ns(percent)
            tick += ticks * period
    return max(last + asleep - now, 0)


def _sleep_ns(percent: int) -> int:
    """Return for how long a tick sends a vCPU to sleep."""
    return TIMESLICE_NS * percent // (100 - percent)
