"""Reading a trace: memory-mapped, batch by batch, never all of it because of its size."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from tracer import checks
from tracer.errors import TraceError
from tracer.format import META, MIGRATION, SAMPLED_FREELIST, SCHEMAS, Meta, TableName
from tracer.rows import NO_TIMES, Int64s, Rows
from tracer.sources import FileSource, MemorySource, Source, digest_file
from tracer.unfinished import JOURNAL, UnfinishedTable, open_unfinished


class Trace:
    """A trace: its header `meta` and up to four tables of rows (the model, section 1).

    Open one with `Trace.open(path)`, or make one of Arrow tables with `Trace.from_tables`. Rows
    come out of `rows(name)` batch by batch and are not checked: call `validate()` first.
    """

    def __init__(
        self, name: str, meta: Meta, path: Path | None, tables: Mapping[TableName, Source]
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
        tables: dict[TableName, Source] = {
            name: FileSource(_regular(file), name, _schema(name, meta))
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
        sources: dict[TableName, Source] = {
            key: MemorySource(key, table.cast(_schema(key, meta)))  # type: ignore[misc,arg-type]
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
            rows = source.rows(index)
            low, high = max(start - base, 0), min(stop - base, len(rows.t))
            if high - low == len(rows.t):
                yield rows
            elif high > low:
                yield rows.part(low, high)

    @cached_property
    def pages_written(self) -> int:
        """How many pages the dirty rows name, each as often as it is in one."""
        return sum(int(rows.count.sum(dtype=np.int64)) for rows in self.rows("dirty"))

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
        if not digests or not self.meta.digests:
            self._check_rows(progress)
            return
        stopped = Event()
        with ThreadPoolExecutor(1) as other:
            try:
                unchanged = other.submit(self._check_digests, stopped)
                self._check_rows(progress)
            except TraceError:
                # Rows of a file whose bytes have changed are wrong because of that.
                unchanged.result()
                raise
            except BaseException:
                stopped.set()
                raise
            unchanged.result()

    def _check_digests(self, stopped: Event) -> None:
        for name, wanted in self.meta.digests.items():
            if self.path is None:
                return
            found = digest_file(self.path / name, stopped)
            if found != wanted and not stopped.is_set():
                raise TraceError(
                    f"{self.path / name}: its bytes have changed since it was written (digest "
                    f"{found}, {META} says {wanted}); record or import it again"
                )

    def _check_rows(self, progress: Callable[[int, int], None] | None) -> None:
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


def _with_resolution(meta: Meta, freelist: Path) -> Meta:
    """Let the free list's resolution be what the file says where the header does not.

    A trace without a free list has none, whatever its header says.
    """
    if not freelist.exists():
        return replace(meta, freelist_resolution=None)
    if meta.freelist_resolution is not None:
        return meta
    sampled = FileSource(_regular(freelist), "freelist", SCHEMAS["freelist"]).sampled
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
