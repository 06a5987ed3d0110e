"""The command line that does a replay."""

from __future__ import annotations

import shlex

from replay.dirty_limit import DirtyLimit
from replay.parameters import Parameters
from replay.strategies import Strategy
from replay.throttle import AutoConverge

_RATES = {
    "bandwidth": "--bandwidth",
    "line_rate": "--line-rate",
    "switchover_bandwidth": "--avail-switchover-bandwidth",
}
_TIMES = {
    "request_delay_ns": "--request-delay",
    "report_delay_ns": "--report-delay",
    "handle_delay_ns": "--handle-delay",
    "hint_interval_ns": "--hint-interval",
    "downtime_limit_ns": "--downtime-limit",
    "zero_page_ns": "--zero-page-time",
    "wake_ns": "--wake-up",
    "stop_ns": "--stop-time",
}
_WORDS = {
    "profile": "--profile",
    "qemu": "--qemu",
    "max_rounds": "--max-rounds",
    "log_mode": "--log-mode",
    "clear_chunk": "--clear-chunk",
    "guest_hold": "--guest-hold",
    "min_order": "--min-order",
    "request": "--request",
    "at_end": "--at-end",
    "guest_load": "--guest-load",
    "seed": "--seed",
}
_LIMIT = {"trigger": "--throttle-trigger", "vcpus": "--vcpus", "ring": "--dirty-ring"}


def replay_command(path: str, strategy: Strategy, parameters: Parameters) -> str:
    """Return `dirtylog replay` with what in `parameters` is not the default."""
    given, default = vars(parameters), vars(Parameters())
    words = ["dirtylog", "replay", path, "-s", strategy.argument]
    for name, option in _RATES.items():
        if given[name] != default[name]:
            words += [option, f"{given[name]}B/s"]
    if given["device_bytes"] != default["device_bytes"]:
        # 0 is the only size without a unit.
        size = given["device_bytes"]
        words += ["--device-state", f"{size}B" if size else "0"]
    for name, option in _TIMES.items():
        if given[name] != default[name]:
            words += [option, f"{given[name]}ns"]
    for name, option in _WORDS.items():
        if given[name] != default[name]:
            words += [option, str(given[name])]
    if not parameters.hint_clears_log:
        words.append("--no-hint-clears-log")
    words += _held_back(parameters)
    return shlex.join(words)


def _held_back(parameters: Parameters) -> list[str]:
    converge, limit = parameters.auto_converge, parameters.dirty_limit
    words = []
    if converge is not None:
        words.append("--auto-converge")
        for name in ("trigger", "initial", "increment", "maximum"):
            if getattr(converge, name) != getattr(AutoConverge(), name):
                words += [f"--throttle-{name}", str(getattr(converge, name))]
    if limit is not None:
        words += ["--dirty-limit", f"{limit.rate}MiB/s"]
        for name, option in _LIMIT.items():
            if getattr(limit, name) != getattr(DirtyLimit(), name):
                words += [option, str(getattr(limit, name))]
    return words
