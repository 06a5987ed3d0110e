"""The trace that a recorded migration makes: its rows, in order of time, and its header."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.errors import TraceError, UsageError
from tracer.format import Meta
from tracer.readers.blocks import Layout, guest_ram, lay_out
from tracer.readers.command_line import facts_of
from tracer.readers.contents import ZERO, Contents, ContentTracker, fill_start
from tracer.readers.freelist_log import FreelistLog, pc_below_4g, to_pages
from tracer.readers.freelist_merge import FreelistMerge, Walk
from tracer.readers.freelist_rows import FreeRows, runs_of
from tracer.readers.guest_clock import GuestClock, throttle_percents
from tracer.readers.migration_log import MigrationLog
from tracer.readers.qemu_events import StepReader, Steps, epochs_us, first_sync_us, told_throttles
from tracer.readers.qemu_lines import RING_PAGE, SAVE, STOP, THROTTLE, WRITE
from tracer.readers.qemu_log import QemuLog
from tracer.readers.qemu_report import Outcome, course_of, notes_on, report_on
from tracer.readers.report import ImportReport
from tracer.readers.ring_pages import ring_pages
from tracer.readers.rows_out import runs
from tracer.words import size
from tracer.writer import TraceWriter

#: The log's timestamps are whole microseconds; what happened within one has no order.
_QUANTUM_NS = 1000
#: 16 TiB of 4 KiB pages: beyond it an address or a total is not one.
_MOST_PAGES = 1 << 32


class QemuImport:
    """One import, from inputs that are read to a trace that is written."""

    def __init__(
        self,
        log: QemuLog,
        answers: MigrationLog,
        freelist: FreelistLog | None,
        *,
        until_ns: int | None = None,
        below_4g: int | None = None,
        slots: Sequence[str] = (),
    ):
        self._log, self._answers, self._freelist = log, answers, freelist
        self._page_size = answers.page_size
        self._clock = make_clock(log, answers)
        self._end = self._clock.guest_ns_at(log.last_us)
        self._duration = self._end if until_ns is None else min(self._end, until_ns)
        self._layout = self._make_layout()
        ram, body = self._layout.ram_pages * self._page_size, answers.body
        machine = str(body.get("machine") or " ".join(map(str, body.get("cmdline") or [])))
        self._low = below_4g or pc_below_4g(ram, machine)
        self._ring = None
        if log.counts[RING_PAGE]:
            self._ring = ring_pages(log, self._layout, self._low, machine, slots)
        elif slots:
            raise UsageError(f"--slot: {log.path} has no pages of a dirty ring, which lie in slots")

    def _make_layout(self) -> Layout:
        log, pfns = self._log, 0
        if self._freelist is not None:
            pfns = self._freelist.samples[0].pfns * self._page_size
        layout = lay_out(
            log.blocks.names,
            # The log counts in pages of 4 KiB, whatever the target's are.
            {block: pages * 4096 // self._page_size for block, pages in log.extents.items()},
            log.write_end,
            page_size=self._page_size,
            total=self._answers.total,
            # Above 3 GiB the highest page frame says little: a PC has a hole below 4 GiB.
            ram=guest_ram(self._answers.body) or (pfns if 0 < pfns <= 3 << 30 else None),
        )
        if layout.pages > _MOST_PAGES:
            raise TraceError(
                f"{log.path}: its addresses and totals ask for {layout.pages:,} pages of "
                f"{size(self._page_size)}; a guest of more than 16 TiB is not believed"
            )
        return layout

    def _walks(self) -> list[Walk]:
        """Return the samples in guest time and pages; raises TraceError for frames outside RAM."""
        if self._freelist is None:
            return []
        walks, pages = [], self._layout.ram_pages
        for sample in self._freelist.samples:
            times = np.array([sample.begin_us, sample.end_us], np.int64)
            begin, end = self._clock.guest_ns(times + self._freelist.offset_us).tolist()
            try:
                start, count = to_pages(sample, pages, self._low, self._page_size)
            except ValueError as error:
                raise TraceError(
                    f"{self._freelist.path}, sample at line {sample.line}: run {error} is outside "
                    f"the guest's {pages} pages of RAM; is it of another guest?"
                ) from None
            walks.append(Walk(begin, end, start, count))
        return walks

    def write(self, writer: TraceWriter) -> ImportReport:
        """Write the trace and return the report."""
        contents = ContentTracker(self._layout.pages)
        free = FreelistMerge(self._walks(), self._layout.pages, self._duration)
        reader = StepReader(self._log, self._layout, self._clock, self._page_size, self._ring)
        rows = {"dirty": 0, "freelist": 0, "zero": 0, "epochs": 0}
        for steps in reader:
            contents.feed(steps.t, steps.page, steps.kind)
            rows["dirty"] += self._write_dirty(writer, steps)
            rows["freelist"] += _write_free(writer, free.take(*steps.writes()))
        rows["freelist"] += _write_free(writer, free.finish())
        told = contents.finish(self._end, completed=self._completed)
        start, assumed_zero, assumed_data = fill_start(told.start, free.at_start)
        if self._log.counts[SAVE]:
            rows["zero"] = self._write_zero(writer, told, start)
        rows["epochs"] = self._write_epochs(writer)
        ring = [] if self._ring is None else self._ring.notes()
        outcome = Outcome(
            self._log, self._answers, self._freelist, self._clock, self._layout, reader, free,
            told, rows, int(np.count_nonzero(start == ZERO)), assumed_zero, assumed_data, ring,
        )  # fmt: skip
        notes = notes_on(outcome)
        meta = self._meta(notes)
        writer.finish(meta, course_of(outcome))
        return report_on(outcome, writer.path, meta, notes)

    @property
    def _completed(self) -> bool:
        """Whether everything that was pending had been sent when the log ended."""
        ended = bool(self._log.counts[STOP]) or self._answers.completed
        # A log that was cut, or a part of one, lacks copies that QEMU counted.
        copies = self._answers.ram.get("normal", self._log.counts[SAVE])
        return ended and copies == self._log.counts[SAVE]

    def _write_dirty(self, writer: TraceWriter, steps: Steps) -> int:
        t, page = steps.writes()
        early = t <= 0
        if np.any(early):
            # The initial state: which pages, not how often.
            pages = np.unique(page[early])
            t = np.concatenate((np.zeros(len(pages), np.int64), t[~early]))
            page = np.concatenate((pages, page[~early]))
        inside = t <= self._duration
        t, page, count = runs(t[inside], page[inside])
        writer.write("dirty", t_ns=t, page=page, count=count)
        return len(t)

    def _write_zero(self, writer: TraceWriter, told: Contents, start: npt.NDArray[np.uint8]) -> int:
        first, count = runs_of((start == ZERO).astype(np.uint8))
        writer.write("zero", t_ns=np.zeros(len(first), np.int64), page=first, count=count)
        inside = told.zero_t <= self._duration
        t, page, counts = runs(told.zero_t[inside], told.zero_page[inside])
        writer.write("zero", t_ns=t, page=page, count=counts)
        return len(first) + len(t)

    def _write_epochs(self, writer: TraceWriter) -> int:
        t = np.maximum(self._clock.guest_ns(epochs_us(self._log)), 0)
        t = np.unique(t[t <= self._duration])
        writer.write("epochs", t_ns=t)
        return len(t)

    def _meta(self, notes: tuple[str, ...]) -> Meta:
        ring, body = self._ring is not None, self._answers.body
        source: dict[str, Any] = {
            "recorder": self._log.recorder,
            "accelerator": "kvm-dirty-ring" if ring else "tcg",
            "time_zero": "the first sync's harvest of the dirty " + ("ring" if ring else "log"),
        }
        if self._ring is not None:
            source["slots"] = self._ring.slots
        if self._answers.version:
            source["qemu"] = self._answers.version
        for key in ("scenario", "guest_mb", "auto-converge", "free-page-hint"):
            if key in body:
                source[key] = body[key]
        source.update(facts_of(body))
        for key in ("max-bandwidth", "downtime-limit"):
            if key in self._answers.parameters:
                source[key] = self._answers.parameters[key]
        if self._clock.throttles:
            source["throttle_percents"] = [percent for _, percent in self._clock.throttles]
            source["throttle"] = "guest time is host time scaled by 1 - p from each throttle row on"
        if self._freelist is not None:
            source["freelist"] = "kpageflags samples, aligned by the least delay to the host"
        if self._duration < self._end:
            source["shortened_to_ns"] = self._duration
        if notes:
            source["notes"] = list(notes)
        return Meta(
            page_size=self._page_size,
            pages=self._layout.pages,
            duration_ns=self._duration,
            blocks=self._layout.blocks,
            resolution="epoch" if ring else "first-write",
            freelist_resolution="sampled" if self._freelist is not None else None,
            quantum_ns=_QUANTUM_NS,
            hinting=self._answers.hinting,
            source=source,
            clock="guest",
        )


def make_clock(log: QemuLog, answers: MigrationLog) -> GuestClock:
    """Return the guest's clock; raises TraceError where a log has no sync or no writes."""
    zero = first_sync_us(log)
    if zero is None:
        raise TraceError(
            f"{log.path}: {log.lines} lines and no migration_bitmap_sync_start among them; "
            "record with that event enabled and migrate while recording"
        )
    if not log.counts[WRITE] and not log.counts[RING_PAGE]:
        raise TraceError(
            f"{log.path}: {log.lines} lines and none says that a page was written; enable "
            "memory_notdirty_write_access (TCG) or kvm_dirty_ring_page (KVM with a dirty ring)"
        )
    stop = next((t for _, t, kind, _, _ in log.rare if kind == STOP), None)
    return GuestClock(zero, _throttles(log, answers), stop)


def _throttles(log: QemuLog, answers: MigrationLog) -> tuple[tuple[int, int], ...]:
    """Return host us and percent of each step of the throttle."""
    if told := told_throttles(log):
        return tuple(told)
    rows = [t for _, t, kind, _, _ in log.rare if kind == THROTTLE]
    percents = throttle_percents(rows, answers.parameters, answers.throttles)
    return tuple(zip(rows, percents, strict=True))


def _write_free(writer: TraceWriter, parts: list[FreeRows]) -> int:
    total = 0
    for rows in parts:
        writer.write(
            "freelist",
            t_ns=rows.t, page=rows.page, count=rows.count, free=rows.free, since_ns=rows.since,
        )  # fmt: skip
        total += len(rows.t)
    return total
