"""Writing a trace while it is being recorded, so that a killed recorder loses its last moment only.

See `tracer.unfinished` for what is on disk meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from tracer.errors import DirtylogError
from tracer.files import is_full, whole_directory
from tracer.format import FORMAT, META, VERSION, Meta, TableName
from tracer.trace import Trace
from tracer.unfinished import JOURNAL, SCHEMA, Kind
from tracer.writer import BATCH_ROWS, Compression, TraceWriter, refuse_foreign

#: Runs of dirty pages are counted in 32 bits.
_LONGEST_RUN = (1 << 32) - 1
_KIND = {"dirty": Kind.DIRTY, "zero": Kind.ZERO, "epochs": Kind.EPOCH}
#: The journal is compressed quickly and the finished trace well.
_QUICK = pa.ipc.IpcWriteOptions(compression="lz4")


class StreamingWriter:
    """Writes rows as they come; a trace at `path` opens up to the last `commit` at any moment.

    Use it as a context manager: `write` as often as needed, rows of a table ascending in time;
    `commit(until_ns)` when all is written that happened until then; `finish()` at the end, which
    turns what is there into a trace like any other. Nothing appears at `path`, and an existing
    trace stays, before the first commit; leaving the block without `finish` leaves what was
    committed as an unfinished trace, which opens and replays like any other. `meta` is the header;
    its duration is set here.

    Raises UsageError if `path` exists and not `force`, or does not end in `.trace`.
    """

    def __init__(self, path: str | Path, meta: Meta, *, force: bool = False):
        self.path = Path(path)
        self.meta = meta
        #: Rows written so far, by table.
        self.rows: dict[TableName, int] = {"dirty": 0}
        self.until_ns = 0
        refuse_foreign(self.path)
        self._place = whole_directory(self.path, force=force)
        self._waiting: list[pa.RecordBatch] = []
        self._in_place = False

    def __enter__(self) -> StreamingWriter:
        self._temporary = self._place.__enter__()
        self._sink = pa.OSFile(str(self._temporary / JOURNAL), "wb")
        self._journal = pa.ipc.new_stream(self._sink, SCHEMA, options=_QUICK)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._close()
        except OSError as late:
            error = error or late
        if not self._in_place:
            with suppress(_Abandoned):
                self._place.__exit__(_Abandoned, _Abandoned(), None)
        if is_full(error):
            left = "; it opens up to where it goes" if self._in_place else "; nothing was recorded"
            raise DirtylogError(f"{self.path}: No space left on device{left}") from None
        if kind is None and error is not None:
            raise error

    def write(self, table: TableName, **columns: Any) -> None:
        """Add rows: one array-like for each column of the table, as `TraceWriter.write` takes them.

        Dirty runs may be of any length.
        """
        t = np.asarray(columns["t_ns"], np.int64)
        page, count, since = (
            np.asarray(columns[name], np.uint64) if name in columns else np.zeros(len(t), np.uint64)
            for name in ("page", "count", "since_ns")
        )
        if table == "dirty" and len(count) and int(count.max()) > _LONGEST_RUN:
            t, page, count, since = _cut(t, page, count)
        if table == "freelist":
            kinds = np.where(np.asarray(columns["free"], bool), Kind.FREED, Kind.TAKEN)
        else:
            kinds = np.full(len(t), _KIND[table])
        self.rows[table] = self.rows.get(table, 0) + len(t)
        self._add(kinds, t, page, count, since)

    def commit(self, until_ns: int) -> None:
        """Put everything written on disk: the recording is complete up to `until_ns`."""
        zero = np.zeros(1, np.uint64)
        self._add(np.array([Kind.MARK]), np.array([until_ns], np.int64), zero, zero, zero)
        self._flush()
        self.until_ns = until_ns
        if not self._in_place:
            self._move()

    def finish(
        self,
        *,
        source: Mapping[str, Any] | None = None,
        migration: dict[str, Any] | None = None,
        compression: Compression = "zstd",
        progress: Callable[[int, int], None] | None = None,
    ) -> Trace:
        """Make the finished trace of what was committed, and return it opened.

        `source` is added to the header's. `progress(done, total)` is called with rows. An
        interrupt leaves the unfinished trace as it is.
        """
        if not self._in_place:
            self.commit(self.until_ns)
        self._close()
        found = Trace.open(self.path)
        meta = replace(
            self.meta,
            duration_ns=found.meta.duration_ns,
            freelist_resolution=found.meta.freelist_resolution,
            source={**self.meta.source, **(source or {})},
        )
        sampled = meta.freelist_resolution == "sampled"
        with TraceWriter(self.path, sampled=sampled, compression=compression, force=True) as writer:
            total, done = sum(self.rows.values()), 0
            for table in self.rows:
                for rows in found.rows(table):
                    names = {"page": rows.page, "count": rows.count, "free": rows.free}
                    writer.write(table, t_ns=rows.t, since_ns=rows.since, **names)
                    done += len(rows.t)
                    if progress is not None:
                        progress(done, total)
            writer.finish(meta, migration)
        return Trace.open(self.path)

    def _add(self, kinds: Any, t: Any, page: Any, count: Any, since: Any) -> None:
        columns = {"kind": kinds, "t_ns": t, "page": page, "count": count, "since_ns": since}
        arrays = [pa.array(np.asarray(columns[f.name]), f.type) for f in SCHEMA]
        self._waiting.append(pa.record_batch(arrays, schema=SCHEMA))
        if sum(batch.num_rows for batch in self._waiting) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows = pa.Table.from_batches(self._waiting, SCHEMA).combine_chunks()
        self._waiting.clear()
        self._journal.write_table(rows, max_chunksize=BATCH_ROWS)

    def _move(self) -> None:
        """Give the recording its name: from here on a killed recorder leaves a trace."""
        body = {"format": FORMAT, "version": VERSION, **asdict(self.meta), "recording": True}
        (self._temporary / META).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
        self._place.__exit__(None, None, None)
        self._in_place = True

    def _close(self) -> None:
        if not self._sink.closed:
            self._journal.close()
            self._sink.close()


def _cut(t: Any, page: Any, count: Any) -> tuple[Any, Any, Any, Any]:
    """Cut runs that are too long for a dirty row."""
    parts = [
        (when, first + at, min(_LONGEST_RUN, pages - at))
        for when, first, pages in zip(t.tolist(), page.tolist(), count.tolist(), strict=True)
        for at in range(0, pages, _LONGEST_RUN)
    ]
    cut = np.array(parts, np.uint64).reshape(-1, 3)
    return cut[:, 0].astype(np.int64), cut[:, 1], cut[:, 2], np.zeros(len(cut), np.uint64)


class _Abandoned(Exception):  # noqa: N818 - a signal, not an error
    """Tells `whole_directory` that nothing was committed."""
