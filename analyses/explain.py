"""Why a strategy loses pages on a trace: each way in which it does, and one page's story of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analyses.load import as_worked
from analyses.narrative import kind_of, lost_story, other_story
from analyses.safety import loss_premise
from analyses.story import CAUSES, CauseKind, Story
from replay.doubt import Doubt, can_lose, search
from replay.engine import Migration
from replay.hints import Report
from replay.history import losing_history
from replay.life import Happening, Supposition, life
from replay.memory import bit_numbers
from replay.observe import Observation, observe
from replay.parameters import Parameters
from replay.profiles import profile
from replay.replay import LOST_IF, enough_memory
from replay.result import Scenario, Verdict
from replay.scenarios import Readings, scenarios
from replay.sequence import ROWS
from replay.strategies import Strategy
from replay.witness import Trail, own_syncs, trails
from tracer.errors import UsageError
from tracer.rows import Int64s
from tracer.trace import Trace

Fate = Literal["lost", "near-miss", "possible", "not-lost"]

#: So many runs of pages are named of a group.
RUNS = 8
_NOBODY: Int64s = np.empty(0, np.int64)


@dataclass(frozen=True)
class Group:
    """Pages that fared alike, and the story of the first of them.

    kind: how they were lost, None where they never were. pages: how many. runs: the first page and
    the length of the first runs of them.
    """

    fate: Fate
    kind: CauseKind | None
    pages: int
    runs: tuple[tuple[int, int], ...]
    page: int
    story: Story

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "fate": self.fate,
            "kind": self.kind,
            "meaning": None if self.kind is None else CAUSES[self.kind],
            "pages": self.pages,
            "runs": [list(run) for run in self.runs],
            "page": self.page,
            "cause": self.story.cause,
            "events": [event.to_dict() for event in self.story.events],
        }


@dataclass(frozen=True)
class Explanation:
    """What became of the pages.

    lost, near_misses: counts of pages; lost is None without a switchover. groups: of the pages that
    were lost, for good or for a while; where one page was asked for, that one; else, where some
    order of things that the recording allows loses a page, one such page. answer: what became of
    all, in a sentence. reason: why the replay ended.
    """

    trace: Trace
    strategy: Strategy
    parameters: Parameters
    verdict: Verdict
    reason: str
    lost: int | None
    near_misses: int
    groups: tuple[Group, ...]
    answer: str

    @property
    def premise(self) -> str:
        """The condition without which losses must not be told, or nothing."""
        if self.verdict not in ("unsafe", "possible") and not any(g.kind for g in self.groups):
            return ""
        return loss_premise({self.parameters.hold(self.strategy)}, self.parameters)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it; times in ns since the migration's start."""
        return {
            "trace": self.trace.name,
            "strategy": self.strategy.name,
            "profile": self.parameters.profile,
            "log_mode": self.parameters.log_mode,
            "guest_hold": self.parameters.hold(self.strategy),
            "scenario": scenarios(self.trace)[0],
            "verdict": self.verdict,
            "reason": self.reason,
            "lost": self.lost,
            "near_misses": self.near_misses,
            "answer": self.answer,
            "premise": self.premise,
            "groups": [group.to_dict() for group in self.groups],
        }


