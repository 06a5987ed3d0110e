"""Every write of a process, out of what Valgrind's Lackey prints with --trace-mem=yes.

`I  ADDR,SIZE` is an instruction, ` S` a store, ` M` a load and store of one, ` L` a load
(lackey/lk_main.c). There is no clock: the count of instructions is one. Time is cut in cells (the
quantum), and a page has one row in each cell in which it is written, at the cell's end. The pages
are those of the process's virtual memory; what the kernel writes there Lackey does not see.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from tracer.errors import TraceError, UsageError
from tracer.format import MAX_DURATION_NS, Meta
from tracer.readers.address_space import AddressSpace
from tracer.readers.digits import decimal, hexadecimal
from tracer.readers.report import ReadReport
from tracer.readers.rows_out import write_pages
from tracer.readers.spool import RECORD, Spool
from tracer.readers.streams import Progress, read_lines
from tracer.rows import Int64s
from tracer.words import duration, setting, size
from tracer.writer import Compression, TraceWriter

if TYPE_CHECKING:
    import numpy.typing as npt

_NEWLINE, _CARRIAGE, _SPACE, _COMMA, _EQUAL, _MINUS = 10, 13, 32, 44, 61, 45
_I, _L, _S, _M = 73, 76, 83, 77
_INSTRUCTIONS, _LOADS, _STORES, _TEXT, _STRADDLING = range(5)
#: So many recent pages are known to be in the current cell already; the others are found later.
_CACHE = 1 << 14
_LARGEST_FACTOR = 10**6


def import_lackey(
    path: str | Path,
    *,
    out: str | Path,
    ns_per_instruction: Fraction = Fraction(1),
    quantum_ns: int = 1_000_000,
    page_size: int = 4096,
    force: bool = False,
    compression: Compression = "zstd",
    progress: Progress | None = None,
) -> ReadReport:
    """Import Lackey's text into the trace `out`, in resolution `write`.

    Raises UsageError for a clock that is none, TraceError with file and line for text that is not
    Lackey's; nothing is left at `out` then.
    """
    source = Path(path)
    scale = ns_per_instruction
    if not 0 < scale <= _LARGEST_FACTOR or scale.denominator > _LARGEST_FACTOR:
        raise UsageError(f"{scale} ns per instruction; wanted a number from 0.000001 to 1000000")
    if not 1 <= quantum_ns <= 10**12:
        raise UsageError(f"a quantum of {setting(quantum_ns)}; wanted 1 ns to 1000 s")
    if not 4096 <= page_size <= 1 << 30 or page_size & (page_size - 1):
        raise UsageError(
            f"a page size of {size(page_size)}; wanted a power of two from 4 KiB to 1 GiB"
        )
    with (
        TraceWriter(Path(out), compression=compression, force=force) as writer,
        Spool(str(source)) as spool,
    ):
        job = _Job(source, scale, quantum_ns, page_size)
        job.read(spool, progress)
        return job.write(writer, spool)


class _Job:
    def __init__(self, path: Path, scale: Fraction, quantum: int, page_size: int):
        self._path, self._scale, self._quantum = path, scale, quantum
        self._page_size = page_size
        self._counts = np.zeros(5, np.int64)
        self._space = AddressSpace(page_size)
        self._lines = self._bytes = 0
        self._cuts: list[str] = []

    def read(self, spool: Spool, progress: Progress | None) -> None:
        """Read the text: writes go to the spool, by cell and virtual page."""
        recent = np.full((2, _CACHE), -1, np.int64)
        # cell = instructions * numerator // (denominator * quantum)
        factor, divisor = self._scale.numerator, self._scale.denominator * self._quantum
        shift = self._page_size.bit_length() - 1
        for chunk in read_lines(self._path, self._cuts, progress):
            lines = chunk.count(b"\n")
            out = np.empty((2, 2 * lines), np.int64)
            rows, bad, read = _parse(
                np.frombuffer(chunk, np.uint8), factor, divisor, shift, self._counts, recent, out
            )
            if bad >= 0:
                raise self._garbled(chunk, bad, self._lines + read)
            self._lines += lines
            self._bytes += len(chunk)
            if self._end() > MAX_DURATION_NS:
                raise TraceError(f"{self._path}: lasts more than {duration(MAX_DURATION_NS)}")
            records = np.zeros(rows, RECORD)
            records["t"] = out[0, :rows] * self._quantum + self._quantum - 1
            records["a"] = out[1, :rows]
            self._space.see(out[1, :rows])
            spool.add(records)
        spool.finish()
        if not self._counts[_INSTRUCTIONS]:
            raise TraceError(
                f"{self._path}: {self._lines} lines and no instruction among them; wanted the log "
                "of valgrind --tool=lackey --trace-mem=yes --log-file=FILE PROGRAM"
            )

    def _end(self) -> int:
        cell = int(self._counts[_INSTRUCTIONS] * self._scale) // self._quantum
        return cell * self._quantum + self._quantum - 1

    def _garbled(self, chunk: bytes, at: int, line: int) -> TraceError:
        text = chunk[at : at + 80].split(b"\n")[0].decode("utf-8", "replace")
        return TraceError(
            f"{self._path}, line {line}: {text!a} is no whole access of Lackey's, as in "
            "' S 04222c30,8'; let valgrind write to a file of its own (--log-file)"
        )

    def write(self, writer: TraceWriter, spool: Spool) -> ReadReport:
        """Write the trace of what was read."""
        space = self._space
        space.close()
        rows = 0
        for t, page in _cells(spool):
            rows += write_pages(writer, "dirty", t, space.page_of(page))
        counts = self._counts.tolist()
        notes = [
            f"time is {counts[_INSTRUCTIONS]} instructions of {self._scale} ns each",
            "writes that the kernel makes into the process (read, recv) are not seen",
            space.note(),
        ]
        meta = Meta(
            page_size=self._page_size,
            pages=space.pages,
            duration_ns=self._end(),
            blocks=space.blocks,
            resolution="write",
            quantum_ns=self._quantum,
            source={
                "recorder": "valgrind-lackey",
                "ns_per_instruction": str(self._scale),
                "instructions": counts[_INSTRUCTIONS],
                "notes": notes,
            },
            clock="instructions",
        )
        writer.finish(meta)
        return ReadReport.of(
            writer.path, meta,
            rows={"dirty": rows},
            read={"lines": self._lines, "instructions": counts[_INSTRUCTIONS],
                  "stores": counts[_STORES], "loads": counts[_LOADS]},
            bytes_read=self._bytes,
            passed_over={"lines that are no accesses": counts[_TEXT]} if counts[_TEXT] else {},
            cut=tuple(f"{self._path}: {cut}" for cut in self._cuts),
            notes=tuple(notes),
        )  # fmt: skip


def _cells(spool: Spool) -> Iterator[tuple[Int64s, Int64s]]:
    """Yield times and pages, each page once a cell and ascending in it."""
    held = np.empty(0, RECORD)
    for records in spool.chunks():
        held = np.concatenate((held, records))
        whole = int(np.searchsorted(held["t"], held["t"][-1]))
        yield _unique(held[:whole])
        held = held[whole:]
        if len(held):
            # A cell may be larger than memory: what is twice in it goes at once.
            _, pages = _unique(held)
            held, t = np.zeros(len(pages), RECORD), int(held["t"][0])
            held["t"], held["a"] = t, pages
    yield _unique(held)


def _unique(records: npt.NDArray[np.void]) -> tuple[Int64s, Int64s]:
    t, page = records["t"], records["a"]
    order = np.lexsort((page, t))
    t, page = t[order], page[order]
    if len(t):
        new = np.r_[True, (t[1:] != t[:-1]) | (page[1:] != page[:-1])]
        t, page = t[new], page[new]
    return t, page


@njit(cache=True, nogil=True)
def _parse(data, factor, divisor, shift, counts, recent, out):  # type: ignore[no-untyped-def]
    """Fill `out` with cells and pages; return the rows, and place and line of a bad line or -1."""
    rows, start, line = 0, 0, 0
    cell = counts[_INSTRUCTIONS] * factor // divisor
    while start < len(data):
        line += 1
        first = data[start]
        second = data[start + 1] if first != _NEWLINE else 0
        if first == _I and second == _SPACE:
            counts[_INSTRUCTIONS] += 1
            cell = counts[_INSTRUCTIONS] * factor // divisor
            what = _I
        elif first == _SPACE and (second == _S or second == _M or second == _L):
            what = second
        else:
            what = 0
        if what == 0 or (what != _I and data[start + 2] != _SPACE):
            if first == _SPACE and what:
                return rows, start, line
            counts[_TEXT] += first != _NEWLINE and first != _EQUAL and first != _MINUS
            while data[start] != _NEWLINE:
                start += 1
            start += 1
            continue
        at = start + 3
        at, address, good = hexadecimal(data, at, len(data))
        if good and data[at] == _COMMA:
            at, size, good = decimal(data, at + 1, len(data))
        else:
            good, size = False, 0
        if good and data[at] == _CARRIAGE:
            at += 1
        if not good or data[at] != _NEWLINE or size < 1 or size > 4096:
            return rows, start, line
        if what == _L:
            counts[_LOADS] += 1
        elif what != _I:
            counts[_STORES] += 1
            page, last = address >> shift, (address + size - 1) >> shift
            while page <= last:
                slot = page & (_CACHE - 1)
                if recent[0, slot] != page or recent[1, slot] != cell:
                    recent[0, slot], recent[1, slot] = page, cell
                    out[0, rows], out[1, rows] = cell, page
                    rows += 1
                page += 1
        start = at + 1
    return rows, -1, line
