"""The story of one page of a replay: what of its life to tell, in which words, and its cause.

The life (`replay.life`) is what happened; nothing here looks at anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analyses.story import Cause, CauseKind, Event, Holding, Moment, PageView, Story
from replay.hints import Report
from replay.life import Bits, Happening
from replay.sequence import Kind

#: A story has so many steps at most; one of so many is told whole.
STEPS, _ENOUGH = 40, 20
_MS = 1_000_000

Own = Mapping[int, Report]


def lost_story(
    page: int,
    life: Sequence[Happening],
    own: Own,
    skip: int | None = None,
    *,
    supposed: bool = False,
) -> Story:
    """Tell how a page was lost. own: the syncs that go with handlings (`replay.witness`).

    skip: place of the handling that a near miss was skipped by, None for a page lost for good.
    supposed: it could have come so.
    """
    lead = _Lead(life, skip)
    cause = lead.cause(page, own)
    ending = "no bitmap knows of the write" if skip is None else _healed(life, lead.skip)
    sentence = cause.sentence(ending)
    if supposed:
        sentence = f"it could have come so: {sentence}"
    return Story((page,), _events(life, own, lead.decisive), sentence)


def kind_of(life: Sequence[Happening], own: Own, skip: int | None = None) -> CauseKind:
    """Return how a page was lost, or was for a while."""
    return _Lead(life, skip).cause(0, own).kind


def other_story(page: int, life: Sequence[Happening], own: Own, reason: str) -> Story:
    """Tell of a page that no moment lost. reason: why the replay ended."""
    return Story((page,), _events(life, own, frozenset()), _what_became(page, life, reason))


class _Lead:
    """What a loss hangs on: indexes into the life, -1 for what there was not.

    skip: the handling that cleared the pending bit. snapshot: of that report. write: the first that
    no copy carried. harvest: the sync that took its record over before that. clearing: where the
    log bit that counted went.
    """

    def __init__(self, life: Sequence[Happening], place: int | None):
        self._life = life
        handlings = [i for i, one in enumerate(life) if one.cleared]
        self.skip = (
            handlings[-1] if place is None else next(i for i in handlings if life[i].place == place)
        )
        report = life[self.skip].report
        self.snapshot = next(
            i for i, one in enumerate(life) if one.kind == "snapshot" and one.report is report
        )
        end = len(life) if place is None else self.skip
        carried = max(i for i in range(end) if life[i].kind in ("copy", "take"))
        self.write = next(i for i in range(carried, len(life)) if life[i].kind == "write")
        self.harvest = self.clearing = -1
        for i in range(self.write + 1, len(life)):
            one = life[i]
            if one.kind == "sync" and one.before.log and self.harvest < 0 and i < self.skip:
                self.harvest = i
            elif one.before.log and not one.after.log and one.kind != "sync":
                self.clearing = i
                break

    @property
    def decisive(self) -> frozenset[int]:
        """All of them."""
        parts = (self.skip, self.snapshot, self.write, self.harvest, self.clearing)
        return frozenset(i for i in parts if i >= 0)

    def cause(self, page: int, own: Own) -> Cause:
        """Return it in words."""
        life, skip = self._life, self._life[self.skip]
        assert skip.report is not None
        harvest = life[self.harvest] if self.harvest >= 0 else None
        clearing = life[self.clearing] if self.clearing >= 0 else None
        return Cause(
            _kind(skip, harvest, clearing, own),
            page,
            skip.report.number,
            when(life[self.snapshot].host_ns),
            when(life[self.write].host_ns),
            when(skip.host_ns),
            None if harvest is None else f"{_sync(harvest, own)} ({when(harvest.host_ns)})",
            None if clearing is None else _clearing(clearing),
            clearing is not None and clearing.report is skip.report,
            self.skip < self.write,
        )


def _kind(
    skip: Happening, harvest: Happening | None, clearing: Happening | None, own: Own
) -> CauseKind:
    if harvest is not None:
        if harvest.place not in own:
            return "straddled-sync"
        return "own-sync" if own[harvest.place] is skip.report else "other-sync"
    assert clearing is not None, "the log lost the record of a write that nothing took over"
    if clearing.report is None:
        return "log-cleared-by-copy"
    by_handling = clearing.report is skip.report
    return "log-cleared-by-report" if by_handling else "log-cleared-by-other-report"


def when(ns: int) -> str:
    """Return a time as stories tell it: ms to the microsecond, or ns where that would hide it."""
    return f"{ns:,} ns" if ns < _MS and ns % 1000 else f"{ns / _MS:,.3f} ms"


def _sync(one: Happening, own: Own) -> str:
    handled = own.get(one.place)
    return f"sync {one.number}" + (
        "" if handled is None else f", which goes with the handling of report {handled.number},"
    )


def _clearing(one: Happening) -> str:
    if one.report is None:
        return f"the copy of another page ({when(one.host_ns)})"
    return f"the handling of report {one.report.number} ({when(one.host_ns)})"


def _healed(life: Sequence[Happening], skip: int) -> str:
    """Return how a page that was lost for a while came to be right again."""
    later = life[skip + 1 :]
    for i, one in enumerate(later):
        if one.kind == "zero" and one.after.synced:
            return (
                f"no bitmap knew of the write until the page was all zeros ({_at(one)}), which the "
                "destination has"
            )
        if one.kind == "free":
            return f"no bitmap knew of the write until the guest freed the page ({_at(one)})"
        if one.kind == "write":
            sent = next((o for o in later[i:] if o.kind == "copy" or _sent_at_stop(o)), None)
            said = f"no bitmap knew of the write until the guest wrote the page again ({_at(one)}"
            if sent is None:
                return said + ")"
            return said + f"), and that was sent {_sent(sent)}"
    return "no bitmap knew of the write when the replay ended"


def _at(one: Happening) -> str:
    return when(one.host_ns)


def _sent_at_stop(one: Happening) -> bool:
    return one.kind == "stop" and one.before.pending


def _sent(one: Happening) -> str:
    return "at the switchover" if one.kind == "stop" else f"in pass {one.pass_} ({_at(one)})"


def _what_became(page: int, life: Sequence[Happening], reason: str) -> str:
    """Return what a page was at switchover that was never lost, as a sentence."""
    last, bits = life[-1], life[-1].after
    if last.kind != "stop":
        return (
            f"page {page} was neither lost nor saved: the replay ended without a switchover "
            f"({reason})"
        )
    sent = [one for one in life if one.kind == "copy" or _sent_at_stop(one)]
    if bits.synced and not sent:
        how = "it is all zeros, as the destination's memory is from the start"
    elif bits.synced:
        how = f"the destination has what was sent {_sent(sent[-1])}, and it is still so"
    else:
        skips = [one for one in life if one.cleared and one.report is not None]
        by = f"report {skips[-1].report.number} ({_at(skips[-1])})" if skips else "a report"  # type: ignore[union-attr]
        why = "it is on the free list" if bits.free else "nothing was written since it was taken"
        how = f"it was skipped by {by} and the destination has other bytes, but {why}"
    return f"page {page} was not lost: {how}"


def _events(life: Sequence[Happening], own: Own, decisive: frozenset[int]) -> tuple[Event, ...]:
    """Return the steps that are told, numbered as they were."""
    merged = _merged(life, decisive)
    chosen = _chosen(life, merged, decisive)
    told, left_out = [], 0
    for number, (first, times) in enumerate(merged):
        if number not in chosen:
            left_out += 1
            continue
        one = life[first]
        moment = Moment(one.host_ns, one.guest_ns, one.pass_, one.cursor)
        told.append(
            Event(number, _what(one, times, own), (_view(one.after),), moment, first in decisive,
                  left_out)
        )  # fmt: skip
        left_out = 0
    return tuple(told)


def _merged(life: Sequence[Happening], decisive: frozenset[int]) -> list[tuple[int, int]]:
    """Return the index of each step worth telling, and how many alike it stands for."""
    skipped = min((i for i, one in enumerate(life) if one.cleared), default=len(life))
    found: list[tuple[int, int]] = []
    for i, one in enumerate(life):
        changes = one.before != one.after
        if one.kind in ("sync", "chunk") and not changes and i not in decisive:
            continue
        if one.kind == "pass" and i < skipped:
            continue
        if found and one.kind == "pass" and life[found[-1][0]].kind == "pass":
            found[-1] = (found[-1][0], found[-1][1] + 1)
            continue
        found.append((i, 1))
    return found


def _chosen(
    life: Sequence[Happening], merged: Sequence[tuple[int, int]], decisive: frozenset[int]
) -> set[int]:
    """Return which steps are told where there are too many.

    First the reports that cleared nothing are left out, then what is far from what is decisive.
    """
    if len(merged) <= _ENOUGH:
        return set(range(len(merged)))
    last = len(merged) - 1
    clearing = {id(one.report) for one in life if one.cleared}
    worth = [
        number
        for number, (i, _) in enumerate(merged)
        if life[i].report is None or id(life[i].report) in clearing or i in decisive
    ]
    if len(worth) <= STEPS:
        return set(worth)
    marks = [number for number, (i, _) in enumerate(merged) if i in decisive] or [last]
    chosen = {0, last, *marks}
    nearest = sorted(worth, key=lambda n: (min(abs(n - mark) for mark in marks), n))
    for number in nearest:
        if len(chosen) >= STEPS:
            break
        chosen.add(number)
    return chosen


#: What is the same whatever the circumstances.
_PLAIN: dict[Kind, str] = {
    "free": "the guest frees it",
    "take": "the guest takes it",
    "zero": "it is all zeros",
    "snapshot": "snapshot of {report}: it is named",
    "arrive": "{report} reaches the queue",
    "dropped": "{report} is dropped",
    "left-out": "{report} is handled without it: a guest that holds it takes another page",
}


def _what(one: Happening, times: int, own: Own) -> str:
    """Return a step in words."""
    report = "" if one.report is None else f"report {one.report.number}"
    if one.kind in _PLAIN:
        return _PLAIN[one.kind].format(report=report)
    if one.kind == "start":
        zero = " and all zeros" if one.after.zero else ""
        return f"the start: it is {'free' if one.after.free else 'in use'}{zero}"
    if one.kind == "write":
        again = f" {one.times:,} times, last at {when(one.last_ns)}" if one.times > 1 else ""
        return f"the guest writes it{again}"
    if one.kind == "handled":
        how = "skips it" if one.cleared else "names it, but it is not pending"
        return f"{report} is handled and {how}"
    return _by_host(one, times, report, own)


def _by_host(one: Happening, times: int, report: str, own: Own) -> str:
    if one.kind == "sync":
        return f"{_sync(one, own).removesuffix(',')}: its log bit is harvested"
    if one.kind == "chunk":
        by = f"the handling of {report}" if report else "a copy"
        return f"{by} clears the log of its chunk"
    if one.kind == "copy":
        return "it is copied" + (" as a zero page" if one.after.zero else "")
    if one.kind == "pass":
        again = f" {times:,} times" if times > 1 else ""
        return f"the cursor passes it{again}, not pending"
    rest = "this page too" if one.before.pending else "not this page"
    return f"the guest is stopped and what is pending copied, {rest}: switchover"


def _view(bits: Bits) -> PageView:
    holding: Holding = "current" if bits.synced else "outdated" if bits.held else "zeros"
    return PageView(bits.free, bits.pending, bits.log, bits.log and bits.harvested, holding)
