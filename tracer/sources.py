"""Where a table's batches come from: an Arrow IPC file, mapped, or a table in memory."""

from __future__ import annotations

import mmap
import os
import struct
from collections import OrderedDict
from concurrent.futures import Future
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Protocol

import pyarrow as pa
import xxhash

from tracer.errors import TraceError
from tracer.rows import Rows, rows_of

_HASH_CHUNK = 16 << 20
_RECENT_BATCHES = 16
# An Arrow IPC file: the magic number in 8 bytes, then messages, each behind a marker and its size.
_MAGIC, _CONTINUES, _RECORD_BATCH = b"ARROW1\0\0", 0xFFFFFFFF, 3
#: So much of a message is read at once: the header of a batch of a few columns.
_HEADER_BYTES = 1024


class Source(Protocol):
    """One table: `offsets` are the row numbers at which its batches begin, and its length."""

    where: str

    @property
    def offsets(self) -> list[int]:
        """Where the batches begin."""

    def rows(self, index: int) -> Rows:
        """Return the rows of a batch; raises TraceError where it cannot be read."""

    def digest(self) -> str:
        """Return the xxh3-128 hex digest of the table's bytes."""


class MemorySource:
    """A table in memory."""

    def __init__(self, name: str, table: pa.Table):
        self.where = f"{name}.arrow"
        self._batches = [batch for batch in table.to_batches() if batch.num_rows]

    @cached_property
    def offsets(self) -> list[int]:
        """Where the batches begin."""
        return [0, *accumulate(batch.num_rows for batch in self._batches)]

    def rows(self, index: int) -> Rows:
        """Return the rows of a batch."""
        return rows_of(self._batches[index], f"{self.where}, row", self.offsets[index])

    def digest(self) -> str:
        """Return the xxh3-128 hex digest of the rows."""
        digest = xxhash.xxh3_128()
        for batch in self._batches:
            digest.update(batch.serialize())
        return digest.hexdigest()


