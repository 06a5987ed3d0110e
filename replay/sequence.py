"""What concerns one watched page of an observed migration, in the order in which it happened.

Rows of the trace, copies, and events of the replay stand each in a table of its own; here they are
put in one order: by the sweeps of the cursor that ended before, host time, and the model's order of
things at one instant (section 2).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

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

#: What the guest does.
ROWS: tuple[RowKind, ...] = ("free", "take", "write", "zero")
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


class Item(NamedTuple):
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
    times: int = 1
    last: int = 0


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


def sequence(
    observation: Observation, who: int, rows: Sequence[PageRow], *, every: bool
) -> list[Item]:
    """Return all that concerns the page, in order; of writes with nothing between them the first.

    every: what could concern it too, each row apart and the rows of an instant as they stand.
    """
    return sorted(_items(observation, who, rows, every=every), key=lambda item: item[:4])


def _items(
    observation: Observation, who: int, rows: Sequence[PageRow], *, every: bool
) -> Iterator[Item]:
    clock = observation.migration.clock
    ends = [event.host_ns for event in observation.passes]
    others = list(_control(observation, who, ends, every=every))
    for sweep, event in enumerate(observation.passes):
        assert event.passed is not None
        assert event.sent is not None
        host = int(event.passed[who])
        if event.sent[who] or host < observation.stop_ns:
            kind: Kind = "copy" if event.sent[who] else "pass"
            others.append(Item(sweep, host, COPY, sweep, kind, clock.guest_at(host)))
    later = [row for row in rows if row.t > 0]
    hosts = observation.host(np.array([row.t for row in later], np.int64)).tolist()
    writes: list[Item] = []
    for number, (row, host) in enumerate(zip(later, hosts, strict=True)):
        place = FREE_ROWS if every else _PLACES[row.kind]
        item = Item(bisect_left(ends, host), host, place, number, row.kind, row.t)
        (writes if row.kind == "write" and not every else others).append(item)
    yield from others
    yield from _firsts(writes, sorted(item[:4] for item in others if _parts(item, who)))


def _parts(item: Item, who: int) -> bool:
    """Whether writes before and after it are told apart: it may change the page's bits."""
    return item.kind in ("free", "take", "zero", "copy", "sync", "chunk") or cleared_by(item, who)


def _firsts(writes: list[Item], others: list[tuple[int, int, int, float]]) -> Iterator[Item]:
    """Yield the first of each row of writes between which nothing else happens."""
    gaps = [bisect_left(others, item[:4]) for item in writes]
    first = 0
    for at in range(1, len(writes) + 1):
        if at == len(writes) or gaps[at] != gaps[first]:
            yield writes[first]._replace(times=at - first, last=writes[at - 1].host)
            first = at


def _control(observation: Observation, who: int, ends: list[int], *, every: bool) -> Iterator[Item]:
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
        report, kind = event.report, event.kind if every else _kind(event, who)
        syncs += event.kind == "sync"
        if kind is None or (kind == "chunk" and event.chunk != chunk):
            continue
        if kind == "left-out" and report not in naming:
            continue
        by_cursor = kind == "chunk" and report is None
        guest = clock.guest_at(event.host_ns) if kind == "chunk" else event.guest_ns
        yield Item(
            sweeps, event.host_ns, CHUNK if by_cursor else CONTROL, within, kind, guest, event,
            report, syncs, at.get(id(event), -1),
        )  # fmt: skip
        if kind != "snapshot":
            continue
        assert report is not None
        naming.add(report)
        arrived, done = report.arrived_ns, report.done_ns
        if arrived is not None:
            place = within + 0.25 if arrived == event.host_ns else -0.75
            yield Item(bisect_left(ends, arrived), arrived, CONTROL, place, "arrive",
                        clock.guest_at(arrived), report=report)  # fmt: skip
        if done is not None and report.outcome == "dropped":
            place = within + 0.5 if done == event.host_ns else -0.5
            yield Item(bisect_right(ends, done), done, CONTROL, place, "dropped",
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


def cleared_by(item: Item, who: int) -> bool:
    """Return whether an item is the handling that cleared the page's pending bit."""
    skipped = None if item.event is None else item.event.skipped
    return skipped is not None and bool(skipped[who])
