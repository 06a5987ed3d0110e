"""Dirty pages out of a host's kernel trace: KVM's dirty ring, or a probe on its dirty log.

- `kvm:kvm_dirty_ring_push` (virt/kvm/dirty_ring.c) says that a page was written for the first time
  since its ring entry was last reset; `kvm:kvm_dirty_ring_reset` says when that was, so resets are
  the trace's epochs.
- `mark_page_dirty_in_slot` (virt/kvm/kvm_main.c) is called for every page that KVM logs: on the
  first write to a protected page, for each page of a PML buffer that is emptied, and at every write
  of KVM itself. When the log was harvested it does not say: `kvm_arch_sync_dirty_log`, probed too,
  does.

Time zero is one tick of the text's clock before the first of these events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracer.errors import TraceError, UsageError
from tracer.format import Meta
from tracer.readers.kernel_lines import ALLOC, FAILED, FREE, PROBE, PUSH, RESET, SYNC
from tracer.readers.kernel_tasks import Tasks
from tracer.readers.kernel_text import KernelText, read_kernel_text
from tracer.readers.ram_map import (
    Extent,
    FrameRange,
    RamMap,
    extents_of,
    laid_out,
    ram_of,
    slots_of,
    whole_mib,
)
from tracer.readers.report import ReadReport, milliseconds
from tracer.readers.rows_out import write_epochs, write_pages
from tracer.readers.spool import Records, Spool
from tracer.readers.streams import Progress
from tracer.rows import Int64s
from tracer.writer import Compression, TraceWriter

#: A harvest goes from ring to ring, or from slot to slot: calls this close together are one, where
#: no page was dirtied between them.
_HARVEST_NS = 1_000_000
#: The high half of a ring's slot number is the address space; x86 has a second one for SMM.
_SECOND_SPACE = 1 << 16


def import_ftrace(
    path: str | Path,
    *,
    out: str | Path,
    slots: Iterable[str] = (),
    blocks: Iterable[str] = (),
    pids: Iterable[int] = (),
    page_size: int = 4096,
    force: bool = False,
    compression: Compression = "zstd",
    progress: Progress | None = None,
) -> ReadReport:
    """Import a tracer's text into the trace `out`.

    `slots` are memory slots as `ID:FIRST_FRAME:PAGES`, `blocks` the guest's RAM as
    `NAME:FIRST_FRAME:PAGES`. Without blocks the slots are the blocks; without slots each slot seen
    is a block, up to the highest page seen, rounded up to 1 MiB; a probe names frames, not slots
    (see `FrameRange.guess`). `pids` are the processes, or threads, whose events are read: a host
    may run several guests.

    Raises UsageError for slots and blocks that do not fit, and for events of several guests or of
    none that is wanted, TraceError with file and line for a text
    that is none, is garbled, out of order or names pages outside; nothing is left at `out` then.
    """
    source = Path(path)
    given = _Given(slots_of(slots, page_size), extents_of(blocks, "--block", page_size), page_size)
    with (
        TraceWriter(Path(out), compression=compression, force=force) as writer,
        Spool(str(source)) as spool,
    ):
        tasks = Tasks(tuple(pids))
        text = read_kernel_text(
            source, spool, progress, wanted=(PUSH, RESET, PROBE, SYNC), look=given.look, tasks=tasks
        )
        tasks.check(source, text.left_out, int(text.counts[PUSH] + text.counts[PROBE]))
        ring = bool(text.counts[PUSH])
        if not ring and not text.counts[PROBE]:
            raise TraceError(
                f"{source}: {text.events} events and none is kvm_dirty_ring_push or a probe on "
                "mark_page_dirty_in_slot" + _instead(text)
            )
        job = _Job(text, spool, given, ring)
        job.notes += tasks.notes()
        return job.write(writer)


def _instead(text: KernelText) -> str:
    if text.counts[ALLOC] + text.counts[FREE]:
        return "; the guest's mm_page_alloc and mm_page_free are for `dirtylog import kmem`"
    names = ", ".join(name for name, _ in text.unknown.most_common(3))
    return f" (there are: {names})" if names else ""


@dataclass
class _Given:
    """What the user says of slots and blocks, and what the text shows of them."""

    slots: list[Extent]
    blocks: list[Extent]
    page_size: int
    seen: dict[int, int] = field(default_factory=dict)
    #: Whether nothing says which guest frames the slots are.
    laid_out: bool = False

    def __post_init__(self) -> None:
        self.frames = FrameRange(self.page_size)

    def look(self, events: Records) -> None:
        """Remember how far the slots and frames go."""
        self.frames.add(events["a"][events["kind"] == PROBE])
        push = events[events["kind"] == PUSH]
        for slot in np.unique(push["b"]).tolist():
            last = int(push["a"][push["b"] == slot].max())
            self.seen[slot] = max(self.seen.get(slot, 0), last + 1)

    def ring_map(self, notes: list[str]) -> RamMap:
        """Return the map of a ring's pages; slots that were not given get places of their own."""
        if not self.slots:
            if self.blocks:
                raise UsageError("--block names frames, a dirty ring slots: pass --slot too")
            self.laid_out = True
            self.slots = laid_out(
                {slot: whole_mib(pages, self.page_size) for slot, pages in self.seen.items()}
            )
            notes.append(
                "each memory slot is a block, as large as the highest page seen in it, rounded up "
                "to 1 MiB (--slot says otherwise)"
            )
            if max(self.seen) >= _SECOND_SPACE:
                notes.append(
                    "slots from 65536 on are of address space 1 (SMM), which shows the same memory "
                    "again: pass --slot for them and --block for the memory"
                )
        return ram_of(self.slots, self.blocks)

    def frame_map(self, notes: list[str]) -> RamMap:
        """Return the map of a probe's frames."""
        return RamMap(self.blocks or self.slots or self.frames.guess(notes))


