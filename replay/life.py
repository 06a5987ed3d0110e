"""The life of one page in a migration that was observed: all that happened to it, step by step.

The rows that touch it, the copies and the events of the replay are put in order, and what each
does to the page's bits is followed (the model, sections 3 and 4). Where the observed migration had
looks, that is compared with what its bitmaps held at the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from replay import kernels as k
from replay.engine import Event, Migration
from replay.hints import Report
from replay.observe import Observation
from replay.sequence import ROWS, Item, Kind, PageRow, RowKind, cleared_by, rows_of, sequence

_LOOKED_AT = {*ROWS, "arrive", "dropped"}


@dataclass(frozen=True)
class Supposition:
    """What the guest could have done to a page, in order, on the schedule of a replay.

    barred: reports that do not name the page even if it is free, as it is with a minimum order
    where its neighbours are in use.
    """

    rows: tuple[PageRow, ...]
    barred: frozenset[Report] = frozenset()


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
    times, last_ns: of how many writes with nothing between them this is the first, and the host
    time of the last.
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
    times: int = 1
    last_ns: int = 0


def life(
    observation: Observation, who: int, supposed: Supposition | None = None
) -> list[Happening]:
    """Return what happened to a watched page, in order, from the start to the switchover.

    supposed: what would have happened had the guest done something else to the page. Raises
    AssertionError where the bitmaps of the replay held something else.
    """
    migration = observation.migration
    page, manual = int(migration.watch[who]), migration.memory.manual
    rows = rows_of(observation, who) if supposed is None else supposed.rows
    deeds = _Deeds(who) if supposed is None else _Suppose(migration, supposed.barred)
    bits = Bits(log=manual, harvested=manual)
    for row in rows:
        if row.t <= 0:
            bits = _initial(bits, row.kind)
    told = [Happening("start", 0, 0, 0, 0, bits, bits)]
    looks: dict[int, Event] = {e.host_ns: e for e in migration.events if e.kind == "look"}
    every = supposed is not None
    for item in sequence(observation, who, rows, every=every):
        for one, cleared in deeds(item, bits):
            event, before = one.event, bits
            bits = _after(bits, one.kind, manual=manual, cleared=cleared)
            if not every and event is not None and event.facts is not None and one.kind != "chunk":
                _check(before if one.kind == "stop" else bits, event, who, page)
            if one.kind != "look":
                told.append(_happening(one, cleared, before, bits, looks, page))
    return told


def _happening(
    item: Item, cleared: bool, before: Bits, after: Bits, looks: dict[int, Event], page: int
) -> Happening:
    assert item.kind != "look"
    by_cursor = item.kind in ("copy", "pass")
    seen = None if by_cursor or item.kind == "chunk" else item.event
    if item.kind in _LOOKED_AT:
        seen = looks.get(item.host)
    return Happening(
        item.kind,
        item.host,
        item.guest,
        item.sweeps + by_cursor if seen is None else seen.round,
        page if by_cursor else None if seen is None else seen.cursor,
        before,
        after,
        item.report,
        item.number,
        item.at,
        cleared,
        item.times,
        item.last or item.host,
    )


class _Deeds:
    """What an item did to the page: just what the replay noted."""

    def __init__(self, who: int):
        self._who = who

    def __call__(self, item: Item, bits: Bits) -> list[tuple[Item, bool]]:  # noqa: ARG002
        """Return what happens at an item, and whether it clears the pending bit."""
        return [(item, cleared_by(item, self._who))]


class _Suppose:
    """What an item would have done to the page, had its bits been others (as `replay.doubt`)."""

    def __init__(self, migration: Migration, barred: frozenset[Report]):
        self._barred = barred
        self._manual, self._ack = migration.memory.manual, migration.hold == "ack"
        self._clears = migration.parameters.hint_clears_log
        self._named: set[Report | None] = set()
        self._held: set[Report | None] = set()

    def __call__(self, item: Item, bits: Bits) -> list[tuple[Item, bool]]:
        """Return what happens at an item, and whether it clears the pending bit."""
        report = item.report
        if item.kind in ("copy", "pass"):
            if not bits.pending:
                return [(item._replace(kind="pass"), False)]
            return [*self._chunk(item, bits), (item._replace(kind="copy"), False)]
        if item.kind == "snapshot":
            if not bits.free or report in self._barred:
                return []
            self._named.add(report)
        elif item.kind in ("arrive", "dropped", "handled"):
            if report not in self._named:
                return []
            if item.kind == "handled" and report in self._held:
                return [(item._replace(kind="left-out"), False)]
            if item.kind == "handled":
                chunk = self._chunk(item, bits) if self._clears else []
                return [*chunk, (item, bits.pending)]
        elif item.kind == "take" and self._ack:
            self._held |= self._named
        return [(item, False)]

    def _chunk(self, item: Item, bits: Bits) -> list[tuple[Item, bool]]:
        if not (self._manual and bits.harvested):
            return []
        return [(item._replace(kind="chunk", event=None), False)]


def _initial(bits: Bits, kind: RowKind) -> Bits:
    """Rows at or before the start set free list and contents."""
    if kind == "write":
        return bits._replace(zero=False, synced=False)
    return bits._replace(zero=True, synced=True) if kind == "zero" else _moved(bits, kind)


def _moved(bits: Bits, kind: RowKind) -> Bits:
    return bits._replace(free=kind == "free")


def _after(bits: Bits, kind: Kind | Literal["look"], *, manual: bool, cleared: bool) -> Bits:
    """Return the bits after something has happened."""
    match kind:
        case "free" | "take":
            return _moved(bits, kind)
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
            return bits._replace(pending=bits.pending and not cleared)
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
