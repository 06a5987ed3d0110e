"""The life of one page in a migration that was observed: all that happened to it, step by step.

The rows that touch it, the copies and the events of the replay are put in order, and what each
does to the page's bits is followed (the model, sections 3 and 4). Where the observed migration had
looks, that is compared with what its bitmaps held at the time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from replay import kernels as k
from replay.engine import Event
from replay.hints import Report
from replay.observe import (
    CHUNK,
    CONTROL,
    COPY,
    DIRTY_ROWS,
    FREE_ROWS,
    ZERO_ROWS,
    Observation,
    Touches,
)

RowKind = Literal["free", "take", "write", "zero"]
Kind = Literal[
    "start", "free", "take", "write", "zero", "snapshot", "arrive", "handled", "left-out",
    "dropped", "sync", "chunk", "copy", "pass", "stop",
]  # fmt: skip

_PLACES: dict[RowKind, int] = {
    "free": FREE_ROWS,
    "take": FREE_ROWS,
    "write": DIRTY_ROWS,
    "zero": ZERO_ROWS,
}


class PageRow(NamedTuple):
    """A row of the trace for the page alone; t: guest ns."""

    t: int
    kind: RowKind


class Bits(NamedTuple):
    """A page's bits: belief (pending, log, harvested), and truth.

    harvested: the log bit is from before the last sync and goes with its chunk, log mode manual.
    synced: what the destination has equals the source. held: it has non-zero bytes.
    """

    free: bool = False
    pending: bool = True
    log: bool = False
    harvested: bool = False
    zero: bool = False
    synced: bool = False
    held: bool = False


@dataclass(frozen=True)
class Happening:
    """Something that happened to the page, and its bits right after it.

    host_ns, guest_ns: since the start. pass_: the cursor's sweep that was under way, 0 before the
    first. cursor: the page at which the search for pending pages went on; None where that was not
    looked at. report: the one that moved. number: of a sync, from 1. place: of a control event in
    the observation, -1 for others. cleared: whether a handling cleared the page's pending bit.
    """

    kind: Kind
    host_ns: int
    guest_ns: int
    pass_: int
    cursor: int | None
    before: Bits
    after: Bits
    report: Report | None = None
    number: int = 0
    place: int = -1
    cleared: bool = False


class _Item(NamedTuple):
    """An entry of the order of things: sweeps that ended before, host ns, place at that instant."""

    sweeps: int
    host: int
    place: int
    within: float
    kind: Kind | Literal["look"]
    guest: int
    event: Event | None = None
    report: Report | None = None
    number: int = 0
    at: int = -1


def rows_of(observation: Observation, who: int) -> list[PageRow]:
    """Return the trace's rows of a watched page, the one at index `who`, up to switchover."""

    def of(touched: Touches) -> Iterator[tuple[int, bool]]:
        at = touched.who == who
        free = touched.free[at] if len(touched.free) else at[at]
        yield from zip(touched.t[at].tolist(), free.tolist(), strict=True)

    found = [PageRow(t, "free" if free else "take") for t, free in of(observation.moves)]
    found += [PageRow(t, "write") for t, _ in of(observation.writes)]
    found += [PageRow(t, "zero") for t, _ in of(observation.zeros)]
    return sorted(found, key=lambda row: (row.t, _PLACES[row.kind]))


def life(
    observation: Observation, who: int, rows: Sequence[PageRow] | None = None
) -> list[Happening]:
    """Return what happened to a watched page, in order, from the start to the switchover.

    rows: what the guest did to the page instead of what the trace says, in order, on the same
    schedule. Raises AssertionError where the bitmaps of the replay held something else.
    """
    migration = observation.migration
    page, manual = int(migration.watch[who]), migration.memory.manual
    checked = rows is None
    rows = rows_of(observation, who) if rows is None else rows
    bits = Bits(log=manual, harvested=manual)
    for row in rows:
        if row.t <= 0:
            bits = _initial(bits, row.kind)
    told = [Happening("start", 0, 0, 0, 0, bits, bits)]
    looks: dict[int, Event] = {e.host_ns: e for e in migration.events if e.kind == "look"}
    for item in sorted(_items(observation, who, rows), key=lambda item: item[:4]):
        event, before = item.event, bits
        bits = _after(bits, item, who, manual)
        if checked and event is not None and event.facts is not None and item.kind != "chunk":
            _check(before if item.kind == "stop" else bits, event, who, page)
        if item.kind == "look":
            continue
        seen = event if item.kind not in ("chunk", "copy", "pass") else None
        seen = seen or (looks.get(item.host) if item.kind in _PLACES else None)
        told.append(
            Happening(
                item.kind,
                item.host,
                item.guest,
                item.sweeps + (item.kind in ("copy", "pass")) if seen is None else seen.round,
                page if item.kind in ("copy", "pass") else None if seen is None else seen.cursor,
                before,
                bits,
                item.report,
                item.number,
                item.at,
                _cleared(item, who),
            )
        )
    return told


