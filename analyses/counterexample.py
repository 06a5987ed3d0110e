"""A course of events that loses a page, told: what happened at each step, and why it was lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from analyses.interleavings import STOPPED, Course, Effect, Moves, State
from analyses.story import Cause, CauseKind, Event, Holding, PageView, Story


def story(course: Course) -> Story:
    """Return the course as a story of all its pages."""
    return Story(tuple(range(course.pages)), events(course), cause(course).sentence())


def events(course: Course) -> tuple[Event, ...]:
    """Return the course step by step."""
    holding: list[Holding] = ["zeros"] * course.pages
    told = [Event(0, _start(course), _views(course.states[0], holding))]
    for number, (what, step) in enumerate(zip(_told(course), _steps(course), strict=True), 1):
        after = step.after
        if step.kind == "copy":
            holding[step.which] = "current"
        elif step.kind == "write" and holding[step.which] == "current":
            holding[step.which] = "outdated"
        elif after.spot == STOPPED:
            holding = ["current" if after.pending >> p & 1 else h for p, h in enumerate(holding)]
            after = after._replace(pending=0)
        told.append(Event(number, what, _views(after, holding)))
    return tuple(told)


def cause(course: Course) -> Cause:
    """Return how the first lost page was lost."""
    page = course.lost_pages[0]
    steps = list(_steps(course))
    skip = steps[max(s.number for s in steps if page in s.skipped) - 1]
    report = skip.reports[skip.which_skipped(page)]
    snapshot = next(s for s in steps if s.kind == "snapshot" and s.report == report)
    carried = max(
        (s.number for s in steps if s.kind in ("copy", "take") and s.which == page), default=0
    )
    write = next(s for s in steps[carried:] if s.kind == "write" and s.which == page)
    harvest: _Step | None = None
    if not write.before.harvested >> page & 1:
        harvest = next((s for s in steps[write.number :] if s.syncs), skip)
    clearing: _Step | None = None
    if course.states[0].chunks:
        since = steps[write.number :] if harvest is None else steps[harvest.number - 1 :]
        clearing = next(s for s in since if not s.after.harvested >> page & 1)
    return Cause(
        _kind(skip, harvest, clearing),
        page,
        report,
        f"step {snapshot.number}",
        f"step {write.number}",
        f"step {skip.number}",
        None if harvest is None else f"the sync of step {harvest.number}",
        None if clearing is None else f"step {clearing.number}",
        clearing is skip,
        skip.number < write.number,
    )


def _kind(skip: _Step, harvest: _Step | None, clearing: _Step | None) -> CauseKind:
    if harvest is not None:
        if harvest.kind == "sync":
            return "straddled-sync"
        return "own-sync" if harvest is skip else "other-sync"
    assert clearing is not None
    if clearing is skip:
        return "log-cleared-by-report"
    return "log-cleared-by-copy" if clearing.kind == "copy" else "log-cleared-by-other-report"


@dataclass(frozen=True)
class _Step:
    """A step with what Hinting did at it; reports: the numbers of those outstanding before it."""

    number: int
    kind: str
    which: int
    before: State
    after: State
    effect: Effect
    reports: tuple[int, ...]

    @property
    def report(self) -> int:
        """The number of the report that moves."""
        return self.reports[self.which]

    @property
    def syncs(self) -> bool:
        """Whether the dirty log is harvested."""
        return any(deed == "sync" for deed, _ in self.effect.deeds)

    @property
    def skipped(self) -> set[int]:
        """The pages whose pending bits a handling clears."""
        return set().union(*(pages for _, pages in self.handled))

    @property
    def handled(self) -> list[tuple[int, set[int]]]:
        """For each handling the index of its report and the pages that it skips."""
        pending, found = self.before.pending, []
        for deed, index in self.effect.deeds:
            if deed == "sync":
                pending |= self.before.log
            elif deed == "skip":
                gone = pending & self.before.bits[index]
                pending &= ~gone
                found.append((index, {p for p in range(gone.bit_length()) if gone >> p & 1}))
        return found

    def which_skipped(self, page: int) -> int:
        """Return the index of the report whose handling skips the page."""
        return next(index for index, pages in self.handled if page in pages)


def _steps(course: Course) -> Iterator[_Step]:
    moves = Moves(course.setting, course.pages)
    reports = tuple(range(len(course.states[0].bits)))
    asked = len(reports)
    for number, ((before, after), label) in enumerate(
        zip(pairwise(course.states), course.labels, strict=True), 1
    ):
        effect = moves.effect(before, label)
        yield _Step(number, *label, before, after, effect, reports)
        kept = tuple(reports[i] for i in effect.kept)
        fresh = len(after.bits) - len(kept)
        reports = kept + tuple(range(asked, asked + fresh))
        asked += fresh


def _told(course: Course) -> Iterator[str]:
    """Yield what happens at each step, in words."""
    syncs = 0
    for step in _steps(course):
        syncs += step.kind == "sync"
        yield ", ".join(filter(None, [_deed(step, syncs), *_aftermath(step)]))


def _deed(step: _Step, syncs: int) -> str:
    plain = {
        "free": "the guest frees page {}",
        "take": "the guest takes page {}",
        "write": "the guest writes page {}",
        "copy": "page {} is copied",
    }
    if step.kind in plain:
        return plain[step.kind].format(step.which)
    if step.kind == "snapshot":
        return f"snapshot of report {step.report}: it names {_pages(step.before.free)}"
    if step.kind == "arrive":
        return f"report {step.report} reaches the queue"
    if step.kind == "drain":
        return "the link waits for outstanding reports"
    if step.kind == "request":
        return "a tick"
    return f"regular sync {syncs}" if step.kind == "sync" else ""


def _aftermath(step: _Step) -> Iterator[str]:
    """Yield what becomes of reports, and whether guest or migration stops."""
    handled = dict(step.handled)
    own = [deed for deed, _ in step.effect.deeds]
    for index, number in enumerate(step.reports):
        if index in handled:
            sync = ""
            if step.kind == "consume" and "sync" in own:
                sync = "after a sync, " if own[0] == "sync" else ""
            skipped = _pages(sum(1 << p for p in handled[index]))
            then = ", then a sync" if step.kind == "consume" and own[-1] == "sync" else ""
            yield f"{sync}report {number} is handled and skips {skipped}{then}"
        elif index not in step.effect.kept:
            yield f"report {number} is dropped"
    if len(step.after.bits) > len(step.effect.kept):
        yield "the next report is asked for"
    if step.before.hints[0] != step.after.hints[0]:
        yield "the guest runs on" if step.after.hints[0] else "the guest stops until it is handled"
    if step.after.spot == STOPPED:
        yield f"the guest is stopped for good and {_pages(step.after.pending)} copied: switchover"


def _start(course: Course) -> str:
    start = course.states[0]
    asked = ", a report is asked for" if start.bits else ""
    return f"start: all pages are pending, free is {_pages(start.free)}{asked}"


def _pages(mask: int) -> str:
    named = [str(p) for p in range(mask.bit_length()) if mask >> p & 1]
    if not named:
        return "no page"
    return ("page " if len(named) == 1 else "pages ") + " and ".join(named)


def _views(state: State, holding: list[Holding]) -> tuple[PageView, ...]:
    return tuple(
        PageView(
            bool(state.free >> p & 1),
            bool(state.pending >> p & 1),
            bool(state.log >> p & 1),
            bool(state.harvested >> p & 1),
            held,
        )
        for p, held in enumerate(holding)
    )
