"""Ranges of a process's pages: what ioctl(PAGEMAP_SCAN) answers, as text or as it is.

Binary, one file a scan: struct page_region of include/uapi/linux/fs.h, three little-endian 64-bit
words: start, end, categories. Text, one file for all scans: lines `SECONDS START-END [CATEGORIES]`,
addresses in hex, categories as a number or as names (`written|present`); equal times are one scan.
Of ranges with categories those count that are written or soft-dirty; pfnzero ones are zeros. A
range without categories counts as written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from tracer.errors import TraceError
from tracer.format import Meta
from tracer.readers.address_space import AddressSpace
from tracer.readers.digits import decimal, find, hexadecimal, is_at, number
from tracer.readers.epoch_files import Times, epochs_of, find_files
from tracer.readers.report import ReadReport
from tracer.readers.rows_out import write_epochs
from tracer.readers.spool import RECORD, Records, Spool
from tracer.readers.streams import Progress, read_blocks, read_lines
from tracer.rows import NO_TIMES, Int64s
from tracer.writer import Compression, TraceWriter

if TYPE_CHECKING:
    import numpy.typing as npt

_WRITTEN, _ZERO, _SOFT_DIRTY = 1 << 1, 1 << 5, 1 << 7
_REGION = 24
_DIRTY_ROW, _ZERO_ROW, _OTHER_ROW = 0, 1, 2
_NEWLINE, _CARRIAGE, _SPACE, _HASH, _DOT, _DASH = 10, 13, 32, 35, 46, 45
_COLON = 58
_WRITTEN_WORD = np.frombuffer(b"written", np.uint8)
_SOFT_WORD = np.frombuffer(b"soft", np.uint8)
_ZERO_WORD = np.frombuffer(b"pfnzero", np.uint8)
_HEX = np.frombuffer(b"0x", np.uint8)
_MOST_SECONDS = 1 << 33


def import_page_ranges(
    paths: Sequence[str | Path],
    *,
    out: str | Path,
    times: Times | None = None,
    unit_ns: int = 10**9,
    interval_ns: int | None = None,
    page_size: int = 4096,
    force: bool = False,
    compression: Compression = "zstd",
    progress: Progress | None = None,
) -> ReadReport:
    """Import scans into the trace `out`: one text, or binary files in their order.

    The first scan of a text is time zero and its pages are left out: since when they were written
    is not known; with `interval_ns` they were written in an epoch of that length. `times` and
    `unit_ns` are for binary files, as for bitmaps.

    Raises UsageError for options that do not fit, TraceError with file and line or byte for what is
    no range; nothing is left at `out` then.
    """
    stdin = [str(path) for path in paths] == ["-"]
    left_out: list[str] = []
    files = [Path("-")] if stdin else find_files(paths, left_out)
    with (
        TraceWriter(Path(out), compression=compression, force=force) as writer,
        Spool(str(files[0])) as spool,
    ):
        job = _Job(files, page_size, progress)
        job.notes += left_out
        if not stdin and len(files) == 1 and not files[0].stat().st_size:
            raise TraceError(f"{files[0]}: is empty; did the scan run?")
        if len(files) == 1 and _is_text(files[0]):
            zero = job.read_text(spool, interval_ns)
        else:
            job.need_regions(files[0])
            epochs = epochs_of(files, times, unit_ns=unit_ns, interval_ns=interval_ns)
            zero = epochs.zero
            job.read_regions(spool, [zero + end for end in epochs.ends])
        return job.write(writer, spool, zero)


def _is_text(path: Path) -> bool:
    """Whether a file is text; only its beginning is looked at, and `-` is always text."""
    if str(path) == "-":
        return True
    head = next(read_blocks(path, [], None), b"")[:4096]
    return bool(head) and not any(byte < 9 or byte > 126 for byte in head)


class _Job:
    def __init__(self, files: list[Path], page_size: int, progress: Progress | None):
        self._files, self._page_size, self._progress = files, page_size, progress
        self._space = AddressSpace(page_size)
        self._cuts: list[str] = []
        self._lines = self._bytes = self._others = 0
        self._ends: list[npt.NDArray[np.int64]] = []
        self.notes: list[str] = []

    def _add(self, spool: Spool, records: Records, ends: Int64s) -> None:
        """Take ranges: a the first page, line how many pages they are."""
        self._others += int(np.count_nonzero(records["kind"] == _OTHER_ROW))
        records = records[records["kind"] != _OTHER_ROW]
        self._space.see(records["a"], records["line"].astype(np.int64))
        self._ends.append(np.unique(ends))
        spool.add(records)

    def read_text(self, spool: Spool, interval_ns: int | None) -> int:
        """Read a text; return its time zero."""
        path, first = self._files[0], None
        for chunk in read_lines(path, self._cuts, self._progress):
            records = np.zeros(chunk.count(b"\n"), RECORD)
            rows, bad = _parse(
                np.frombuffer(chunk, np.uint8), self._page_size, records["t"], records["a"],
                records["line"], records["kind"],
            )  # fmt: skip
            if bad >= 0:
                text = chunk.split(b"\n", bad + 1)[bad][:80].decode("utf-8", "replace")
                raise TraceError(
                    f"{path}, line {self._lines + bad + 1}: {text!a} is no 'SECONDS START-END "
                    f"[CATEGORIES]' of whole pages of {self._page_size} bytes"
                )
            self._lines += len(records)
            self._bytes += len(chunk)
            records = records[:rows]
            if first is None and rows:
                first = int(records["t"][0])
            if first is not None and np.any(records["t"] < first):
                raise TraceError(
                    f"{path}: up to line {self._lines} there is a time before that of the first "
                    "line; scans follow each other"
                )
            if interval_ns is None:
                records = records[records["t"] > first] if rows else records
            self._add(spool, records, records["t"])
        spool.finish()
        if first is None:
            raise TraceError(f"{path}: {self._lines} lines and no range among them")
        if interval_ns is None and not spool.events:
            raise TraceError(
                f"{path}: all ranges are of one scan, and since when they were written is not "
                "known; pass --interval, or scan again"
            )
        if interval_ns is None:
            self.notes.append("the first scan is time zero; since when its pages were written is "
                              "not known, and they are left out (--interval)")  # fmt: skip
        return first - (interval_ns or 0)

    def need_regions(self, path: Path) -> None:
        """Raise TraceError where a file does not begin with regions."""
        for _ in self._regions(path):
            return

    def _regions(self, path: Path) -> Iterator[npt.NDArray[np.int64]]:
        """Yield a file's start, end and categories, int64 (n, 3); raises TraceError for others."""
        size, rest, at = self._page_size, b"", 0
        for block in read_blocks(path, self._cuts, None):
            data = rest + block
            whole = len(data) // _REGION * _REGION
            table, rest = np.frombuffer(data[:whole], "<i8").reshape(-1, 3), data[whole:]
            start, stop, _ = table.T
            bad = np.flatnonzero((start < 0) | (stop <= start) | (start % size) | (stop % size))
            if len(bad):
                raise TraceError(
                    f"{path}, byte {at + int(bad[0]) * _REGION}: {int(start[bad[0]]):#x}-"
                    f"{int(stop[bad[0]]):#x} is no range of whole pages of {size} bytes"
                )
            if np.any(stop - start >= size << 32):
                raise TraceError(f"{path}: a range of more than 2^32 pages; no page_region")
            at += whole
            yield table
        if rest or self._cuts:
            raise TraceError(
                f"{path}: {at + len(rest)} bytes, no whole number of regions of {_REGION} bytes; "
                "it was cut short, or is something else"
            )

    def read_regions(self, spool: Spool, ends: list[int]) -> None:
        """Read binary files, whose epochs ended at `ends`."""
        for done, (path, end) in enumerate(zip(self._files, ends, strict=True), 1):
            self._ends.append(np.array([end]))
            for table in self._regions(path):
                self._add(spool, self._records(table, end), NO_TIMES)
                self._bytes += table.nbytes
            if self._progress is not None:
                self._progress(done, len(self._files))
        spool.finish()

    def _records(self, table: npt.NDArray[np.int64], end: int) -> Records:
        start, stop, categories = table.T
        records = np.zeros(len(table), RECORD)
        records["t"], records["a"] = end, start // self._page_size
        records["line"] = (stop - start) // self._page_size
        written = (categories & (_WRITTEN | _SOFT_DIRTY)) != 0
        records["kind"] = np.where(written | (categories == 0), _DIRTY_ROW, _OTHER_ROW)
        records["kind"][written & ((categories & _ZERO) != 0)] = _ZERO_ROW
        return records

    def write(self, writer: TraceWriter, spool: Spool, zero: int) -> ReadReport:
        """Write the trace."""
        space = self._space
        space.close()
        rows = {"dirty": 0, "zero": 0}
        pages = 0
        for records in spool.chunks():
            t, count = records["t"] - zero, records["line"].astype(np.int64)
            page = space.page_of(records["a"])
            writer.write("dirty", t_ns=t, page=page, count=count)
            empty = records["kind"] == _ZERO_ROW
            writer.write("zero", t_ns=t[empty], page=page[empty], count=count[empty])
            rows["dirty"] += len(t)
            rows["zero"] += int(np.count_nonzero(empty))
            pages += int(count.sum())
        ends = np.unique(np.concatenate(self._ends)) - zero
        rows["epochs"] = write_epochs(writer, ends)
        notes = [*self.notes, space.note()]
        if self._others:
            notes.append(f"{self._others} ranges are neither written nor soft-dirty: left out")
        meta = Meta(
            page_size=self._page_size,
            pages=space.pages,
            duration_ns=int(ends[-1]),
            blocks=space.blocks,
            resolution="epoch",
            source={
                "recorder": "page-ranges",
                "scans": len(ends),
                "clock_zero_ns": zero,
                "notes": notes,
            },
            clock="host",
        )
        writer.finish(meta)
        read = {"lines": self._lines} if self._lines else {"files": len(self._files)}
        return ReadReport.of(
            writer.path,
            meta,
            rows=rows,
            read={**read, "scans": len(ends), "pages dirtied": pages},
            bytes_read=self._bytes,
            cut=tuple(f"{self._files[0]}: {cut}" for cut in self._cuts),
            notes=tuple(notes),
        )