def explain(
    trace: Trace,
    strategy: Strategy,
    parameters: Parameters,
    page: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Explanation:
    """Replay `trace` (validated) and tell how pages were lost, or what became of one page.

    strategy: with its request axis chosen. on_rows is called now and then with the dirty rows that
    the first of the replays has done. Raises UsageError for a page that the guest does not have.
    """
    if page is not None and not 0 <= page < trace.meta.pages:
        raise UsageError(
            f"{trace.name}: no page {page}; the guest has the pages 0 to {trace.meta.pages - 1}"
        )
    trace = as_worked(trace, parameters)
    enough_memory(trace, strategy, parameters)
    return _Case(trace, strategy, parameters, on_rows).explained(page)


@dataclass(frozen=True)
class _Hidden:
    """Pages, some, that are lost in a scenario of what the trace hides."""

    scenario: Scenario
    pages: Int64s


class _Case:
    """One migration, run to its end once, and again with a watch list where that is needed."""

    def __init__(
        self,
        trace: Trace,
        strategy: Strategy,
        parameters: Parameters,
        on_rows: Callable[[int], None] | None,
    ):
        self._trace, self._strategy, self._parameters = trace, strategy, parameters
        self._first = Migration(trace, strategy, parameters, on_rows=on_rows)
        outcome = profile(parameters.profile)(self._first)
        self._reason, self._stop_ns = outcome.reason, outcome.stop_ns
        self._lost = _NOBODY if self._stop_ns is None else self._first.memory.judge().lost_pages
        missed = bit_numbers(self._first.memory.missed)
        self._missed: Int64s = np.setdiff1d(missed, self._lost, assume_unique=True)
        self._loose = scenarios(trace)[0] == "recorded" and strategy.hints

    def explained(self, page: int | None) -> Explanation:
        """Tell of one page, or for None of all that were lost."""
        doubt, hidden = self._doubt(), self._hidden()
        groups: tuple[Group, ...] = ()
        if page is not None:
            groups = (self._page(page),)
        elif len(self._lost) or len(self._missed):
            groups = self._groups()
        if page is None and doubt is not None and doubt.proved:
            told = self._possible(doubt.page)
            groups += (told,) if told is not None else ()
        verdict: Verdict = "unsafe" if len(self._lost) else "safe"
        if self._stop_ns is None:
            verdict = "unknown"
        elif verdict == "safe" and (doubt is not None or hidden is not None):
            verdict = "possible"
        return Explanation(
            self._trace,
            self._strategy,
            self._parameters,
            verdict,
            self._reason,
            None if self._stop_ns is None else len(self._lost),
            len(self._missed),
            groups,
            self._answer(doubt, hidden, groups),
        )

    # -- what may have been --------------------------------------------------------------------

    def _doubt(self) -> Doubt | None:
        """Return a page that some history allowed by the trace loses, if none is lost as it is."""
        if not self._loose or self._stop_ns is None or len(self._lost):
            return None
        return can_lose(self._migration, self._first, self._stop_ns)

    def _hidden(self) -> _Hidden | None:
        """Return the pages that another scenario loses, if that is how losses show."""
        if len(self._lost) or not self._strategy.hints:
            return None
        readings = Readings(self._trace, self._parameters)
        for scenario in scenarios(self._trace, self._parameters)[1:]:
            parameters = readings.parameters(scenario)
            trace, saturated = next(readings.of(scenario)), scenario == "saturated"
            migration = Migration(trace, self._strategy, parameters, saturated=saturated)
            if profile(parameters.profile)(migration).stop_ns is not None:
                pages = migration.memory.judge().lost_pages
                if len(pages):
                    return _Hidden(scenario, pages)
        return None

    def _possible(self, page: int) -> Group | None:
        """Tell how a page could have been lost; None where no single history was found."""
        watch = np.array([page], np.int64)
        seen = observe(self._migration(watch))
        supposed = losing_history(seen)
        if supposed is None:
            return None
        closer = observe(self._migration(watch, _instants(seen, 0, supposed)))
        happened = life(closer, 0, supposed)
        story = lost_story(page, happened, own_syncs(closer), supposed=True)
        kind = kind_of(happened, own_syncs(closer))
        return Group("possible", kind, 1, ((page, 1),), page, story)

    # -- what was -------------------------------------------------------------------------------

    def _migration(self, watch: Int64s, looks: Int64s | None = None) -> Migration:
        """Return a fresh migration like the first, which watches pages."""
        return Migration(self._trace, self._strategy, self._parameters, watch=watch, looks=looks)

    def _page(self, page: int) -> Group:
        """Tell what became of a page, whatever it was."""
        watch = np.array([page], np.int64)
        for fate in ("lost", "near-miss"):
            if page in (self._lost if fate == "lost" else self._missed):
                return self._groups(watch)[0]
        seen = observe(self._migration(watch))
        if self._loose and self._stop_ns is not None and self._first.hold != "done":
            doubt = search(seen)
            told = self._possible(page) if doubt is not None and doubt.proved else None
            if told is not None:
                return told
        (happened,), own = self._lives(watch, seen)
        story = other_story(page, happened, own, self._reason)
        return Group("not-lost", None, 1, ((page, 1),), page, story)

    def _groups(self, watch: Int64s | None = None) -> tuple[Group, ...]:
        """Group the lost pages by how that came, with a story of the first of each group."""
        watch = np.union1d(self._lost, self._missed) if watch is None else watch
        seen = observe(self._migration(watch))
        end, missed = trails(seen)
        is_lost = np.isin(watch, self._lost)
        found: list[tuple[Fate, CauseKind, Int64s, int | None]] = []
        for kind, who in _kinds(seen, end, np.flatnonzero(is_lost)).items():
            found.append(("lost", kind, who, None))
        for kind, who in _kinds(seen, missed, np.flatnonzero(~is_lost)).items():
            found.append(("near-miss", kind, who, int(missed.skipped_at[who[0]])))
        first = np.unique([who[0] for _, _, who, _ in found])
        lives, own = self._lives(watch[first], seen)
        of = dict(zip(first.tolist(), lives, strict=True))
        return tuple(
            Group(
                fate,
                kind,
                len(who),
                _runs(watch[who]),
                int(watch[who[0]]),
                lost_story(int(watch[who[0]]), of[int(who[0])], own, skip),
            )
            for fate, kind, who, skip in sorted(found, key=lambda one: (one[0], -len(one[2])))
        )

    def _lives(
        self, pages: Int64s, seen: Observation
    ) -> tuple[list[list[Happening]], dict[int, Report]]:
        """Return the lives of a few of the pages that `seen` watched, looked at closely."""
        who = np.searchsorted(seen.migration.watch, pages)
        instants = [_instants(seen, int(one)) for one in who]
        closer = observe(self._migration(pages, np.unique(np.concatenate(instants))))
        return [life(closer, i) for i in range(len(pages))], own_syncs(closer)

    def _answer(
        self, doubt: Doubt | None, hidden: _Hidden | None, groups: tuple[Group, ...]
    ) -> str:
        """Return what became of all pages, as a sentence."""
        near, hold = len(self._missed), self._first.hold
        healed = f", {_pages(near, 'was', 'were')} lost for a while" if near else ""
        if self._stop_ns is None:
            loop = ", or let the trace loop" if self._parameters.at_end == "stop" else ""
            return (
                f"no switchover ({self._reason}), so that no page is lost or saved{healed}; allow "
                f"more downtime or bandwidth{loop}"
            )
        if not self._strategy.hints:
            return "it skips no page, so it loses none"
        if len(self._lost):
            return f"{_pages(len(self._lost))} lost{healed}"
        if doubt is not None and not doubt.proved:
            return (
                f"no page is lost at the recorded moments{healed}; whether page {doubt.page} can "
                "be was given up on, so there is no story of it"
            )
        if doubt is not None:
            told = any(group.fate == "possible" for group in groups)
            return (
                f"no page is lost at the recorded moments{healed}, but an order of things that the "
                f"recording allows loses page {doubt.page}"
                + ("" if told else "; no single such order was singled out to be told")
            )
        if hidden is not None:
            return (
                f"no page is lost at the recorded moments{healed}, but "
                f"{_pages(len(hidden.pages))} {LOST_IF[hidden.scenario]}, page {hidden.pages[0]} "
                "first; writes that were not recorded have no timeline"
            )
        by = "" if hold == "none" else f" (by guest hold {hold})"
        return f"no page is lost{by}{healed}"


def _pages(number: int, one: str = "is", more: str = "are") -> str:
    return f"{number:,} page {one}" if number == 1 else f"{number:,} pages {more}"


def _instants(seen: Observation, who: int, supposed: Supposition | None = None) -> Int64s:
    """Return the host times at which rows touch a watched page or reports move."""
    times = [one.host_ns for one in life(seen, who, supposed) if one.kind in ROWS]
    for report in seen.migration.hinting.reports:
        times += [t for t in (report.arrived_ns, report.done_ns) if t is not None]
    return np.unique(np.array(times, np.int64))


def _kinds(seen: Observation, trail: Trail, who: Int64s) -> dict[CauseKind, Int64s]:
    """Return how pages were lost, and by each kind the indexes of those that were."""
    own, control = own_syncs(seen), [event for _, event in seen.control]
    deeds, size = np.zeros(len(who), np.int64), len(control) + 1
    for column in (trail.harvested_at, trail.cleared_at, trail.skipped_at):
        deeds = deeds * size + column[who] + 1
    found: dict[CauseKind, list[Int64s]] = {}
    alike, of = np.unique(deeds, return_inverse=True)
    for number, one in enumerate(alike.tolist()):
        harvest, clearing, skip = (one // size**2 - 1, one // size % size - 1, one % size - 1)
        report = control[skip].report
        kind: CauseKind
        if harvest >= 0:
            kind = "straddled-sync"
            if harvest in own:
                kind = "own-sync" if own[harvest] is report else "other-sync"
        elif control[clearing].report is None:
            kind = "log-cleared-by-copy"
        else:
            same = control[clearing].report is report
            kind = "log-cleared-by-report" if same else "log-cleared-by-other-report"
        found.setdefault(kind, []).append(who[of == number])
    return {kind: np.sort(np.concatenate(parts)) for kind, parts in found.items()}


def _runs(pages: Int64s) -> tuple[tuple[int, int], ...]:
    """Return the first runs of ascending pages."""
    cuts = np.flatnonzero(np.diff(pages) != 1) + 1
    begins = np.concatenate([[0], cuts])
    ends = np.concatenate([cuts, [len(pages)]])
    return tuple(
        (int(pages[begin]), int(end - begin))
        for begin, end in zip(begins[:RUNS], ends[:RUNS], strict=True)
    )
