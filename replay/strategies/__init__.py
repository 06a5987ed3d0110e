"""The named strategies, one file each, found by name.

Installed packages add theirs through the entry point group `dirtylog.strategies`, whose entries
are `Strategy` objects.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from replay.strategies.base import Hold, Strategy
from tracer.errors import UsageError

ENTRY_POINTS = "dirtylog.strategies"

#: In the order of the model's table, section 6.
_BUILT_IN = (
    "precopy",
    "hint-wait",
    "hint-async",
    "hint-first-pass",
    "hint-drain",
    "hint-stop-vcpu",
    "hint-flush-before",
    "hint-flush",
    "hint-periodic",
    "hint-resubmit",
    "hint-tagged",
)


@cache
def registered() -> dict[str, Strategy]:
    """Return every strategy by name, the built-in ones first."""
    found = {}
    for name in _BUILT_IN:
        module = import_module(f"replay.strategies.{name.replace('-', '_')}")
        found[name] = module.STRATEGY
    for strategy in _installed():
        if strategy.name in found:
            raise UsageError(
                f"two strategies are named {strategy.name!r}; rename the installed one"
            )
        found[strategy.name] = strategy
    return found


def strategy(name: str) -> Strategy:
    """Return the strategy of that name; raises UsageError with the nearest names."""
    known = registered()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise UsageError(f"no strategy is named {name!r}; {hint}")
    return known[name]


def _installed() -> Iterator[Strategy]:
    for entry in entry_points(group=ENTRY_POINTS):
        found = entry.load()
        if not isinstance(found, Strategy):
            raise UsageError(f"entry point {entry.name} = {entry.value} is no Strategy")
        yield found


__all__ = ["Hold", "Strategy", "registered", "strategy"]
