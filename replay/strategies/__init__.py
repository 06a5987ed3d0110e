"""The named strategies, one file each, found by name.

Installed packages add theirs through the entry point group `dirtylog.strategies`, and a user's own
file is named with what it defines: `FILE.py:NAME`. Both are `Strategy` objects or policies
(`replay.strategies.loading`).
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module

from replay.strategies.base import Hold, Strategy
from replay.strategies.loading import from_file, installed, names_a_file
from tracer.errors import UsageError

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
    """Return every strategy that has a name of its own, the built-in ones first.

    Raises UsageError where an installed one cannot be loaded or has a name that is taken.
    """
    found = {name: _built_in(name) for name in _BUILT_IN}
    for strategy in installed():
        if strategy.name in found:
            raise UsageError(
                f"two strategies are named {strategy.name!r}; rename the installed one"
            )
        found[strategy.name] = strategy
    return found


def strategy(name: str) -> Strategy:
    """Return the strategy of that name, or the one that a user's file defines: `FILE.py:NAME`.

    A file is run. Raises UsageError with the nearest names, or with the line of the user's file at
    which it went wrong.
    """
    if names_a_file(name):
        own = from_file(name)
        if own.name in _BUILT_IN and own != _built_in(own.name):
            raise UsageError(f"{name}: {own.name!r} is the name of another strategy; rename yours")
        return own
    if name in _BUILT_IN:
        return _built_in(name)
    known = registered()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"known: {', '.join(known)}, and FILE.py:NAME of your own"
        )
        raise UsageError(f"no strategy is named {name!r}; {hint}")
    return known[name]


def _built_in(name: str) -> Strategy:
    found: Strategy = import_module(f"replay.strategies.{name.replace('-', '_')}").STRATEGY
    return found


__all__ = ["Hold", "Strategy", "registered", "strategy"]