class FileSource:
    """An Arrow IPC file, mapped into memory."""

    def __init__(self, path: Path, name: str, schema: pa.Schema):
        self.where = str(path)
        self._path = path
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
            raise TraceError(
                f"{path}: no complete Arrow IPC file ({_first_line(error)}); it was cut short, or "
                "is something else (an Arrow stream, perhaps: write it with pyarrow.ipc.new_file)"
            ) from None
        # One trace is gone through many times, by replays side by side too: a batch that several
        # want is decompressed once, a small trace altogether.
        self._recent: OrderedDict[int, Future[Rows]] = OrderedDict()
        self._lock, self._reading = Lock(), Lock()
        # A mapped batch is only a view of the file, but to make one asks the kernel to read ahead
        # all of its pages: well the first time, and as long as replaying some of its rows later.
        self._mapped: dict[int, Rows] = {}
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
    def _batches(self) -> tuple[list[int], bool]:
        """The batches' lengths, and whether reading one costs more than a look at its place."""
        count = self._reader.num_record_batches
        found = _described(self._path)
        if len(found) == count:
            return [rows for rows, _ in found], any(compressed for _, compressed in found)
        return [self._decode(index).num_rows for index in range(count)], True

    @cached_property
    def offsets(self) -> list[int]:
        """Where the batches begin."""
        return [0, *accumulate(self._batches[0])]

    def rows(self, index: int) -> Rows:
        """Return the rows of a batch; raises TraceError where it cannot be read."""
        _, compressed = self._batches
        if compressed:
            return self._ahead(index).result()
        found = self._mapped.get(index)
        if found is None:
            found = self._mapped[index] = self._rows(index)
        return found

    def _ahead(self, index: int) -> Future[Rows]:
        """Have a batch decompressed, and the next one while this one is being used."""
        with self._lock:
            for wanted in range(index, min(index + 2, self._reader.num_record_batches)):
                if wanted not in self._recent:
                    self._recent[wanted] = self._begin(wanted)
                self._recent.move_to_end(wanted)
            while len(self._recent) > _RECENT_BATCHES:
                self._recent.popitem(last=False)
            return self._recent[index]

    def _begin(self, index: int) -> Future[Rows]:
        # A thread for each batch: one that waits for work would outlive an interrupt that comes
        # while it is started, and the process could not end.
        future: Future[Rows] = Future()

        def work() -> None:
            try:
                future.set_result(self._rows(index))
            except BaseException as error:  # whoever waits for it gets it
                future.set_exception(error)

        Thread(target=work).start()
        return future

    def _rows(self, index: int) -> Rows:
        batch, length = self._decode(index), self._batches[0][index]
        if batch.num_rows != length:
            raise TraceError(
                f"{self._path}, batch {index}: corrupt (it has {batch.num_rows} rows, and {length} "
                "where batches are read in file order)"
            )
        return rows_of(batch, f"{self.where}, row", self.offsets[index])

    def _decode(self, index: int) -> pa.RecordBatch:
        try:
            with self._reading:
                batch = self._reader.get_batch(index)
            batch.validate()
        except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
            raise TraceError(
                f"{self._path}, batch {index}: corrupt ({_first_line(error)})"
            ) from None
        return batch.select(self._names)

    def digest(self) -> str:
        """Return the xxh3-128 hex digest of the file's bytes."""
        return digest_file(self._path)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _described(path: Path) -> list[tuple[int, bool]]:
    """Return of each batch how many rows it has and whether it is compressed, in file order.

    pyarrow tells neither without decoding the batch, so the headers are read here (Arrow's
    Message.fbs: a Message has its kind, header and body length in fields 1 to 3, a RecordBatch its
    length and compression in 0 and 3). Empty where a header is not as expected.
    """
    found: list[tuple[int, bool]] = []
    try:
        with path.open("rb", buffering=0) as file:
            number, at = file.fileno(), len(_MAGIC)
            # Little is wanted of a large file: no reading ahead.
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_RANDOM)
            while True:
                data = os.pread(number, _HEADER_BYTES, at)
                marker, size = struct.unpack_from("<Ii", data)
                if marker != _CONTINUES or size < 0:
                    return []
                if size == 0:
                    return found
                if 8 + size > len(data):
                    data = os.pread(number, 8 + size, at)
                message = _table(data, 8)
                kind, body = _field(data, message, 1, "<B"), _field(data, message, 3, "<q")
                if kind == _RECORD_BATCH:
                    batch = _table(data, _place(data, message, 2))
                    rows = _field(data, batch, 0, "<q")
                    found.append((rows, _place(data, batch, 3) > 0))
                at += 8 + size + max(body, 0)
    except (OSError, ValueError, struct.error):
        return []


def _table(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _place(data: bytes, table: int, number: int) -> int:
    """Return where a field of a flatbuffer's table stands, 0 if it is left out."""
    shape = table - int(struct.unpack_from("<i", data, table)[0])
    if 4 + 2 * number >= struct.unpack_from("<H", data, shape)[0]:
        return 0
    at = int(struct.unpack_from("<H", data, shape + 4 + 2 * number)[0])
    return table + at if at else 0


def _field(data: bytes, table: int, number: int, kind: str) -> int:
    at = _place(data, table, number)
    return int(struct.unpack_from(kind, data, at)[0]) if at else 0


def digest_file(path: Path, stopped: Event | None = None) -> str:
    """Return the xxh3-128 hex digest of a file's bytes, or of some once `stopped` is set."""
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            if path.stat().st_size:
                with (
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                    memoryview(mapped) as view,
                ):
                    for at in range(0, len(view), _HASH_CHUNK):
                        if stopped is not None and stopped.is_set():
                            break
                        with view[at : at + _HASH_CHUNK] as part:
                            digest.update(part)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()
