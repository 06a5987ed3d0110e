"""A trace whose recording has not ended: the journal that a recorder writes as it goes.

A killed recorder leaves `X.trace/` with `meta.json` and one Arrow IPC *stream*, the journal: that
format, unlike the file format of a finished trace, can be read as far as it was written. Each of
its rows is a row of one of the trace's tables, or a mark: everything before a mark belongs
together, and the tables are complete up to its time. What follows the last mark is left out, so
that an epoch is there with all its rows or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import IntEnum
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from tracer.errors import TraceError
from tracer.format import MAX_DURATION_NS, SAMPLED_FREELIST, SCHEMAS, Meta, TableName
from tracer.rows import Rows, rows_of
from tracer.words import duration, size

JOURNAL = "recording.arrows"
_RECENT_BATCHES = 16
_HASH_CHUNK = 16 << 20


class Kind(IntEnum):
    """What a row of the journal is."""

    DIRTY = 0
    TAKEN = 1
    FREED = 2
    ZERO = 3
    EPOCH = 4
    MARK = 5


#: The kinds whose rows make up each table.
KINDS: Mapping[TableName, tuple[Kind, ...]] = {
    "dirty": (Kind.DIRTY,),
    "freelist": (Kind.TAKEN, Kind.FREED),
    "zero": (Kind.ZERO,),
    "epochs": (Kind.EPOCH,),
}

#: `page` and `count` are 0 in rows of tables that have none, `since_ns` where a list is no sample.
SCHEMA = pa.schema(
    [
        pa.field("kind", pa.uint8(), nullable=False),
        *SAMPLED_FREELIST.remove(SAMPLED_FREELIST.get_field_index("free")),
    ]
)


def open_unfinished(path: Path, meta: Meta) -> tuple[Meta, dict[TableName, UnfinishedTable]]:
    """Return header and tables of the unfinished trace at `path`, up to its journal's last mark.

    `meta` is what its meta.json says; the duration is the last mark's time. Reads the journal
    once, batch by batch. Raises TraceError where the journal is none; one that breaks off is fine.
    """
    journal = _Journal(path / JOURNAL)
    tables = {
        name: UnfinishedTable(journal, name, meta.freelist_resolution == "sampled")
        for name in SCHEMAS
        if name == "dirty" or journal.holds(name)
    }
    note = (
        "the recording has not ended, or was killed: this is what it wrote up to "
        f"{duration(journal.until_ns)}"
    )
    if journal.left_out:
        note += f" ({size(journal.left_out)} of a beginning after that are left out)"
    notes = (*_notes(meta.source), note)
    listed = meta.freelist_resolution if "freelist" in tables else None
    meta = replace(
        meta,
        duration_ns=journal.until_ns,
        freelist_resolution=listed,
        source={**meta.source, "notes": list(notes)},
    )
    return meta, tables


def _notes(source: Mapping[str, Any]) -> tuple[Any, ...]:
    notes = source.get("notes")
    return tuple(notes) if isinstance(notes, list | tuple) else ()


class UnfinishedTable:
    """One table of a journal: a source of rows as `tracer.trace` wants it."""

    def __init__(self, journal: _Journal, name: TableName, sampled: bool):
        self.where = f"{journal.path} ({name})"
        self._journal = journal
        self._kinds = KINDS[name]
        sampled = sampled and name == "freelist"
        self._schema = SAMPLED_FREELIST if sampled else SCHEMAS[name]
        rows = [sum(int(counts[kind]) for kind in self._kinds) for counts in journal.counts]
        #: Batches of the journal that hold rows of this table.
        self._batches = [index for index, number in enumerate(rows) if number]
        self.offsets = [0, *accumulate(number for number in rows if number)]

    def rows(self, index: int) -> Rows:
        """Return the table's rows in its batch number `index`."""
        return self._recent(index)

    @cached_property
    def _recent(self) -> Callable[[int], Rows]:
        return lru_cache(_RECENT_BATCHES)(self._decode)

    def _decode(self, index: int) -> Rows:
        batch = self._journal.decode(self._batches[index])
        kinds = batch.column("kind").to_numpy()
        mine = np.isin(kinds, self._kinds)
        found = batch.filter(pa.array(mine))
        columns = {field.name: found.column(field.name) for field in SCHEMA}
        columns["free"] = pa.array(kinds[mine] == Kind.FREED)
        try:
            arrays = [columns[field.name].cast(field.type) for field in self._schema]
        except pa.ArrowInvalid as error:
            raise TraceError(f"{self.where}, batch {index}: corrupt ({error})") from None
        batch = pa.record_batch(arrays, schema=self._schema)
        return rows_of(batch, f"{self.where}, row", self.offsets[index])

    def digest(self) -> str:
        """Return the xxh3-128 digest of the journal, up to the last mark."""
        return self._journal.digest


