"""Reading a trace: memory-mapped, batch by batch, never all of it because of its size."""

from __future__ import annotations

import json
import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash

from tracer import checks
from tracer.errors import TraceError
from tracer.format import META, MIGRATION, SAMPLED_FREELIST, SCHEMAS, Meta, TableName
from tracer.rows import NO_TIMES, Int64s, Rows, rows_of
from tracer.unfinished import JOURNAL, UnfinishedTable, open_unfinished

_HASH_CHUNK = 16 << 20
_RECENT_BATCHES = 16


class Trace:
    """A trace: its header `meta` and up to four tables of rows (the model, section 1).

    Open one with `Trace.open(path)`, or make one of Arrow tables with `Trace.from_tables`. Rows
    come out of `rows(name)` batch by batch and are not checked: call `validate()` first.
    """

    def __init__(
        self, name: str, meta: Meta, path: Path | None, tables: Mapping[TableName, _Source]
    ):
        self.name = name
        self.meta = meta
        self.path = path
        self._tables = dict(tables)

    @classmethod
    def open(cls, path: str | Path) -> Trace:
        """Open the trace directory `path`; reads the header, maps the tables, checks no rows.

        Raises TraceError where there is no trace, where a file is missing, cut short or of
        another schema, and VersionError for a version this dirtylog does not read.
        """
        path = Path(path)
        header = path / META
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise TraceError(f"{path}: {what}; a trace is a directory with {META} and dirty.arrow")
        try:
            text = _regular(header).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise TraceError(f"{header}: missing; {path} is no trace") from None
        except (OSError, UnicodeDecodeError) as error:
            raise TraceError(f"{header}: cannot be read ({error})") from None
        meta = Meta.from_json(text, str(header))
        if (path / JOURNAL).exists():
            meta, rows = open_unfinished(path, meta)
            return cls(path.name.removesuffix(".trace"), meta, path, {**rows})
        meta = _with_resolution(meta, path / "freelist.arrow")
        tables: dict[TableName, _Source] = {
            name: _FileSource(_regular(file), name, _schema(name, meta))
            for name in SCHEMAS
            if (file := path / f"{name}.arrow").exists()
        }
        if "dirty" not in tables:
            raise TraceError(f"{path / 'dirty.arrow'}: missing; a trace needs its dirty rows")
        missing = [name for name in meta.digests if not (path / name).exists()]
        if missing:
            raise TraceError(f"{path / missing[0]}: missing, though {header} lists it")
        return cls(path.name.removesuffix(".trace"), meta, path, tables)

    @classmethod
    def from_tables(cls, meta: Meta, name: str = "memory", **tables: pa.Table) -> Trace:
        """Make a trace of Arrow tables in memory, named as in `tracer.format.SCHEMAS`."""
        if "freelist" in tables and meta.freelist_resolution is None:
            meta = replace(meta, freelist_resolution="event")
        sources: dict[TableName, _Source] = {
            key: _MemorySource(key, table.cast(_schema(key, meta)))  # type: ignore[misc,arg-type]
            for key, table in tables.items()
        }
        return cls(name, meta, None, sources)

    def __contains__(self, table: TableName) -> bool:
        return table in self._tables

    def __repr__(self) -> str:
        return f"<Trace {self.name}: {self.meta.pages} pages, {self.num_rows('dirty')} dirty rows>"

    def num_rows(self, table: TableName) -> int:
        """Return the number of rows of `table`, 0 where the trace has none."""
        return self._tables[table].offsets[-1] if table in self._tables else 0

    def rows(self, table: TableName, start: int = 0, stop: int | None = None) -> Iterator[Rows]:
        """Yield rows `start` to `stop` of `table`, batch by batch; nothing where it has none.

        Raises TraceError where a batch cannot be read.
        """
        source = self._tables.get(table)
        if source is None:
            return
        offsets = source.offsets
        stop = offsets[-1] if stop is None else min(stop, offsets[-1])
        if start >= stop:
            return
        for index in range(bisect_right(offsets, start) - 1, len(offsets) - 1):
            base = offsets[index]
            if base >= stop:
                return
            batch = source.batch(index)
            low, high = max(start - base, 0), min(stop - base, batch.num_rows)
            if high > low:
                yield rows_of(batch.slice(low, high - low), f"{source.where}, row", base + low)

    @cached_property
    def epochs(self) -> Int64s:
        """The times, int64 ns ascending, at which the recording harvested the dirty log."""
        parts = [rows.t for rows in self.rows("epochs")]
        return np.concatenate(parts) if parts else NO_TIMES

    @cached_property
    def migration(self) -> dict[str, Any] | None:
        """What the migration that was recorded along reported, or None."""
        if self.path is None or not (file := self.path / MIGRATION).exists():
            return None
        try:
            body = json.loads(_regular(file).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise TraceError(
                f"{file}: not readable JSON ({error}); remove it or import the trace again"
            ) from None
        if not isinstance(body, dict):
            raise TraceError(f"{file}: holds no JSON object")
        return body

    @property
    def unfinished(self) -> str | None:
        """What there is of a recording that has not ended or was killed; None of a whole one."""
        if not isinstance(self._tables.get("dirty"), UnfinishedTable):
            return None
        return str(self.meta.source["notes"][-1])

    @property
    def exact(self) -> bool:
        """Whether the recording knows every write, every free-list moment and every order."""
        return (
            self.meta.resolution == "write"
            and self.meta.freelist_resolution != "sampled"
            and self.meta.quantum_ns <= 1
        )

    @cached_property
    def digest(self) -> str:
        """The trace's own digest (xxh3-128): of its header and of every file's digest."""
        digests = dict(self.meta.digests)
        for name, source in self._tables.items():
            digests.setdefault(f"{name}.arrow", source.digest())
        return xxhash.xxh3_128_hexdigest(replace(self.meta, digests=digests).to_json().encode())

    @property
    def size_bytes(self) -> int:
        """Bytes on disk (0 for a trace in memory)."""
        if self.path is None:
            return 0
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    def validate(
        self, *, digests: bool = True, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Check every row and (with `digests`) every listed digest, before any kernel sees them.

        `progress(done, total)` is called with rows. Raises TraceError with file, row and reason:
        a digest that differs, a run outside the guest, a time that goes back or past the
        duration, a page freed while free or taken while in use.
        """
        for name, wanted in self.meta.digests.items() if digests else ():
            if self.path is not None and (found := digest_file(self.path / name)) != wanted:
                raise TraceError(
                    f"{self.path / name}: its bytes have changed since it was written (digest "
                    f"{found}, {META} says {wanted}); record or import it again"
                )
        total, done = sum(self.num_rows(name) for name in SCHEMAS), 0
        for name in SCHEMAS:
            check = checks.TableCheck(name, self.meta, self.epochs)
            for rows in self.rows(name):
                problem = check.feed(rows)
                if problem is not None:
                    raise TraceError(f"{self._tables[name].where}, row {problem[0]}: {problem[1]}")
                done += len(rows.t)
                if progress is not None:
                    progress(done, total)


def digest_file(path: Path) -> str:
    """Return the xxh3-128 hex digest of a file's bytes."""
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            if path.stat().st_size:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                    for at in range(0, len(view), _HASH_CHUNK):
                        digest.update(view[at : at + _HASH_CHUNK])
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def _with_resolution(meta: Meta, freelist: Path) -> Meta:
    """Let the free list's resolution be what the file says where the header does not.

    A trace without a free list has none, whatever its header says.
    """
    if not freelist.exists():
        return replace(meta, freelist_resolution=None)
    if meta.freelist_resolution is not None:
        return meta
    sampled = _FileSource(_regular(freelist), "freelist", SCHEMAS["freelist"]).sampled
    return replace(meta, freelist_resolution="sampled" if sampled else "event")


def _regular(path: Path) -> Path:
    """Return the path; raises TraceError if something else than a file is there (a FIFO blocks)."""
    if path.exists() and not path.is_file():
        raise TraceError(f"{path}: is no regular file; this is no trace")
    return path


def _schema(name: TableName, meta: Meta) -> pa.Schema:
    if name == "freelist" and meta.freelist_resolution == "sampled":
        return SAMPLED_FREELIST
    return SCHEMAS[name]


class _Source(Protocol):
    """One table: `offsets` are the row numbers at which its batches begin, and its length."""

    where: str

    @property
    def offsets(self) -> list[int]: ...

    def batch(self, index: int) -> pa.RecordBatch: ...

    def digest(self) -> str: ...


class _MemorySource:
    def __init__(self, name: str, table: pa.Table):
        self.where = f"{name}.arrow"
        self._batches = [batch for batch in table.to_batches() if batch.num_rows]

    @cached_property
    def offsets(self) -> list[int]:
        return [0, *accumulate(batch.num_rows for batch in self._batches)]

    def batch(self, index: int) -> pa.RecordBatch:
        return self._batches[index]

    def digest(self) -> str:
        digest = xxhash.xxh3_128()
        for batch in self._batches:
            digest.update(batch.serialize())
        return digest.hexdigest()


class _FileSource:
    """An Arrow IPC file, mapped into memory."""

    def __init__(self, path: Path, name: str, schema: pa.Schema):
        self.where = str(path)
        self._path = path
        try:
            mapped = pa.memory_map(str(path))
            self._reader = pa.ipc.open_file(mapped)
        except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
            raise TraceError(
                f"{path}: no complete Arrow IPC file ({_first_line(error)}); it was cut short, or "
                "is something else (an Arrow stream, perhaps: write it with pyarrow.ipc.new_file)"
            ) from None
        # One trace is gone through many times: a small one is decompressed once.
        self._recent = lru_cache(_RECENT_BATCHES)(self._decode)
        found = self._reader.schema
        self.sampled = found.get_field_index("since_ns") >= 0
        self._names = schema.names
        for field in schema:
            at = found.get_all_field_indices(field.name)
            if len(at) != 1 or found.field(at[0]).type != field.type:
                there = "is missing" if not at else f"is {found.field(at[0]).type}"
                there = "stands there twice" if len(at) > 1 else there
                raise TraceError(
                    f"{path}: column {field.name!r} {there}; {name} rows are "
                    + ", ".join(f"{f.name}:{f.type}" for f in schema)
                )

    @cached_property
    def offsets(self) -> list[int]:
        count = self._reader.num_record_batches
        return [0, *accumulate(self.batch(index).num_rows for index in range(count))]

    def batch(self, index: int) -> pa.RecordBatch:
        return self._recent(index)

    def _decode(self, index: int) -> pa.RecordBatch:
        try:
            batch = self._reader.get_batch(index)
            batch.validate()
        except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
            raise TraceError(
                f"{self._path}, batch {index}: corrupt ({_first_line(error)})"
            ) from None
        return batch.select(self._names)

    def digest(self) -> str:
        return digest_file(self._path)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
