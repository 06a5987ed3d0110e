"""Dirty-limit: holding back vCPUs that dirty memory faster than they may.

What QEMU does (10.2's migration/ram.c, migration_trigger_throttle and migration_dirty_limit_guest;
system/dirtylimit.c; the capability is newer than 7.2, the command set-vcpu-dirty-limit is not). A
thread counts, a period at a time, the pages that come through a vCPU's dirty ring; from that it
sets for how long the vCPU sleeps each time its ring is full. A ring is emptied, and its pages are
watched again, when it is full, at each period's end and at each sync. It stays in force to the
migration's end.

A period's end and a sync kick the vCPUs (kvm_cpu_synchronize_kick_all), so that every period begins
with an empty ring and a vCPU that runs: what it dirties is whole rings. Up to 8.1 the kick wakes a
vCPU that sleeps, and there is one ring more than sleeps; with sleeps of a good part of the period
that is far above the limit. From 8.2 on a vCPU sleeps to the end, and period and sync last as long;
the rate is still what was dirtied by the period's nominal length.

Assumed here: the vCPUs dirty alike, so that they have one rate and fall asleep together, and a ring
takes as long to fill as in the period before. A trace that hides rewrites shows too few entries.
"""

from __future__ import annotations

from dataclasses import dataclass

from replay.dirty_ring import DirtyRing
from replay.kernels import FOREVER
from replay.throttle import Trigger
from tracer.errors import UsageError
from tracer.trace import Trace

MS_NS, _US_NS = 1_000_000, 1000
_SECOND_US = 1_000_000
#: MiB/s by which a rate may miss the limit unheeded (DIRTYLIMIT_TOLERANCE_RANGE).
TOLERANCE = 25
#: Percent beyond which a step is as large as the miss (DIRTYLIMIT_LINEAR_ADJUSTMENT_PCT).
_LINEAR_PERCENT = 50
#: A sleep lasts at most so many times as long as the ring takes to fill.
_MOST_FILLS = 99
#: Fewer entries in a period do not say how fast a ring fills.
_ENOUGH = 32


@dataclass(frozen=True)
class DirtyLimit:
    """QEMU's vcpu-dirty-limit (MiB/s, for each vCPU) and x-vcpu-dirty-limit-period (ms).

    trigger: throttle-trigger-threshold, percent of the bytes sent in a period that may be dirtied
    again. vcpus: of the guest. ring: entries of a vCPU's ring, QEMU's dirty-ring-size. reserved: of
    these, how many are free when the ring counts as full (KVM_DIRTY_RING_RSVD_ENTRIES; where the
    processor logs pages itself, Intel's PML, it is 512 more).

    Raises UsageError for what QEMU does not take.
    """

    rate: int = 1
    period_ms: int = 1000
    trigger: int = 50
    vcpus: int = 1
    ring: int = 4096
    reserved: int = 64

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("rate", self.rate, 1, 1 << 40),
            ("period", self.period_ms, 1, 1000),
            ("trigger", self.trigger, 1, 100),
            ("vCPUs", self.vcpus, 1, 1 << 16),
            ("ring", self.ring, 1, 1 << 16),
        ):
            if not low <= value <= high:
                raise UsageError(f"dirty limit's {name} {value}: wanted {low} to {high}")
        if self.ring & (self.ring - 1):
            raise UsageError(f"dirty limit's ring {self.ring}: wanted a power of two")
        if not 0 <= self.reserved < self.ring:
            raise UsageError(
                f"dirty limit's ring {self.ring}: wanted more than the {self.reserved} entries "
                "that KVM keeps free"
            )


class Sleep:
    """For how long a vCPU sleeps when its ring is full: `us`, adjusted once a period."""

    def __init__(self, limit: int, ring_mib: int):
        self.us = 0
        self._limit, self._ring_mib = limit, ring_mib
        self._highest = 0

    def adjust(self, rate: int) -> None:
        """Take down the rate (MiB/s) of the period that is over (dirtylimit_adjust_throttle)."""
        limit = self._limit
        if abs(limit - rate) <= TOLERANCE:
            return
        if not rate:
            self.us = 0
            return
        self._highest = max(self._highest, rate)
        fill = self._ring_mib * _SECOND_US // self._highest
        high, low = max(limit, rate), min(limit, rate)
        percent = (high - low) * 100 // high
        # Far off, by the share of time that would cut the higher rate to the lower; else a tenth.
        step = fill // 10 if percent <= _LINEAR_PERCENT else fill * percent // (100 - percent)
        self.us += step if rate > limit else -step
        self.us = max(min(self.us, fill * _MOST_FILLS), 0)


