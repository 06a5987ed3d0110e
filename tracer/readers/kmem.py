"""The free list out of a guest's own kernel trace: kmem:mm_page_alloc and kmem:mm_page_free.

A page is on the free list from its mm_page_free to the mm_page_alloc that takes it
(mm/page_alloc.c), lists kept by each CPU included. What is free at the start follows from each
page's first event, and for the others from a free-list sample: in the same text, or a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.errors import TraceError, UsageError
from tracer.format import Meta, TableName
from tracer.readers.freelist_log import Sample, SampleParser, pc_below_4g, read_samples
from tracer.readers.freelist_rows import mark_runs, runs_of
from tracer.readers.ftrace import order_notes, passed_over
from tracer.readers.kernel_lines import ALLOC, FAILED, FREE
from tracer.readers.kernel_text import KernelText, read_kernel_text
from tracer.readers.kmem_rows import PageStates
from tracer.readers.ram_map import Extent, FrameRange, RamMap, extents_of
from tracer.readers.report import ReadReport, milliseconds
from tracer.readers.spool import Records, Spool
from tracer.readers.streams import Progress
from tracer.rows import Int64s
from tracer.trace import Trace
from tracer.words import duration
from tracer.writer import Compression, TraceWriter

_FOUR_GIB = 4 << 30


def import_kmem(
    path: str | Path,
    *,
    out: str | Path,
    dirty: str | Path | None = None,
    offset_ns: int = 0,
    freelist: str | Path | None = None,
    blocks: Iterable[str] = (),
    allocations_write: bool = False,
    page_size: int | None = None,
    force: bool = False,
    compression: Compression = "zstd",
    progress: Progress | None = None,
) -> ReadReport:
    """Import a guest's allocations as the free list of the trace `out`.

    `dirty` is a trace whose other tables and header are taken over; the text's times plus
    `offset_ns` are times of that trace's recording (`clock_zero_ns` of its source, 0 where there is
    none). `blocks` say where frames lie, as `NAME:FIRST_FRAME:PAGES`. `freelist` is a file of
    samples on the text's clock. With `allocations_write`, and without `dirty`, an allocated page
    counts as written at its allocation (a guest with init_on_alloc).

    Raises UsageError for options that do not fit, TraceError with file and line for what cannot be
    read and for frames outside the guest's RAM; nothing is left at `out` then.
    """
    source = Path(path)
    base = None if dirty is None else Trace.open(dirty)
    if base is not None and allocations_write:
        raise UsageError("with a trace of dirty pages allocations need not stand in for writes")
    size = base.meta.page_size if base is not None else page_size or 4096
    if base is not None and page_size not in (None, size):
        raise UsageError(f"page_size is {page_size}, that of {dirty} is {size}")
    given = extents_of(blocks, "--block", size)
    with (
        TraceWriter(Path(out), compression=compression, force=force) as writer,
        Spool(str(source)) as spool,
    ):
        frames, parser = FrameRange(size), SampleParser(source)

        def look(events: Records) -> None:
            some = events[events["kind"] != FAILED]
            frames.add(some["a"], np.int64(1) << some["b"].astype(np.int64))

        text = read_kernel_text(
            source, spool, progress, wanted=(ALLOC, FREE), look=look, aside=parser.take
        )
        if not spool.events:
            raise TraceError(
                f"{source}: {text.events} events and none is mm_page_alloc or mm_page_free"
            )
        samples = parser.samples if freelist is None else read_samples(Path(freelist))
        job = _Job(text, spool, samples, base, offset_ns, size)
        job.place(given, frames)
        return job.write(writer, allocations_write=allocations_write)


class _Job:
    def __init__(
        self,
        text: KernelText,
        spool: Spool,
        samples: list[Sample],
        base: Trace | None,
        offset_ns: int,
        page_size: int,
    ):
        self._text, self._spool, self._base = text, spool, base
        self._page_size = page_size
        self._tick = 1 if text.digits == 9 else 1000
        early = [sample for sample in samples if sample.end_us * 1000 <= spool.first_ns]
        self._sample = early[-1] if early else None
        self._offset = offset_ns
        self.notes: list[str] = []
        if samples and not early:
            self.notes.append("the free-list samples are later than the first event: not used")
        if base is None:
            self._zero = spool.first_ns - self._tick
            self._duration = spool.last_ns - self._zero
        else:
            told = base.meta.source.get("clock_zero_ns")
            self._zero = (told if isinstance(told, int) else 0) - offset_ns
            self._duration = base.meta.duration_ns

    def place(self, given: list[Extent], frames: FrameRange) -> None:
        """Decide where frames lie among the trace's pages."""
        if self._base is not None:
            self._place_in(self._base.meta, given)
            return
        if not given and self._sample is not None and self._ram(self._sample.pfns) <= 3 << 30:
            given = [Extent("ram", 0, self._sample.pfns)]
            self.notes.append(f"RAM taken as the {self._sample.pfns} frames that the sample names")
        self._map = RamMap(given or frames.guess(self.notes))
        self._pages, self._shift = self._map.pages, np.zeros(len(self._map.extents), np.int64)
        self._starts = np.zeros(1, np.int64)

    def _ram(self, pages: int) -> int:
        return pages * self._page_size

    def _place_in(self, meta: Meta, given: list[Extent]) -> None:
        frames = meta.source.get("frames")
        if not given and isinstance(frames, list) and frames:
            given = extents_of(map(str, frames), "--block", self._page_size)
            self.notes.append("guest frames taken as the trace of dirty pages says them")
        if not given:
            block = meta.blocks[0]
            low = pc_below_4g(self._ram(block.pages)) // self._page_size
            given = [Extent(block.name, 0, low)]
            if low < block.pages:
                high = _FOUR_GIB // self._page_size
                given.append(Extent(block.name, high, block.pages - low))
            self.notes.append(
                f"guest frames taken as those of a PC whose RAM is block {block.name} "
                "(--block says otherwise)"
            )
        self._map = RamMap(given)
        self._pages = meta.pages
        at = {block.name: block.first_page for block in meta.blocks}
        ends = {block.name: block.first_page + block.pages for block in meta.blocks}
        starts, shift, page = [], [], 0
        for extent in given:
            if extent.name not in at or at[extent.name] + extent.pages > ends[extent.name]:
                blocks = ", ".join(f"{b.name} ({b.pages} pages)" for b in meta.blocks)
                raise UsageError(
                    f"--block {extent.name}:{extent.first:#x}:{extent.pages} does not fit the "
                    f"trace's blocks: {blocks}"
                )
            starts.append(page)
            shift.append(at[extent.name] - page)
            at[extent.name] += extent.pages
            page += extent.pages
        self._starts, self._shift = np.array(starts, np.int64), np.array(shift, np.int64)

    def _dense(self, frame: Int64s, count: Int64s, line: Int64s) -> Int64s:
        page = self._map.need(frame, count, line, str(self._text.path))
        return page + self._shift[np.searchsorted(self._starts, page, side="right") - 1]

    def _events(self) -> Iterator[tuple[Int64s, Int64s, Int64s, npt.NDArray[np.bool_]]]:
        """Yield times, pages, counts and whether they were taken, up to the trace's end."""
        for events in self._spool.chunks():
            t = events["t"] - self._zero
            some = events[t <= self._duration]
            count = np.int64(1) << some["b"].astype(np.int64)
            page = self._dense(some["a"], count, some["line"])
            yield np.maximum(t[: len(some)], 0), page, count, some["kind"] == ALLOC

    def _sampled(self) -> npt.NDArray[np.uint8] | None:
        if self._sample is None:
            return None
        free = np.zeros(self._pages, np.uint8)
        start, count = self._sample.start, self._sample.count
        line = np.full(len(start), self._sample.line)
        mark_runs(free, self._dense(start, count, line), count)
        return free

    def write(self, writer: TraceWriter, *, allocations_write: bool) -> ReadReport:
        states = PageStates(self._pages)
        early, inside = 0, 0
        for t, page, count, taken in self._events():
            states.see(page, count, taken)
            early += int(np.count_nonzero(t <= 0))
            inside += len(t)
        free, untold, differ = states.start(self._sampled())
        if self._base is not None and inside == early:
            raise TraceError(
                f"{self._text.path}: no event falls into the {duration(self._duration)} of "
                f"{self._base.path}; the text runs from {_stamp(self._spool.first_ns)} to "
                f"{_stamp(self._spool.last_ns)} of its clock, time zero would be "
                f"{_stamp(self._zero)} (--offset moves it)"
            )
        rows: dict[str, int] = {"dirty": 0, "freelist": 0}
        page, count = runs_of(free)
        zero = np.zeros(len(page), np.int64)
        rows["freelist"] += _free(writer, zero, page, count, np.ones(len(page), np.bool_))
        for t, page, count, taken in self._events():
            for part in states.rows(t, page, count, taken):
                rows["freelist"] += _free(writer, *part)
            if allocations_write:
                writer.write("dirty", t_ns=t[taken], page=page[taken], count=count[taken])
                rows["dirty"] += int(np.count_nonzero(taken))
        self._note(states, untold, differ, self._spool.events - inside, writes=allocations_write)
        meta = self._meta()
        if self._base is not None:
            rows |= self._take_over(writer, self._base)
        writer.finish(meta, None if self._base is None else self._base.migration)
        text = self._text
        return ReadReport.of(
            writer.path, meta,
            rows=rows,
            read={"lines": text.lines, "allocations": int(text.counts[ALLOC]),
                  "frees": int(text.counts[FREE])},
            bytes_read=text.bytes_read,
            passed_over=passed_over(text, ALLOC, FREE),
            cut=tuple(f"{text.path}: {cut}" for cut in text.cuts),
            notes=tuple(self.notes),
        )  # fmt: skip

    def _take_over(self, writer: TraceWriter, base: Trace) -> dict[str, int]:
        tables: tuple[TableName, ...] = ("dirty", "zero", "epochs")
        for table in tables:
            for part in base.rows(table):
                columns: dict[str, Any] = {"t_ns": part.t, "page": part.page, "count": part.count}
                writer.write(table, **({"t_ns": part.t} if table == "epochs" else columns))
        return {table: base.num_rows(table) for table in tables}

    def _note(
        self, states: PageStates, untold: int, differ: int, late: int, *, writes: bool
    ) -> None:
        add = self.notes.append
        self.notes += order_notes(self._spool, self._text)
        if self._sample is None:
            add(f"no free-list sample: {untold} pages without an event are taken as in use")
        else:
            gap = self._spool.first_ns - self._sample.end_us * 1000
            add(
                f"{untold} pages without an event are taken as the sample saw them, which ended "
                f"{milliseconds(gap)} before the first event; {differ} pages were otherwise by "
                "their first event, which counts (what a CPU keeps on a list of its own is free, "
                "and no sample sees it)"
            )
        if states.taken_again or states.freed_again:
            add(
                f"{states.taken_again} pages were allocated while in use and {states.freed_again} "
                "freed while free: events are missing or out of order, and these make no row"
            )
        if late:
            add(f"{late} events lie after the end of the dirty pages' recording: left out")
        if self._base is None:
            add(
                "allocations stand in for writes; all other writes are unknown"
                if writes
                else "no writes are recorded: put the free list to a trace of dirty pages (--dirty)"
            )
        elif "freelist" in self._base:
            add(f"the free list of {self._base.path} was replaced")

    def _meta(self) -> Meta:
        source: dict[str, Any] = {
            "recorder": "kmem",
            "events": "mm_page_alloc, mm_page_free",
            "frames": [f"{e.name}:{e.first:#x}:{e.pages}" for e in self._map.extents],
            "notes": list(self.notes),
        }
        if self._base is not None:
            before = dict(self._base.meta.source)
            earlier = before.get("notes")
            source["notes"] += earlier if isinstance(earlier, list) else []
            source["offset_ns"] = self._offset
            return replace(
                self._base.meta,
                freelist_resolution="event",
                source=before | {"freelist": source, "notes": source.pop("notes")},
            )
        source["clock_zero_ns"] = self._zero
        return Meta(
            page_size=self._page_size,
            pages=self._pages,
            duration_ns=self._duration,
            blocks=self._map.blocks,
            resolution="first-write",
            freelist_resolution="event",
            quantum_ns=self._tick,
            source=source,
            clock="guest",
        )


def _free(
    writer: TraceWriter, t: Int64s, page: Int64s, count: Int64s, free: npt.NDArray[np.bool_]
) -> int:
    writer.write("freelist", t_ns=t, page=page, count=count, free=free)
    return len(t)


def _stamp(ns: int) -> str:
    """Return a time as the text has it."""
    return f"{ns / 1e9:.6f} s"
