"""Making the trace of a synthetic guest: stretch by stretch, in memory that does not grow."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tracer.errors import UsageError
from tracer.format import SAMPLED_FREELIST, SCHEMAS, Block, Meta, TableName
from tracer.synth.chunks import Chunk, Table, chunks
from tracer.synth.guest import SECOND_NS, Guest, Plan
from tracer.synth.kinds.base import Common
from tracer.synth.planted import Planted
from tracer.synth.recording import Recording, stages, through
from tracer.writer import BATCH_ROWS, Compression, TraceWriter

Progress = Callable[[int, int], None]

#: Bytes on disk that a dirty row may take, an upper bound: as they are, and compressed.
_ROW_BYTES: dict[Compression, int] = {"none": 20, "lz4": 20, "zstd": 10}
#: More is taken for a mistake.
_MOST_WRITES = 10**11
#: What options may be, where it is not 0 and more.
_LIMITS = {
    "alloc_order": (0, 20),
    "exponent": (0, 20),
    "phases": (1, 10**6),
    "kept": (1, 10**6),
    "jobs": (1, 10**4),
    "races": (1, 10**6),
    "decoys": (0, 10**6),
    "bandwidth": (1, 1 << 61),
    "clear_chunk": (1, 1 << 40),
}


@dataclass(frozen=True)
class Made:
    """What was made: rows by table, the regions, and of a planted race what a replay must find."""

    path: Path
    kind: str
    meta: Meta
    rows: dict[TableName, int]
    planted: dict[str, Any] | None


@dataclass(frozen=True)
class Order:
    """A guest to make. Sizes in pages and bytes, times in ns.

    kind and options: of `tracer.synth.KINDS`. init_on_alloc: see Guest.
    """

    kind: str
    options: Common
    pages: int
    page_size: int = 4096
    duration_ns: int = 60 * SECOND_NS
    seed: int = 0
    init_on_alloc: bool = True
    recording: Recording = field(default_factory=Recording)

    @property
    def writes(self) -> int:
        """How many writes the guest makes, not counting pages that it zeroes."""
        return self.options.rate * self.duration_ns // SECOND_NS

    def guest(self) -> Guest:
        """Return the guest; extents are made smaller where it has few pages."""
        most = max(self.pages.bit_length() - 8, 0)
        return Guest(
            self.pages,
            self.page_size,
            self.duration_ns,
            self.writes,
            self.seed,
            min(self.options.alloc_order, most),
            self.init_on_alloc,
        )


def disk_needed(order: Order, out: Path, compression: Compression = "zstd") -> int:
    """Return bytes on disk that the trace will take at most, roughly.

    Raises UsageError for an order that makes no sense and where so much is not free.
    """
    _check(order)
    needed = order.writes * _ROW_BYTES[compression]
    folder = next(parent for parent in out.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"{out}: {order.writes} writes may take {needed >> 20} MiB and {free >> 20} MiB are "
            "free; lower the rate or the duration, or write elsewhere"
        )
    return needed


def make(
    order: Order,
    build: Callable[[Guest, Any], Plan | Planted],
    out: Path,
    *,
    compression: Compression = "zstd",
    force: bool = False,
    progress: Progress | None = None,
) -> Made:
    """Make the trace `out` of the guest that `build` lays out. The same order makes the same bytes.

    `progress(done, total)` is called with ns of guest time. Memory is bounded by a few bits a page.
    Raises UsageError where the options do not fit the guest or the trace does not fit on the disk.
    """
    disk_needed(order, out, compression)
    guest = order.guest()
    plan = build(guest, order.options)
    recording = order.recording
    if isinstance(plan, Planted) and not recording.exact:
        raise UsageError(
            f"{order.kind} plants instants, which this recording would hide or blur: leave the "
            "resolution at `write`, the free list at `event`, and the quantum out"
        )
    with TraceWriter(
        out, sampled=recording.freelist == "sampled", compression=compression, force=force
    ) as writer:
        rows = plan.chunks() if isinstance(plan, Planted) else chunks(guest, plan)
        for stage in stages(recording, guest.pages, guest.duration_ns):
            rows = through(stage, rows)
        tables = _Tables(writer, sampled=recording.freelist == "sampled")
        for chunk in rows:
            tables.add(chunk)
            if progress is not None:
                progress(min(chunk.end, guest.duration_ns), guest.duration_ns)
        tables.flush()
        planted = plan.facts if isinstance(plan, Planted) else None
        meta = _meta(order, guest, plan, planted)
        writer.finish(meta)
    return Made(out, order.kind, meta, tables.rows, planted)


def _check(order: Order) -> None:
    if order.pages < 256:
        raise UsageError(f"a guest of {order.pages} pages is too small; wanted at least 256")
    if order.duration_ns < 1:
        raise UsageError("duration 0: a trace lasts")
    if order.writes > _MOST_WRITES:
        raise UsageError(f"{order.writes} writes; wanted at most {_MOST_WRITES}")
    for name in order.options.names():
        value = getattr(order.options, name)
        if isinstance(value, str):
            continue
        low, high = _LIMITS.get(name, (0, 1 << 60))
        if not low <= value <= high:
            raise UsageError(f"{name.replace('_', ' ')} is {value}; wanted {low} to {high}")


def _meta(order: Order, guest: Guest, plan: Plan | Planted, planted: dict[str, Any] | None) -> Meta:
    recording = order.recording
    source: dict[str, Any] = {
        "recorder": "dirtylog synth",
        "kind": order.kind,
        "seed": order.seed,
        "options": {name: _plain(getattr(order.options, name)) for name in order.options.names()},
        "init_on_alloc": order.init_on_alloc,
        "recording": asdict(recording),
        "regions": [asdict(region) for region in plan.regions],
    }
    if planted is not None:
        source["planted"] = planted
    return Meta(
        page_size=guest.page_size,
        pages=guest.pages,
        duration_ns=guest.duration_ns,
        blocks=(Block("ram", 0, guest.pages),),
        resolution=recording.resolution,
        freelist_resolution=recording.freelist,
        quantum_ns=recording.quantum_ns,
        source=source,
    )


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Fraction) else value


class _Tables:
    """Gathers rows until they make a batch, and writes them."""

    def __init__(self, writer: TraceWriter, *, sampled: bool):
        self._writer = writer
        self._schemas = {**SCHEMAS, "freelist": SAMPLED_FREELIST} if sampled else dict(SCHEMAS)
        self._parts: dict[TableName, list[Table]] = {}
        self._waiting: dict[TableName, int] = {}
        self.rows: dict[TableName, int] = {}

    def add(self, chunk: Chunk) -> None:
        """Take a chunk's rows."""
        epochs = Table(t=chunk.epochs)
        for name, table in self._named(chunk, epochs):
            self.rows[name] = self.rows.get(name, 0) + len(table)
            if not len(table):
                continue
            self._parts.setdefault(name, []).append(table)
            self._waiting[name] = self._waiting.get(name, 0) + len(table)
            if self._waiting[name] >= BATCH_ROWS:
                self._write(name)

    def flush(self) -> None:
        """Write what waits."""
        for name in list(self._parts):
            self._write(name)

    @staticmethod
    def _named(chunk: Chunk, epochs: Table) -> Iterator[tuple[TableName, Table]]:
        yield "dirty", chunk.dirty
        yield "freelist", chunk.moves
        yield "zero", chunk.zero
        if len(epochs):
            yield "epochs", epochs

    def _write(self, name: TableName) -> None:
        parts = self._parts.pop(name, [])
        self._waiting[name] = 0
        if not parts:
            return
        schema = self._schemas[name]
        names = {"t_ns": "t", "since_ns": "since"}
        arrays = []
        for part in schema:
            values = np.concatenate([getattr(p, names.get(part.name, part.name)) for p in parts])
            arrays.append(pa.array(values.astype(part.type.to_pandas_dtype(), copy=False)))
        self._writer.append(name, pa.table(arrays, schema=schema))
