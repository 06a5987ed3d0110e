"""Random small guests and migrations, dense with coincidences, to try strategies on.

Times lie on a grid commensurate with the time of a copy, so that rows, copies, syncs and reports
often meet at one instant. The same seed gives the same guests.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from replay.link import HEADER_BYTES, SECOND_NS
from replay.parameters import Parameters
from replay.policies import REQUESTS
from tracer.format import SCHEMAS, Block, Meta, Resolution, TableName
from tracer.trace import Trace

_RESOLUTIONS: tuple[Resolution, ...] = ("write", "write", "first-write", "epoch")
#: The time of a page's copy, ns: in the textbook loop, and in QEMU's, which goes by 100 ms.
_UNITS = (10, 100, 1000)
_SLOW_UNIT = 4_000_000
_Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """A guest's trace and the migration to try on it."""

    meta: Meta
    tables: dict[TableName, pa.Table]
    parameters: Parameters

    @property
    def rows(self) -> int:
        """How much happens in it."""
        return sum(table.num_rows for table in self.tables.values())

    def trace(self, *, batch: int | None = None) -> Trace:
        """Return the trace, checked, in batches of `batch` rows (one for None)."""
        tables = self.tables
        if batch is not None:
            tables = {
                name: pa.Table.from_batches(table.to_batches(max_chunksize=batch), table.schema)
                for name, table in tables.items()
            }
        trace = Trace.from_tables(self.meta, "case", **tables)
        trace.validate()
        return trace


def random_case(rng: random.Random) -> Case:
    """Return a guest of up to 12 pages: lives of take, writes and free, with reports racing."""
    profile = "qemu" if rng.random() < 0.1 else "rounds"
    unit = _SLOW_UNIT if profile == "qemu" else rng.choice(_UNITS)
    guest = _Guest(rng, unit)
    resolution = rng.choice(_RESOLUTIONS)
    epochs: list[int] = []
    dirty = guest.dirty
    if resolution != "write":
        some = {guest.tick(1, guest.ticks) for _ in range(rng.randint(0, 5))}
        epochs = sorted(some | ({guest.duration} if resolution == "epoch" else set()))
        hide = _first_writes if resolution == "first-write" else _epoch_ends
        dirty = hide(dirty, epochs)
    tables: dict[TableName, pa.Table] = {
        "dirty": _table("dirty", dirty),
        "freelist": _table("freelist", guest.freelist),
        "zero": _table("zero", guest.zero),
    }
    if epochs:
        tables["epochs"] = _table("epochs", [(t,) for t in epochs])
    firsts = [0, *([rng.randint(1, guest.pages - 1)] if guest.pages > 1 else [])]
    ends = [*firsts[1:], guest.pages]
    meta = Meta(
        page_size=guest.page_size,
        pages=guest.pages,
        duration_ns=guest.duration,
        blocks=tuple(
            Block(f"ram{i}", first, end - first)
            for i, (first, end) in enumerate(zip(firsts, ends, strict=True))
        ),
        resolution=resolution,
        freelist_resolution="event",
        source={"recorder": "dirtylog conform"},
    )
    return Case(meta, tables, _parameters(rng, guest, profile))


class _Guest:
    """What happens to the pages of a random guest, as rows in the order of time."""

    def __init__(self, rng: random.Random, unit: int):
        self._rng = rng
        self.unit = unit
        self.grid = max(1, unit // rng.choice((1, 2, 4, 10)))
        self.pages = rng.choice((12, 12, rng.randint(1, 12)))
        self.page_size = rng.choice((64, 4096))
        self.ticks = rng.randint(30, 120) * (unit // self.grid)
        self.duration = self.ticks * self.grid
        self.dirty: _Rows = []
        self.freelist: _Rows = []
        self.zero: _Rows = []
        calm, zero = rng.choice((0.0, 0.2, 0.4)), rng.choice((0.0, 0.1))
        pace = rng.choice((4, 8, 16)) * (unit // self.grid)
        for page in range(self.pages):
            self._live(page, pace, 0.0 if rng.random() < calm else 0.7, zero)
        for rows in (self.dirty, self.freelist, self.zero):
            rows.sort(key=lambda row: int(row[0]))

    def tick(self, low: int, high: int) -> int:
        """Return a random instant on the grid."""
        return self._rng.randint(low, max(low, high)) * self.grid

    def _live(self, page: int, pace: int, busy: float, zero: float) -> None:
        """Let one page go through lives of take, writes and free, each about `pace` ticks long."""
        rng = self._rng
        free = rng.random() < 0.6
        if free:
            self.freelist.append((0, page, 1, True))
        at = 0
        while busy and (at := at + rng.randint(1, pace)) <= self.ticks:
            if free or rng.random() < busy / 2:
                free = not free
                self.freelist.append((at * self.grid, page, 1, free))
            if not free:
                until = min(at + pace // 2, self.ticks)
                for _ in range(rng.randint(0, 3)):
                    self.dirty.append((self.tick(at, until), page, 1))
                at = until
            if rng.random() < zero:
                self.zero.append((at * self.grid, page, 1))


def _parameters(rng: random.Random, guest: _Guest, profile: Any) -> Parameters:
    longest = rng.choice((0, 4, 10, 16)) * guest.unit // guest.grid

    def delay() -> int:
        return rng.choice((0, rng.randint(0, longest))) * guest.grid

    bandwidth = (guest.page_size + HEADER_BYTES) * SECOND_NS // guest.unit
    one = guest.page_size * SECOND_NS // bandwidth + 1
    return Parameters(
        bandwidth=bandwidth,
        profile=profile,
        downtime_limit_ns=one * rng.choice((0, 0, 1, 3)),
        log_mode=rng.choice(("legacy", "manual")),
        clear_chunk=rng.choice((1, 2, 4, 1 << 18)),
        hint_clears_log=rng.random() < 0.7,
        request=rng.choice((None,) * 4 + tuple(REQUESTS)),
        request_delay_ns=delay(),
        report_delay_ns=delay(),
        handle_delay_ns=delay(),
        hint_interval_ns=rng.randint(1, 16) * guest.unit,
        guest_hold=rng.choice(("auto", "none", "none", "none", "none", "ack", "done")),
        min_order=int(rng.random() < 0.1),
        max_rounds=rng.choice((None, 2, 3, 6)),
    )


def _first_writes(dirty: _Rows, epochs: Sequence[int]) -> _Rows:
    """Leave the first write to a page in each epoch; a write at an epoch's time is in the next."""
    seen: set[tuple[int, int]] = set()
    left = []
    for t, page, count in dirty:
        key = sum(e <= t for e in epochs), page
        if key not in seen:
            seen.add(key)
            left.append((t, page, count))
    return left


def _epoch_ends(dirty: _Rows, epochs: Sequence[int]) -> _Rows:
    """Move every write to the end of its epoch; those at 0 are the initial state."""
    moved = {(min(e for e in epochs if e >= t) if t > 0 else 0, page) for t, page, _ in dirty}
    return [(t, page, 1) for t, page in sorted(moved)]


def _table(name: TableName, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    schema = SCHEMAS[name]
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(schema)]
    return pa.table(columns, schema=schema)