class _Job:
    def __init__(self, text: KernelText, spool: Spool, given: _Given, ring: bool):
        self._text, self._spool, self._given, self._ring = text, spool, given, ring
        self.notes: list[str] = []
        self._map = given.ring_map(self.notes) if ring else given.frame_map(self.notes)
        self._tick = 1 if text.digits == 9 else 1000
        self._zero = spool.first_ns - self._tick
        self._left = 0

    def write(self, writer: TraceWriter) -> ReadReport:
        rows = {"dirty": 0, "epochs": 0}
        ends: list[Int64s] = []
        before: list[Int64s] = []
        pages = 0
        dirty, harvest = (PUSH, RESET) if self._ring else (PROBE, SYNC)
        for events in self._spool.chunks():
            is_dirty, is_harvest = events["kind"] == dirty, events["kind"] == harvest
            some = events[is_dirty]
            rows["dirty"] += write_pages(writer, "dirty", some["t"] - self._zero, self._pages(some))
            some = events[is_harvest]
            ends.append(some["t"] - self._zero)
            before.append(pages + np.cumsum(is_dirty)[is_harvest])
            pages += int(np.count_nonzero(is_dirty))
            self._left += int(some["a"].sum())
        t, written = np.concatenate(ends), np.concatenate(before)
        joined = (np.diff(t) <= _HARVEST_NS) & (np.diff(written) == 0)
        rows["epochs"] = write_epochs(writer, t[~np.append(joined, False)[: len(t)]])
        meta = self._meta(len(t))
        writer.finish(meta)
        text = self._text
        return ReadReport.of(
            writer.path, meta,
            rows=rows,
            read={"lines": text.lines, "pages dirtied": int(text.counts[dirty]),
                  "harvests": int(text.counts[harvest])},
            bytes_read=text.bytes_read,
            passed_over=passed_over(text, PUSH, RESET, PROBE, SYNC),
            cut=tuple(f"{text.path}: {cut}" for cut in text.cuts),
            notes=tuple(self.notes),
        )  # fmt: skip

    def _pages(self, some: Records) -> Int64s:
        frame = some["a"]
        if self._ring:
            frame = np.full(len(some), -1, np.int64)
            for slot in self._given.slots:
                here = some["b"] == int(slot.name)
                inside = here & (some["a"] < slot.pages)
                frame[inside] = some["a"][inside] + slot.first
            bad = np.flatnonzero(frame < 0)
            if len(bad):
                _, offset, line, slot_id, _ = some[bad[0]].item()
                raise TraceError(
                    f"{self._text.path}, line {line}: page {offset:#x} of slot {slot_id} lies in "
                    "no slot that was given; pass --slot ID:FIRST_FRAME:PAGES for each"
                )
        return self._map.need(frame, 1, some["line"], str(self._text.path))

    def _meta(self, harvests: int) -> Meta:
        kind = "kvm-dirty-ring" if self._ring else "mark_page_dirty_in_slot"
        self.notes += order_notes(self._spool, self._text)
        if self._ring and self._left:
            self.notes.append(
                f"{self._left} pages were already logged again, or not yet taken, when their ring "
                "was reset: they may be written in the next epoch without a row"
            )
        if self._ring and self._text.counts[PROBE]:
            self.notes.append("the probe on mark_page_dirty_in_slot says the same again: left out")
        if not harvests:
            event = "kvm_dirty_ring_reset" if self._ring else "a probe on kvm_arch_sync_dirty_log"
            self.notes.append(
                f"when the log was harvested is not recorded ({event} says it): writes to a page "
                "after its first row may be hidden up to the end"
            )
        source: dict[str, Any] = {
            "recorder": "ftrace",
            "event": kind,
            "time_zero": "one tick before the first event",
            "clock_zero_ns": self._zero,
            "slots": [f"{s.name}:{s.first:#x}:{s.pages}" for s in self._given.slots],
        }
        if not self._given.laid_out:
            frames = [f"{e.name}:{e.first:#x}:{e.pages}" for e in self._map.extents]
            source["frames"] = frames
        if self.notes:
            source["notes"] = list(self.notes)
        return Meta(
            page_size=self._given.page_size,
            pages=self._map.pages,
            duration_ns=self._spool.last_ns - self._zero,
            blocks=self._map.blocks,
            resolution="first-write",
            quantum_ns=self._tick,
            source=source,
            clock="host",
        )


def order_notes(spool: Spool, text: KernelText) -> Sequence[str]:
    """Return what is to be said of lines out of order and of events that were lost."""
    notes = []
    if spool.late:
        notes.append(
            f"{spool.late} events stood up to {milliseconds(spool.latest_ns)} too late in the text "
            "and were put in order"
        )
    if text.lost:
        notes.append(
            f"the tracer dropped {text.lost} events: enlarge its buffer (buffer_size_kb, "
            "trace-cmd -b, perf -m), since every one may be a write that the trace does not have"
        )
    return notes


def passed_over(text: KernelText, *used: int) -> dict[str, int]:
    """Return what was in the text and not used, by name."""
    names = {PUSH: "kvm_dirty_ring_push", RESET: "kvm_dirty_ring_reset", PROBE: "probes",
             SYNC: "kvm_arch_sync_dirty_log", ALLOC: "mm_page_alloc", FREE: "mm_page_free",
             FAILED: "failed allocations"}  # fmt: skip
    rest = {name: int(text.counts[kind]) for kind, name in names.items() if kind not in used}
    rest |= dict(text.unknown.most_common())
    rest["events of other pids"] = text.left_out
    rest["lines that are no events"] = text.other_text
    return {name: count for name, count in rest.items() if count}
