"""The nearest safe strategy: which one policy of an unsafe one to change, found by search.

A change is a repair if `interleavings` finds no loss in any order of steps, within its bound, under
the log mode and the guest hold at hand. What it costs is for a replay to say (`analyses.price`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from analyses.interleavings import Bounds, Search, Setting
from replay.policies import ACCEPTS, REQUESTS
from tracer.errors import UsageError

#: Changes to a setting are searched up to so many at once.
MOST_CHANGES = 2

#: Told how far a search is: changes tried, changes in all.
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Change:
    """One axis of a composition (the model, section 6) with another value.

    axis: start, request, accept, sync, drain, guest, hold or log.
    """

    axis: str
    before: str
    after: str

    def to_dict(self) -> dict[str, str]:
        """Return it as JSON takes it."""
        return {"axis": self.axis, "from": self.before, "to": self.after}


@dataclass(frozen=True)
class Repair:
    """A setting that loses nothing, and how it differs. states: searched for the proof."""

    changes: tuple[Change, ...]
    setting: Setting
    states: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {"changes": [change.to_dict() for change in self.changes], "states": self.states}


@dataclass(frozen=True)
class Repairs:
    """What a search has found: all repairs with the fewest changes.

    distance: changes in each, or the most that were tried where there is none. undecided: settings
    that the bound on states or the policies' looks at the clock kept from being searched.
    """

    found: tuple[Repair, ...]
    distance: int
    undecided: int


def repairs(setting: Setting, bounds: Bounds, tell: Tell | None = None) -> Repairs:
    """Return the settings nearest to an unsafe one in which no write is lost."""
    singles = list(_changes(setting))
    undecided = 0
    for distance in range(1, MOST_CHANGES + 1):
        tried = [
            chosen
            for chosen in combinations(singles, distance)
            if len({change.axis for change, _ in chosen}) == distance
        ]
        found = []
        for number, chosen in enumerate(tried):
            if tell is not None:
                tell(number, len(tried))
            try:
                changed = _changed(setting, chosen)
                states = None if changed is None else proved(changed, bounds)
            except UsageError:
                undecided += 1
                continue
            if changed is not None and states is not None:
                found.append(Repair(tuple(change for change, _ in chosen), changed, states))
        if found:
            return Repairs(tuple(found), distance, undecided)
    return Repairs((), MOST_CHANGES, undecided)


def proved(setting: Setting, bounds: Bounds) -> int | None:
    """Return how many states were searched without a loss, None if there is one.

    Raises UsageError where the bounds do not allow to decide it.
    """
    states = 0
    for pages in range(1, bounds.pages + 1):
        search = Search(setting, bounds, pages)
        if next(search.losses(), None) is not None:
            return None
        states += search.states
    return states


_Single = tuple[Change, dict[str, Any]]


def _changes(setting: Setting) -> Iterator[_Single]:
    """Yield every change of one axis, the host's first, and the fields it sets."""
    strategy = setting.strategy
    if strategy.request is None or strategy.accept is None:
        return
    for name, accept in ACCEPTS.items():
        if name != strategy.accept.name:
            yield Change("accept", strategy.accept.name, name), {"accept": accept()}
    for sync in ("none", "before", "after"):
        if sync != strategy.sync:
            yield Change("sync", strategy.sync, sync), {"sync": sync}
    yield (
        Change("drain", _yes(strategy.drain), _yes(not strategy.drain)),
        {"drain": not strategy.drain},
    )
    start = "eager" if strategy.start == "wait" else "wait"
    yield Change("start", strategy.start, start), {"start": start}
    for name, request in REQUESTS.items():
        if name != strategy.request.name:
            yield Change("request", strategy.request.name, name), {"request": request()}
    guest = {False: "runs", True: "stopped"}
    stop = not strategy.stop_guest
    yield Change("guest", guest[not stop], guest[stop]), {"stop_guest": stop}
    if setting.log_mode == "manual" and not setting.hint_clears_log:
        yield Change("log", "left", "cleared"), {"hint_clears_log": True}
    for hold in ("none", "ack", "done"):
        if hold != setting.hold:
            yield Change("hold", setting.hold, hold), {"hold": hold}


def _changed(setting: Setting, chosen: tuple[_Single, ...]) -> Setting | None:
    """Return the setting with the changes made, None for a composition that cannot end."""
    fields = {name: value for _, one in chosen for name, value in one.items()}
    own = {name: fields.pop(name) for name in ("hold", "hint_clears_log") if name in fields}
    try:
        return replace(setting, strategy=replace(setting.strategy, **fields), **own)
    except UsageError:
        return None


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