def _items(observation: Observation, who: int, rows: Sequence[PageRow]) -> Iterator[_Item]:
    """Yield all that concerns the page, in no order."""
    clock = observation.migration.clock
    ends = [event.host_ns for event in observation.passes]
    for number, row in enumerate(rows):
        if row.t > 0:
            host = _host(observation, row.t)
            yield _Item(bisect_left(ends, host), host, _PLACES[row.kind], number, row.kind, row.t)
    for sweep, event in enumerate(observation.passes):
        assert event.passed is not None
        assert event.sent is not None
        host = int(event.passed[who])
        if event.sent[who] or host < observation.stop_ns:
            kind: Kind = "copy" if event.sent[who] else "pass"
            yield _Item(sweep, host, COPY, sweep, kind, clock.guest_at(host))
    yield from _control(observation, who, ends)


def _control(observation: Observation, who: int, ends: list[int]) -> Iterator[_Item]:
    """Yield the events of the replay, and what became of the reports that name the page."""
    migration = observation.migration
    clock, page = migration.clock, int(migration.watch[who])
    chunk = bisect_right(migration.memory.chunks.tolist(), page) - 1
    at = {id(event): number for number, (_, event) in enumerate(observation.control)}
    sweeps = syncs = 0
    naming: set[Report | None] = set()
    for within, event in enumerate(migration.events):
        if event.kind == "pass":
            sweeps += 1
            continue
        report, kind = event.report, _kind(event, who)
        syncs += event.kind == "sync"
        if kind is None or (kind == "chunk" and event.chunk != chunk):
            continue
        if kind == "left-out" and report not in naming:
            continue
        by_cursor = kind == "chunk" and report is None
        guest = clock.guest_at(event.host_ns) if kind == "chunk" else event.guest_ns
        yield _Item(
            sweeps, event.host_ns, CHUNK if by_cursor else CONTROL, within, kind, guest, event,
            report, syncs, at[id(event)],
        )  # fmt: skip
        if kind != "snapshot":
            continue
        assert report is not None
        naming.add(report)
        arrived, done = report.arrived_ns, report.done_ns
        if arrived is not None:
            place = within + 0.25 if arrived == event.host_ns else -0.75
            yield _Item(bisect_left(ends, arrived), arrived, CONTROL, place, "arrive",
                        clock.guest_at(arrived), report=report)  # fmt: skip
        if done is not None and report.outcome == "dropped":
            place = within + 0.5 if done == event.host_ns else -0.5
            yield _Item(bisect_right(ends, done), done, CONTROL, place, "dropped",
                        clock.guest_at(done), report=report)  # fmt: skip


def _kind(event: Event, who: int) -> Kind | Literal["look"] | None:
    """Return what the event is to the page, None if nothing.

    Whom a report names is known of migrations with looks; of others only whom it skips.
    """
    if event.kind == "snapshot":
        return "snapshot" if event.named is not None and event.named[who] else None
    if event.kind == "handled":
        assert event.skipped is not None
        if event.skipped[who] or (event.named is not None and event.named[who]):
            return "handled"
        return None if event.named is None else "left-out"
    assert event.kind != "pass"
    return event.kind


def _cleared(item: _Item, who: int) -> bool:
    skipped = None if item.event is None else item.event.skipped
    return skipped is not None and bool(skipped[who])


def _initial(bits: Bits, kind: RowKind) -> Bits:
    """Rows at or before the start set free list and contents."""
    if kind == "write":
        return bits._replace(zero=False, synced=False)
    return bits._replace(zero=True, synced=True) if kind == "zero" else _moved(bits, kind)


def _moved(bits: Bits, kind: RowKind) -> Bits:
    return bits._replace(free=kind == "free")


def _after(bits: Bits, item: _Item, who: int, manual: bool) -> Bits:
    """Return the bits after something has happened."""
    match item.kind:
        case "free" | "take":
            return _moved(bits, item.kind)
        case "write":
            return bits._replace(log=True, synced=False, zero=False)
        case "zero":
            return bits._replace(zero=True, synced=bits.synced or not bits.held)
        case "copy":
            return _copied(bits)
        case "stop":
            return _copied(bits) if bits.pending else bits
        case "sync":
            log = bits.log
            return bits._replace(pending=bits.pending or log, log=log and manual,
                                 harvested=log and manual)  # fmt: skip
        case "handled":
            return bits._replace(pending=bits.pending and not _cleared(item, who))
        case "chunk":
            return bits._replace(log=bits.log and not bits.harvested, harvested=False)
    return bits


def _copied(bits: Bits) -> Bits:
    return bits._replace(pending=False, synced=True, held=not bits.zero)


def _check(bits: Bits, event: Event, who: int, page: int) -> None:
    assert event.facts is not None
    facts = event.facts[who]
    held = tuple(
        bool(facts[column]) for column in (k.FREE, k.PENDING, k.LOG, k.ZERO, k.SYNCED, k.HELD)
    )
    if held != (bits.free, bits.pending, bits.log, bits.zero, bits.synced, bits.held):
        raise AssertionError(
            f"page {page} at {event.host_ns} ns ({event.kind}): the bitmaps hold {held}, its life "
            f"says {bits}; please report it with the trace and the command"
        )


def _host(observation: Observation, guest: int) -> int:
    return int(observation.host(np.array([guest]))[0])
