"""The knobs of a replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from replay.course import Course
from replay.dirty_limit import DirtyLimit
from replay.link import SECOND_NS
from replay.qemu_version import (
    DIRTY_LIMIT,
    WITH_SWITCHOVER_BANDWIDTH,
    Loop,
    QemuVersion,
    loop_of,
)
from replay.strategies import Hold, Strategy
from replay.throttle import AutoConverge
from tracer.errors import UsageError
from tracer.format import Meta
from tracer.words import rate, setting, size

Profile = Literal["rounds", "qemu"]
LogMode = Literal["legacy", "manual"]
AtEnd = Literal["stop", "loop", "continue"]

#: A trace is repeated or continued at most to so many times its length.
LONGEST = 100

_MAX_BANDWIDTH = 1 << 61
_MAX_NS = 1 << 61


@dataclass(frozen=True)
class Parameters:
    """What a migration is run with (the model, sections 2, 3 and 5).

    bandwidth: bytes/s on the wire. downtime_limit_ns: switch over when what is pending fits in.
    clear_chunk: pages a chunk of the clear bitmap. hint_clears_log: a handled report clears the
    log of the chunks it names (QEMU 6.1 and later). request: overrides a strategy's request
    axis. The delays lead from request to snapshot to arrival in the queue to handling, in ns.
    seed: of what scenario `expected` draws.
    scenarios: which to replay besides the leading one, None for all.
    guest_hold: "auto" takes the strategy's own. min_order: reports name aligned, wholly free
    blocks of 2^min_order pages. max_rounds: None for no limit. at_end: what to do when the trace
    is exhausted: end the replay, repeat the trace, or go on as the trace's working set did (drawn;
    scenarios `recorded` and `saturated` repeat it then).

    Profile `qemu` alone: bandwidth is max-bandwidth; line_rate (bytes/s) is how fast a window's
    budget is sent, zero_page_ns what finding a page to be zero takes, wake_ns how late the sender
    wakes from its sleep, stop_ns what the switchover takes besides what is sent in it; device_bytes
    follow the last page at line_rate: the devices' state (measured on QEMU 7.2, `analyses.line`).
    qemu: whose loop it is (`replay.qemu_version`), None for that of the version which recorded the
    trace (`loop`). switchover_bandwidth: avail-switchover-bandwidth (bytes/s), by which it is told
    whether what is pending fits into the downtime limit, instead of the measured bandwidth; None
    for not set.
    auto_converge, dirty_limit: None for not holding the guest back; one of them at a time.
    sync_waits: a sync is over when every vCPU has come by, so that it waits for throttled ones
    (TCG; under KVM it does not). guest_load: percent of its vCPUs' time that the guest's work
    takes; what holds it back slows it only where less is left (`replay.pacing`).
    lost_ns: for how long, beside wake_ns, the host keeps the sender waiting after its sleeps, one
    after the other, and from the first again. course: when the host let the sender and the vCPUs
    run, where that is known (`replay.course`).

    Raises UsageError for values that make no sense.
    """

    bandwidth: int = 1_250_000_000
    downtime_limit_ns: int = 300_000_000
    profile: Profile = "rounds"
    log_mode: LogMode = "legacy"
    clear_chunk: int = 1 << 18
    hint_clears_log: bool = True
    request: str | None = None
    request_delay_ns: int = 1_000_000
    report_delay_ns: int = 10_000_000
    handle_delay_ns: int = 1_000_000
    hint_interval_ns: int = 100_000_000
    guest_hold: Hold | Literal["auto"] = "auto"
    min_order: int = 0
    max_rounds: int | None = None
    at_end: AtEnd = "stop"
    line_rate: int = 1_280_000_000
    zero_page_ns: int = 200
    wake_ns: int = 100_000
    stop_ns: int = 2_000_000
    device_bytes: int = 196_608
    qemu: QemuVersion | None = None
    switchover_bandwidth: int | None = None
    auto_converge: AutoConverge | None = None
    dirty_limit: DirtyLimit | None = None
    sync_waits: bool = False
    guest_load: int = 100
    lost_ns: tuple[int, ...] = ()
    course: Course | None = None
    seed: int = 0
    scenarios: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _within("bandwidth", self.bandwidth, 1, _MAX_BANDWIDTH, rate)
        _within("downtime limit", self.downtime_limit_ns, 0, _MAX_NS, setting)
        _within("clear chunk", self.clear_chunk, 1, 1 << 40, _pages)
        _within("request delay", self.request_delay_ns, 0, _MAX_NS, setting)
        _within("report delay", self.report_delay_ns, 0, _MAX_NS, setting)
        _within("handle delay", self.handle_delay_ns, 0, _MAX_NS, setting)
        _within("hint interval", self.hint_interval_ns, 1, _MAX_NS, setting)
        _within("min order", self.min_order, 0, 40, str)
        _within("line rate", self.line_rate, 1, _MAX_BANDWIDTH, rate)
        _within("zero page cost", self.zero_page_ns, 0, _MAX_NS, setting)
        _within("wake-up delay", self.wake_ns, 0, _MAX_NS, setting)
        _within("stop time", self.stop_ns, 0, _MAX_NS, setting)
        _within("device state", self.device_bytes, 0, _MAX_BANDWIDTH, size)
        state_ns = self.device_bytes * SECOND_NS // self.line_rate
        _within("device state at this line rate", state_ns, 0, _MAX_NS, setting)
        _within("guest load", self.guest_load, 1, 100, _percent)
        if self.switchover_bandwidth is not None:
            _within(
                "avail-switchover-bandwidth", self.switchover_bandwidth, 1, _MAX_BANDWIDTH, rate
            )
            if self.qemu is not None and not self.qemu.takes_switchover_bandwidth:
                raise UsageError(
                    f"avail-switchover-bandwidth: QEMU {self.qemu} has no such parameter, it came "
                    f"with {WITH_SWITCHOVER_BANDWIDTH}; name a QEMU from "
                    f"{WITH_SWITCHOVER_BANDWIDTH} on, or none"
                )
        _within("seed", self.seed, 0, 1 << 62, str)
        if self.max_rounds is not None:
            _within("max rounds", self.max_rounds, 1, _MAX_NS, str)
        if self.auto_converge is not None and self.dirty_limit is not None:
            raise UsageError("auto-converge and dirty-limit: QEMU takes one of them at a time")
        if self.dirty_limit is not None and self.qemu is not None and self.qemu < DIRTY_LIMIT:
            raise UsageError(
                f"dirty-limit: QEMU {self.qemu} has no such capability, it came with {DIRTY_LIMIT};"
                f" name a QEMU from {DIRTY_LIMIT} on, or none"
            )

    def loop(self, meta: Meta) -> Loop:
        """Return whose loop profile `qemu` takes for a trace."""
        return loop_of(
            meta.source,
            self.qemu,
            dirty_limit=self.dirty_limit is not None,
            switchover=self.switchover_bandwidth is not None,
        )

    def resolved(self, meta: Meta) -> Parameters:
        """Return them with nothing left to the trace to say."""
        return self if self.profile != "qemu" else replace(self, qemu=self.loop(meta).version)

    @property
    def holds_back(self) -> bool:
        """Whether a guest that is ahead is held back."""
        return self.auto_converge is not None or self.dirty_limit is not None

    def hold(self, strategy: Strategy) -> Hold:
        """Return the guest hold that applies to the strategy."""
        return strategy.hold if self.guest_hold == "auto" else self.guest_hold


def _pages(number: int) -> str:
    return f"{number:,} pages"


def _percent(number: int) -> str:
    return f"{number} %"


def _within(name: str, value: int, low: int, high: int, said: Callable[[int], str]) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} {said(value)}: wanted {said(low)} to {said(high)}")
