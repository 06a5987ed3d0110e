"""Writing a trace so that it appears whole or not at all."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tracer.errors import TraceError, UsageError
from tracer.files import whole_directory
from tracer.format import META, MIGRATION, SAMPLED_FREELIST, SCHEMAS, SUFFIX, Meta, TableName
from tracer.sources import digest_file
from tracer.trace import Trace

Compression = Literal["none", "lz4", "zstd"]

#: Rows of a batch: small enough that a reader's few batches stay in cache.
BATCH_ROWS = 1 << 17


class TraceWriter:
    """Writes a trace beside `path` and moves it there when all is well.

    Use it as a context manager: `write(table, column=…)` as often as needed, rows ascending in
    time, then `finish(meta)`. Leaving the block without `finish`, by an error or not, leaves no
    trace behind and an existing one untouched. `sampled` says that free-list rows carry
    `since_ns`. `finish` checks every row as a reader would and raises TraceError.

    Raises UsageError if `path` exists and not `force`, or does not end in `.trace`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sampled: bool = False,
        compression: Compression = "zstd",
        force: bool = False,
    ):
        self.path = Path(path)
        refuse_foreign(self.path)
        self._force = force
        self._sampled = sampled
        self._options = pa.ipc.IpcWriteOptions(
            compression=None if compression == "none" else compression
        )
        self._writers: dict[TableName, pa.ipc.RecordBatchFileWriter] = {}
        self._sinks: list[pa.OSFile] = []
        self._waiting: dict[TableName, list[pa.Table]] = {}
        self._finished = False
        self._stack = ExitStack()

    def __enter__(self) -> TraceWriter:
        self._temporary = self._stack.enter_context(whole_directory(self.path, force=self._force))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        if error is None and not self._finished:
            error = _Unfinished()
            kind, traceback = type(error), None
        with suppress(_Unfinished):
            self._stack.__exit__(kind, error, traceback)

    def write(self, table: TableName, **columns: Any) -> None:
        """Append rows: one array-like for each column of `tracer.format.SCHEMAS[table]`."""
        schema = self._schema(table)
        arrays = [pa.array(np.asarray(columns[field.name]), field.type) for field in schema]
        self.append(table, pa.table(arrays, schema=schema))

    def append(self, table: TableName, rows: pa.Table) -> None:
        """Append an Arrow table of the table's schema."""
        waiting = self._waiting.setdefault(table, [])
        waiting.append(rows)
        if sum(part.num_rows for part in waiting) >= BATCH_ROWS:
            self._flush(table)

    def finish(self, meta: Meta, migration: dict[str, Any] | None = None) -> None:
        """Write what waits, the header with its digests and `migration.json`; check every row."""
        self._waiting.setdefault("dirty", [])
        for table in self._waiting:
            self._flush(table)
        self._close()
        if migration is not None:
            text = json.dumps(migration, indent=1) + "\n"
            (self._temporary / MIGRATION).write_text(text, encoding="utf-8")
        digests = {file.name: digest_file(file) for file in sorted(self._temporary.iterdir())}
        meta = replace(meta, digests=digests)
        (self._temporary / META).write_text(meta.to_json(), encoding="utf-8")
        try:
            Trace.open(self._temporary).validate(digests=False)
        except TraceError as error:
            raise type(error)(str(error).replace(str(self._temporary), str(self.path))) from None
        self._finished = True

    def _close(self) -> None:
        for stream in (*self._writers.values(), *self._sinks):
            stream.close()
        self._writers.clear()
        self._sinks.clear()

    def _schema(self, table: TableName) -> pa.Schema:
        return SAMPLED_FREELIST if table == "freelist" and self._sampled else SCHEMAS[table]

    def _flush(self, table: TableName) -> None:
        if table not in self._writers:
            sink = pa.OSFile(str(self._temporary / f"{table}.arrow"), "wb")
            self._sinks.append(sink)
            self._writers[table] = pa.ipc.new_file(sink, self._schema(table), options=self._options)
        waiting = self._waiting[table]
        if waiting:
            rows = pa.concat_tables(waiting).combine_chunks()
            self._writers[table].write_table(rows, max_chunksize=BATCH_ROWS)
            waiting.clear()


def refuse_foreign(path: Path) -> None:
    """Raise UsageError where `path` is no place for a trace, whatever the user forces."""
    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: a trace's name ends in {SUFFIX}")
    if path.is_dir() and not (path / META).exists() and any(path.iterdir()):
        raise UsageError(f"{path}: holds something else than a trace and will not be replaced")


class _Unfinished(Exception):  # noqa: N818 - a signal, not an error
    """Tells `whole_directory` that the block ended without `finish`."""
