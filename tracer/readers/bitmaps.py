"""Raw dirty bitmaps, one file an epoch: what KVM_GET_DIRTY_LOG fills in (virt/kvm/kvm_main.c).

Little-endian words of 64 bits; bit i is frame i, of a guest or of one of its memory slots. KVM
keeps a bitmap a slot: where names say `slot-N`, an epoch has a file for each, named alike but for
N. Qemu-DPT writes `qemu.bm-PID.SECONDS`, indexed by QEMU's ram_addr, once a second; its first file
has every bit set and stands for the start, and its last one is named a second too late.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracer.errors import TraceError, UsageError
from tracer.format import Meta
from tracer.readers.bit_runs import bit_runs
from tracer.readers.epoch_files import SLOT, Epochs, Times, epochs_of, find_files, natural
from tracer.readers.ram_map import Extent, RamMap, extents_of, laid_out, ram_of, slots_of
from tracer.readers.report import ReadReport, milliseconds
from tracer.readers.rows_out import write_epochs, write_runs
from tracer.readers.streams import Progress, read_blocks
from tracer.rows import Int64s
from tracer.writer import Compression, TraceWriter

_DPT = re.compile(r"qemu\.bm-(\d+)\.(\d+)(?:\.gz|\.zst)?")
_WORD = 8
#: So many bytes of text at the beginning are no chance.
_HEAD = 4096

#: The bitmaps of one epoch, by the number of their slot; "" where names say none.
Epoch = dict[str, Path]


def import_bitmaps(
    paths: Sequence[str | Path],
    *,
    out: str | Path,
    times: Times | None = None,
    unit_ns: int = 10**9,
    interval_ns: int | None = None,
    slots: Iterable[str] = (),
    blocks: Iterable[str] = (),
    page_size: int = 4096,
    force: bool = False,
    compression: Compression = "zstd",
    progress: Progress | None = None,
) -> ReadReport:
    """Import bitmaps, each a file at `paths` or in a folder there, into the trace `out`.

    `times` says where the epochs' ends stand: by itself in names like Qemu-DPT's, in an interval
    where one is given, else in the files' times. `slots` are KVM's, as `ID:FIRST_FRAME:PAGES`;
    without them each slot is a block of its own. `blocks` are the guest's RAM as
    `NAME:FIRST_FRAME:PAGES`; without them a slot, or all of a bitmap, is one block.

    Raises UsageError for options that do not fit, TraceError with the file for a bitmap that is
    empty, no whole number of words, of another size than the first of its slot, or has bits outside
    slot and blocks, and for an epoch that lacks a slot's; nothing is left at `out` then.
    """
    left_out: list[str] = []
    files = find_files(paths, left_out)
    dpt = all(_DPT.fullmatch(file.name) for file in files)
    if dpt:
        times, unit_ns = times or "names", 10**9
        files = sorted(files, key=natural)
        pids = {file.name.split("-")[1].split(".")[0] for file in files}
        if len(pids) > 1:
            raise TraceError(f"bitmaps of several guests (pids {', '.join(sorted(pids))})")
    groups = _by_epoch(files)
    job = _Job(groups, page_size, progress, known=not dpt)
    job.notes += left_out
    with TraceWriter(Path(out), compression=compression, force=force) as writer:
        job.place(slots_of(slots, page_size), extents_of(blocks, "--block", page_size))
        before = None
        if dpt and len(groups) > 1 and job.is_full(files[0]):
            before = groups.pop(0)[""]
            job.notes.append(
                f"{before} has every bit set, as when Qemu-DPT starts: time zero; names tell "
                "whole seconds, and the last file's may be one too late"
            )
        last = [max(group.values(), key=lambda file: file.stat().st_mtime_ns) for group in groups]
        epochs = epochs_of(last, times, unit_ns=unit_ns, interval_ns=interval_ns, before=before)
        return job.write(writer, groups, epochs)


def _by_epoch(files: Sequence[Path]) -> list[Epoch]:
    """Return the files of each epoch, in the order in which epochs are met first."""
    epochs: dict[str, Epoch] = {}
    for file in files:
        # A folder may stand for the slot too.
        name = f"{file.parent.name}/{file.name}"
        found = SLOT.findall(name)
        epoch = epochs.setdefault(SLOT.sub("slot", name) if found else str(file), {})
        slot = str(int(found[-1])) if found else ""
        if slot in epoch:
            raise TraceError(f"{file}: slot {slot} of that epoch is {epoch[slot]} already")
        epoch[slot] = file
    every = {slot for epoch in epochs.values() for slot in epoch}
    for epoch in epochs.values():
        one = next(iter(epoch.values()))
        if "" in epoch and len(every) > 1:
            raise TraceError(f"{one}: has no slot-N in its name, and other files have")
        for slot in sorted(every - epoch.keys() - {""}):
            raise TraceError(
                f"{one}: its epoch has no bitmap of slot {slot}, others have; the files of an "
                "epoch have one name but for slot-N"
            )
    return list(epochs.values())


class _Job:
    def __init__(
        self, groups: list[Epoch], page_size: int, progress: Progress | None, *, known: bool
    ):
        self._page_size, self._progress = page_size, progress
        self.notes: list[str] = []
        self._bytes = 0
        #: By slot: its first bitmap, and how many bytes that has.
        self._first = dict(groups[0])
        self._sizes = {slot: sum(map(len, self._read(file))) for slot, file in self._first.items()}
        self._slots: dict[str, Extent] = {}
        self._map = RamMap([])
        #: Whether bits are guest frames, or slots of which it is said where they lie.
        self._known = known

    def _read(self, file: Path) -> Iterator[bytes]:
        """Yield a bitmap's bytes; raises TraceError where they are none."""
        cuts: list[str] = []
        size = 0
        for block in read_blocks(file, cuts, None):
            if not size and len(block) > _WORD and all(9 <= byte < 127 for byte in block[:_HEAD]):
                raise TraceError(f"{file}: is text; a bitmap is a word of 64 bits for 64 frames")
            size += len(block)
            yield block
        if cuts:
            raise TraceError(f"{file}: {cuts[0]}; a bitmap is read whole or not at all")
        if not size or size % _WORD:
            raise TraceError(f"{file}: {size} bytes; a bitmap is a whole number of 64-bit words")

    def is_full(self, file: Path) -> bool:
        """Whether all of a bitmap is set but bits of the last bytes, which are padding."""
        first, count = next(bit_runs(self._read(file)), (np.ones(1), np.ones(1)))
        return not first[0] and int(count[0]) > 8 * (self._sizes[""] - _WORD)

    def place(self, slots: list[Extent], blocks: list[Extent]) -> None:
        """Decide which frames the bits are, and which of them the guest's RAM."""
        if "" in self._sizes and len(slots) <= 1:
            self._place_one(slots, blocks)
        else:
            self._place_slots({slot.name: slot for slot in slots}, blocks)
        for name, slot in self._slots.items():
            ends = [(f"slot {slot.name}", slot.pages)]
            if not name:  # of several slots a block may have but parts, and holes between them
                ends += [(f"block {b.name}", b.first + b.pages - slot.first) for b in blocks]
            bits = 8 * self._sizes[name]
            for what, end in ends:
                if end > bits:
                    raise TraceError(
                        f"{self._first[name]}: {self._sizes[name]} bytes hold {bits} frames; "
                        f"{what} goes up to frame {slot.first + end - 1:#x}"
                    )

    def _place_one(self, slots: list[Extent], blocks: list[Extent]) -> None:
        bits = 8 * self._sizes[""]
        self._slots[""] = slots[0] if slots else Extent("", 0, bits)
        if slots or blocks:
            self._map = ram_of(slots, blocks)
            return
        self._map = RamMap([Extent("ram", 0, bits)])
        self.notes.append(
            f"RAM taken as all {bits} bits of a bitmap, which is rounded up to 64 "
            "(--block says otherwise)"
        )

    def _place_slots(self, given: dict[str, Extent], blocks: list[Extent]) -> None:
        if "" in self._sizes:
            raise UsageError(
                f"--slot: {self._first['']} does not say which slot it is of; name the files so "
                "that each has slot-N in its name"
            )
        if not given and blocks:
            raise UsageError("--block names frames, the bitmaps are of slots: pass --slot too")
        missing = sorted(self._sizes.keys() - given.keys()) if given else []
        if missing:
            raise UsageError(
                f"--slot: {self._first[missing[0]]} is of slot {missing[0]}, of which nothing is "
                "said; pass --slot ID:FIRST_FRAME:PAGES for each"
            )
        if not given:
            self._known = False
            given = {s.name: s for s in laid_out({int(n): 8 * b for n, b in self._sizes.items()})}
            self.notes.append(
                "each memory slot is a block, of all bits of its bitmap, which is rounded up to 64 "
                "(--slot says otherwise)"
            )
        self._slots = {name: given[name] for name in self._sizes}
        self._map = ram_of(list(self._slots.values()), blocks)

    def _runs(self, name: str, file: Path) -> Iterator[tuple[Int64s, Int64s]]:
        """Yield the dense pages of a bitmap's runs, part by part."""
        before = self._bytes
        slot = self._slots[name]
        for bit, count in bit_runs(self._counted(file)):
            page, counts, frame = self._map.pieces(slot.first + bit, count)
            beyond = bit[-1] + count[-1] > slot.pages
            if beyond or np.any(page < 0):
                wrong = slot.pages if beyond else int(frame[page < 0][0]) - slot.first
                raise TraceError(
                    f"{file}: bit {wrong} is set, frame {slot.first + wrong:#x} lies "
                    + ("beyond the slot" if beyond else "in no block")
                    + "; pass --block NAME:FIRST_FRAME:PAGES for all of the guest's RAM"
                )
            yield page, counts
        if self._bytes - before != self._sizes[name]:
            raise TraceError(
                f"{file}: {self._bytes - before} bytes, {self._first[name]} has "
                f"{self._sizes[name]}; the bitmaps of one guest's slot are of one size"
            )

    def _counted(self, file: Path) -> Iterator[bytes]:
        for block in self._read(file):
            self._bytes += len(block)
            yield block

    def write(self, writer: TraceWriter, groups: list[Epoch], epochs: Epochs) -> ReadReport:
        """Write the trace."""
        rows = written = 0
        if epochs.guessed:
            self.notes.append(
                "when the first epoch began is not recorded: taken as "
                f"{milliseconds(epochs.ends[0])} before its end"
            )
        for number, (end, group) in enumerate(zip(epochs.ends, groups, strict=True), 1):
            for name, file in group.items():
                for page, count in self._runs(name, file):
                    rows += write_runs(writer, "dirty", end, page, count)
                    written += int(count.sum())
            if self._progress is not None:
                self._progress(number, len(groups))
        ended = write_epochs(writer, np.array(epochs.ends, np.int64))
        files = sum(map(len, groups))
        source: dict[str, Any] = {
            "recorder": "dirty-bitmaps",
            "files": files,
            "times": epochs.times,
            "clock_zero_ns": epochs.zero,
            "notes": self.notes,
        }
        if self._known:
            frames = [f"{e.name}:{e.first:#x}:{e.pages}" for e in self._map.extents]
            source["frames"] = frames
        if "" not in self._slots:
            source["slots"] = [f"{s.name}:{s.first:#x}:{s.pages}" for s in self._slots.values()]
        meta = Meta(
            page_size=self._page_size,
            pages=self._map.pages,
            duration_ns=epochs.ends[-1],
            blocks=self._map.blocks,
            resolution="epoch",
            quantum_ns=1,
            source=source,
            clock="host",
        )
        writer.finish(meta)
        return ReadReport.of(
            writer.path,
            meta,
            rows={"dirty": rows, "epochs": ended},
            read={"files": files, "pages dirtied": written},
            bytes_read=self._bytes,
            notes=tuple(self.notes),
        )
