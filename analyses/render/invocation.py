"""The command line that does a replay."""

from __future__ import annotations

import shlex

from replay.parameters import Parameters
from replay.strategies import Strategy

_TIMES = {
    "request_delay_ns": "--request-delay",
    "report_delay_ns": "--report-delay",
    "handle_delay_ns": "--handle-delay",
    "hint_interval_ns": "--hint-interval",
    "downtime_limit_ns": "--downtime-limit",
}
_WORDS = {
    "profile": "--profile",
    "max_rounds": "--max-rounds",
    "log_mode": "--log-mode",
    "clear_chunk": "--clear-chunk",
    "guest_hold": "--guest-hold",
    "min_order": "--min-order",
    "request": "--request",
    "at_end": "--at-end",
}


def replay_command(path: str, strategy: Strategy, parameters: Parameters) -> str:
    """Return `dirtylog replay` with what in `parameters` is not the default."""
    given, default = vars(parameters), vars(Parameters())
    words = ["dirtylog", "replay", path, "-s", strategy.argument]
    if given["bandwidth"] != default["bandwidth"]:
        words += ["--bandwidth", f"{parameters.bandwidth}B/s"]
    for name, option in _TIMES.items():
        if given[name] != default[name]:
            words += [option, f"{given[name]}ns"]
    for name, option in _WORDS.items():
        if given[name] != default[name]:
            words += [option, str(given[name])]
    if not parameters.hint_clears_log:
        words.append("--no-hint-clears-log")
    return shlex.join(words)