class _Journal:
    """A journal, mapped into memory, as far as it is whole.

    counts[i][kind]: rows of batch i by kind. until_ns: time of the last mark, 0 before the first.
    left_out: bytes after the batch with the last mark.
    """

    def __init__(self, path: Path):
        self.path = path
        self.counts: list[npt.NDArray[np.int64]] = []
        self.until_ns = 0
        self._begins: list[int] = []
        if not path.is_file():
            raise TraceError(f"{path}: is no regular file; this is no trace")
        size = path.stat().st_size
        self._end = 0
        if size:
            self._mapped = pa.memory_map(str(path))
            self._read()
        self.left_out = size - self._end

    def _read(self) -> None:
        try:
            found = pa.ipc.read_schema(self._mapped)
        except (pa.ArrowException, OSError, EOFError):
            return  # killed before the first row
        if not found.equals(SCHEMA):
            raise TraceError(
                f"{self.path}: is no journal of a recording (its columns are "
                f"{', '.join(found.names)}; wanted {', '.join(SCHEMA.names)})"
            )
        self._end = self._mapped.tell()
        begins: list[int] = []
        counts: list[npt.NDArray[np.int64]] = []
        while (batch := self._next(begins)) is not None:
            kinds = batch.column("kind").to_numpy()
            if len(kinds) and int(kinds.max()) > Kind.MARK:
                raise TraceError(f"{self.path}, batch {len(begins) - 1}: a row of unknown kind")
            counts.append(np.bincount(kinds, minlength=len(Kind)))
            if len(kinds) and kinds[-1] == Kind.MARK:
                self._mark(int(batch.column("t_ns")[-1].as_py()), len(begins) - 1)
                self._begins, self.counts = begins[:], counts[:]
                self._end = self._mapped.tell()

    def _mark(self, until_ns: int, batch: int) -> None:
        if not self.until_ns <= until_ns <= MAX_DURATION_NS:
            raise TraceError(
                f"{self.path}, batch {batch}: a mark at {until_ns} ns after one at {self.until_ns}"
            )
        self.until_ns = until_ns

    def _next(self, begins: list[int]) -> pa.RecordBatch | None:
        """Return the next batch and note where it begins; None where no whole one follows."""
        begin = self._mapped.tell()
        try:
            batch = self._batch(pa.ipc.read_message(self._mapped))
        except (pa.ArrowException, OSError, EOFError):
            return None
        begins.append(begin)
        return batch

    def _batch(self, message: pa.ipc.Message) -> pa.RecordBatch:
        batch = pa.ipc.read_record_batch(message, SCHEMA)
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
            raise pa.ArrowInvalid("a null")
        return batch

    def decode(self, index: int) -> pa.RecordBatch:
        """Return batch `index`."""
        try:
            self._mapped.seek(self._begins[index])
            return self._batch(pa.ipc.read_message(self._mapped))
        except (pa.ArrowException, OSError, EOFError) as error:
            raise TraceError(f"{self.path}, batch {index}: corrupt ({error})") from None

    def holds(self, name: TableName) -> bool:
        """Return whether a row of table `name` is there."""
        return any(counts[kind] for counts in self.counts for kind in KINDS[name])

    @cached_property
    def digest(self) -> str:
        digest = xxhash.xxh3_128()
        if self._end:
            self._mapped.seek(0)
            left = self._end
            while left:
                part = self._mapped.read(min(left, _HASH_CHUNK))
                digest.update(part)
                left -= len(part)
        return digest.hexdigest()
