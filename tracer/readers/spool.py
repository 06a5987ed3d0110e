"""Events on their way into a trace: put in order of time, and kept out of memory until then."""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from types import TracebackType

import numpy as np
import numpy.typing as npt

from tracer.errors import TraceError
from tracer.words import duration

#: One event: ns of the recording's clock, two numbers, a kind, and the line it stands in.
RECORD = np.dtype([("t", "<i8"), ("a", "<i8"), ("line", "<u4"), ("b", "<i4"), ("kind", "u1")])
Records = npt.NDArray[np.void]

#: Several CPUs' buffers are merged by their readers, but not always quite in order of time.
WINDOW_NS = 100_000_000
_WINDOW_ROWS = 1 << 20
#: The events stay in memory up to this size and go to a temporary file beyond it.
_SPOOL_BYTES = 128 << 20
_AT_ONCE = 1 << 18


class Spool:
    """Takes records in the order of their lines and gives them back in the order of their times.

    Events may come up to 100 ms late (and no more than 2^20 events); later ones are refused with
    `where` and their line. Use it as a context manager: it holds a temporary file.
    """

    def __init__(self, where: str):
        self._where = where
        self._file = SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - __exit__ closes
        self._held: Records = np.empty(0, RECORD)
        self._written_ns = np.iinfo(np.int64).min
        self.events = 0
        self.late = 0
        self.latest_ns = 0
        self.first_ns = 0
        self.last_ns = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, records: Records) -> None:
        """Take more records. Raises TraceError for one that comes too late to be put in order."""
        if not len(records):
            return
        self.events += len(records)
        t = records["t"]
        before = np.maximum.accumulate(t)
        before = np.maximum(before, self._held["t"][-1]) if len(self._held) else before
        late = before - t
        self.late += int(np.count_nonzero(late))
        self.latest_ns = max(self.latest_ns, int(late.max()))
        bad = np.flatnonzero(t < self._written_ns)
        if len(bad):
            line, by = int(records["line"][bad[0]]), int(late[bad[0]])
            raise TraceError(
                f"{self._where}, line {line}: its time is {duration(by)} before that of a line "
                "further up; lines may be out of order by 100 ms at most (is this more than one "
                "recording?)"
            )
        held = np.concatenate((self._held, records))
        if self.late:
            held = held[np.argsort(held["t"], kind="stable")]
        until = int(held["t"][-1]) - WINDOW_NS
        ready = max(int(np.searchsorted(held["t"], until)), len(held) - _WINDOW_ROWS)
        self._write(held[:ready])
        self._held = held[ready:]

    def finish(self) -> None:
        """Say that all records have been given."""
        self._write(self._held)
        self._held = self._held[:0]

    def chunks(self) -> Iterator[Records]:
        """Yield the records in order of time, some at a time, after `finish`."""
        self._file.seek(0)
        while data := self._file.read(_AT_ONCE * RECORD.itemsize):
            yield np.frombuffer(data, RECORD)

    def _write(self, records: Records) -> None:
        if not len(records):
            return
        if self._written_ns == np.iinfo(np.int64).min:
            self.first_ns = int(records["t"][0])
        self._written_ns = self.last_ns = int(records["t"][-1])
        self._file.write(records.tobytes())
