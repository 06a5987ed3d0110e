"""Whether a strategy can lose a write: proved within a bound, or refuted with the shortest story.

`interleavings` searches, `enactment` puts what it finds on the clock and has a replay judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

from analyses.counterexample import cause, story
from analyses.enactment import Enactment, enact
from analyses.interleavings import (
    BYTES_PER_STATE,
    Bounds,
    Course,
    FullError,
    Search,
    Setting,
)
from analyses.story import Story
from replay.strategies import strategy
from tracer.errors import UsageError

#: So many losing courses of one guest size are tried for one that constant delays can bring about.
_COURSES = 12

#: Told how far it is: what is being searched, states so far, states expected.
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Proof:
    """What a search has found.

    pages: of the largest guest searched. states, depth: visited in all guests, and steps to the
    farthest. switchovers: how many of the states end a course. complete: no bound on steps cut a
    course short. course: a shortest one that loses a
    page, of the smallest guest; None if there is none. enactment: its replay; None if no constant
    delays lead to the course.
    """

    setting: Setting
    bounds: Bounds
    guest_runs: bool
    pages: int
    states: int
    depth: int
    switchovers: int
    complete: bool
    course: Course | None = None
    enactment: Enactment | None = None

    @property
    def verdict(self) -> Literal["proved", "refuted", "undecided"]:
        """The answer; what was cut short, or ends nowhere, proves nothing."""
        if self.course is not None:
            return "refuted"
        return "proved" if self.complete and self.switchovers else "undecided"

    @property
    def story(self) -> Story | None:
        """The counterexample, None if there is none."""
        return None if self.course is None else story(self.course)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        setting = self.setting
        request = setting.strategy.request
        told = self.story
        return {
            "strategy": setting.strategy.name,
            "request": None if request is None else request.name,
            "log_mode": setting.log_mode,
            "guest_hold": setting.hold,
            "hint_clears_log": setting.hint_clears_log,
            "guest_runs": self.guest_runs,
            "verdict": self.verdict,
            "pages": self.pages,
            "reports": self.bounds.reports,
            "steps": self.bounds.steps,
            "states": self.states,
            "depth": self.depth,
            "switchovers": self.switchovers,
            "complete": self.complete,
            "lost": [] if self.course is None else list(self.course.lost_pages),
            "kind": None if self.course is None else cause(self.course).kind,
            "cause": None if told is None else told.cause,
            "events": [] if told is None else [event.to_dict() for event in told.events],
            "replayed": None if self.enactment is None else list(self.enactment.lost),
            "parameters": None if self.enactment is None else asdict(self.enactment.parameters),
        }


def setting_of(name: str, request: str | None = None, *, guest_runs: bool = False) -> Setting:
    """Return the setting of a strategy by name, everything else by default.

    guest_runs: even where the strategy stops the guest. Raises UsageError for an unknown name or a
    composition that cannot end.
    """
    chosen = strategy(name).with_request(request)
    if guest_runs:
        if not chosen.stop_guest:
            raise UsageError(f"strategy {name} lets the guest run anyway; leave --guest-runs out")
        chosen = replace(chosen, stop_guest=False)
    return Setting(chosen, hold=chosen.hold)


def prove(
    setting: Setting,
    bounds: Bounds,
    *,
    guest_runs: bool = False,
    watch: Watch | None = None,
    remark: Callable[[str], None] | None = None,
) -> Proof:
    """Search guests of 1 up to `bounds.pages` pages for a loss that a replay confirms.

    Raises UsageError where the states take more than `bounds.memory`. guest_runs is only noted.
    remark is told beforehand where a search will probably take more.
    """
    found: Course | None = None
    counts: list[int] = []
    depth = switchovers = 0
    complete = True
    for pages in range(1, bounds.pages + 1):
        expected = _expected(counts)
        if remark is not None and expected > bounds.states and bounds.steps is None:
            remark(
                f"guests of {_states(pages, expected)}, estimated from smaller guests; searching "
                f"as far as {_size(bounds.memory)} go"
            )
        search = Search(setting, bounds, pages)
        if watch is not None and expected:
            search.watch = partial(_tell, watch, f"guests of {pages} pages", expected)
        try:
            for course in islice(search.losses(), _COURSES):
                found = found or course
                enactment = enact(course)
                if enactment is not None:
                    return Proof(
                        setting, bounds, guest_runs, pages, sum(counts) + search.states,
                        len(course.labels), switchovers + search.switchovers, True, course,
                        enactment,
                    )  # fmt: skip
        except FullError:
            raise UsageError(_full(search, counts, found)) from None
        counts.append(search.states)
        depth = max(depth, search.depth)
        switchovers += search.switchovers
        complete = complete and not search.cut
    return Proof(
        setting, bounds, guest_runs, bounds.pages, sum(counts), depth, switchovers, complete, found
    )


def _expected(counts: Sequence[int]) -> int:
    """Estimate the states of the next larger guest: it grows as it did; 0 if that is unknown."""
    return counts[-1] ** 2 // counts[-2] if len(counts) > 1 else 0


def _tell(watch: Watch, what: str, expected: int, states: int) -> None:
    watch(what, min(states, expected), expected)


def _full(search: Search, counts: Sequence[int], found: Course | None) -> str:
    """Say what is known and what is not where the memory did not last."""
    expected = max(_expected(counts), search.states)
    known = "nothing is proved"
    if found is not None:
        known = f"one loses a page after {len(found.labels)} steps, which no replay confirms so far"
    elif len(counts) == 1:
        known = f"in guests of 1 page no write is lost in any of {counts[0]:,} states"
    elif counts:
        known = (
            f"in guests of 1 to {len(counts)} pages no write is lost in any of "
            f"{sum(counts):,} states"
        )
    return (
        f"{_size(search.bounds.memory)} are full with {search.states:,} states of guests of "
        f"{search.pages} pages, {search.depth} steps deep, {search.waiting:,} of them yet to be "
        f"followed; {known}; all guests of {_states(search.pages, expected)} or more: allow more "
        "with --memory, or ask for fewer pages, reports or steps"
    )


def _states(pages: int, count: int) -> str:
    return f"{pages} pages take about {count:,} states, {_size(count * BYTES_PER_STATE)}"


def _size(number: int) -> str:
    return f"{max(number >> 20, 1):,} MiB"