class Limiter:
    """Follows a migration and says when the guest runs.

    load: percent of its vCPUs' time that the guest's work takes. sleeps_out: whether a vCPU that
    is kicked sleeps on (`replay.qemu_version`). awake: whether the vCPUs run. held: for how much
    of the time they sleep that it takes to fill a ring and sleep, in percent.
    """

    def __init__(
        self, settings: DirtyLimit, trace: Trace, passes: int, load: int, *, sleeps_out: bool
    ):
        self.awake, self.held = True, 0
        self._settings, self._page_size, self._load = settings, trace.meta.page_size, load
        self._sleeps_out = sleeps_out
        self._sleep = Sleep(settings.rate, settings.ring * self._page_size >> 20)
        usable = settings.ring - settings.reserved
        self._ring = DirtyRing(trace, passes, usable * settings.vcpus)
        self._trigger = Trigger(settings.trigger, 0)
        self._period_ns = settings.period_ms * MS_NS
        #: Host ns at which the period under way is over but for a vCPU that sleeps, and at which
        #: the vCPUs fall asleep or wake.
        self._period_end = self._turn = FOREVER
        self._guest = 0
        #: Guest ns in which a ring fills.
        self._fill = 0

    @property
    def next_due(self) -> int:
        """Host ns at which `settle` is due."""
        return min(self._turn, self.next_tick)

    @property
    def next_tick(self) -> int:
        """Host ns at which the period under way ends."""
        end = self._period_end
        return end if end == FOREVER else end + self.asleep_for(end)

    def asleep_for(self, now: int) -> int:
        """Return for how many ns a vCPU sleeps on that is kicked then, in host ns."""
        runs, sleeps = self._cycle()
        if not self._sleeps_out or self._turn == FOREVER:
            return 0
        woke = self._turn - (runs if self.awake else runs + sleeps)
        since = (now - woke) % (runs + sleeps)
        return 0 if since < runs else runs + sleeps - since

    def synced(self, now: int, guest: int, dirtied: int, sent: int) -> None:
        """Take down a sync that is over, at host and guest ns; bytes as `Trigger` takes them."""
        if self._period_end < FOREVER:
            self._ring.harvest(guest)
            self._run(now)
        elif self._trigger.synced(now // MS_NS, dirtied, sent):
            self.start(now, guest)

    def start(self, now: int, guest: int) -> None:
        """Begin to limit, at host and guest ns (set-vcpu-dirty-limit)."""
        self._ring.begin(guest)
        self._begin(now, guest)

    def settle(self, now: int, guest: int) -> None:
        """Do what is due at host and guest ns."""
        if now < self.next_tick:
            self.awake = not self.awake
            self._turn += self._cycle()[0 if self.awake else 1]
            return
        settings = self._settings
        self._ring.harvest(guest)
        entries, ran = self._ring.taken(), guest - self._guest
        mib = entries // settings.vcpus * 1000 * self._page_size >> 20
        self._sleep.adjust(mib // settings.period_ms)
        if entries >= _ENOUGH or (entries and not self._fill):
            self._fill = ran * self._ring.size // entries
        self._begin(now, guest)
        runs, sleeps = self._cycle()
        self.held = sleeps * 100 // (runs + sleeps) if sleeps else 0

    def _begin(self, now: int, guest: int) -> None:
        self._period_end, self._guest = now + self._period_ns, guest
        self._run(now)

    def _run(self, now: int) -> None:
        """Let the vCPUs run from now on, their rings empty."""
        runs, sleeps = self._cycle()
        self.awake, self._turn = True, now + runs if sleeps else FOREVER

    def _cycle(self) -> tuple[int, int]:
        """Return for how many ns the vCPUs run at their usual pace, and then sleep.

        A guest with a smaller load makes up for some of the sleep.
        """
        busy, asleep = self._fill * self._load // 100, self._sleep.us * _US_NS
        # A ring that is emptied before it is full lets nothing sleep.
        if not asleep or busy >= self._period_ns:
            return self._fill, 0
        return self._fill, max(busy + asleep - self._fill, 0)