@njit(cache=True, nogil=True)
def _parse(data, page_size, t, a, count, kind):  # type: ignore[no-untyped-def]
    """Fill one row a range; return the rows, and the number of a bad line or -1."""
    rows, start, line = 0, 0, 0
    while start < len(data):
        end = start
        while data[end] != _NEWLINE:
            end += 1
        stop = end - 1 if end > start and data[end - 1] == _CARRIAGE else end
        if start < stop and data[start] != _HASH:
            at, seconds, good = decimal(data, start, stop)
            ns = 0
            if good and at < stop and data[at] == _DOT:
                after, ns, good = decimal(data, at + 1, stop)
                good = good and after - at <= 10
                for _ in range(10 - (after - at)):
                    ns *= 10
                at = after
            if good and at < stop and data[at] == _COLON:
                at += 1
            good = good and at < stop and data[at] == _SPACE and seconds < _MOST_SECONDS
            while good and at < stop and data[at] == _SPACE:
                at += 1
            first, last = 0, 0
            if good:
                at += 2 if is_at(data, at, stop, _HEX) else 0
                at, first, good = hexadecimal(data, at, stop)
            if good and at < stop and data[at] == _DASH:
                at += 3 if is_at(data, at + 1, stop, _HEX) else 1
                at, last, good = hexadecimal(data, at, stop)
            else:
                good = False
            good = good and (at == stop or data[at] == _SPACE)
            pages = (last - first) // page_size
            if not good or last <= first or first % page_size or last % page_size:
                return rows, line
            if pages >= 1 << 32:
                return rows, line
            t[rows], a[rows], count[rows] = seconds * 1_000_000_000 + ns, first // page_size, pages
            kind[rows] = _kind(data, at, stop)
            rows += 1
        start = end + 1
        line += 1
    return rows, -1


@njit(cache=True, nogil=True)
def _kind(data, at, end):  # type: ignore[no-untyped-def]
    while at < end and data[at] == _SPACE:
        at += 1
    if at == end:
        return _DIRTY_ROW
    if 48 <= data[at] <= 57:
        _, categories, _ = number(data, at, end)
        written = (categories & (_WRITTEN | _SOFT_DIRTY)) != 0
        zero = (categories & _ZERO) != 0
        if categories == 0:
            return _DIRTY_ROW
    else:
        written = find(data, at, end, _WRITTEN_WORD) >= 0 or find(data, at, end, _SOFT_WORD) >= 0
        zero = find(data, at, end, _ZERO_WORD) >= 0
    if not written:
        return _OTHER_ROW
    return _ZERO_ROW if zero else _DIRTY_ROW
