"""Raw dirty bitmaps, one file an epoch: what KVM_GET_DIRTY_LOG fills in (virt/kvm/kvm_main.c).

Little-endian words of 64 bits; bit i of a file is guest frame i, for memory of several slots as
far as `blocks` say. Qemu-DPT writes `qemu.bm-PID.SECONDS`, indexed by QEMU's ram_addr, once a
second; its first file has every bit set and stands for the start, and its last one is named a
second too late.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.errors import TraceError
from tracer.format import Meta
from tracer.readers.epoch_files import Times, epoch_ends, find_files, natural, start_before
from tracer.readers.ram_map import Extent, RamMap, extents_of
from tracer.readers.report import ReadReport, milliseconds
from tracer.readers.rows_out import write_epochs, write_pages
from tracer.readers.streams import Progress, read_blocks
from tracer.rows import Int64s
from tracer.writer import Compression, TraceWriter

_DPT = re.compile(r"qemu\.bm-(\d+)\.(\d+)(?:\.gz|\.zst)?")
_WORD = 8
#: Bytes of a bitmap that are taken apart at once.
_PART = 1 << 19


def import_bitmaps(
    paths: Sequence[str | Path],
    *,
    out: str | Path,
    times: Times | None = None,
    unit_ns: int = 10**9,
    interval_ns: int | None = None,
    blocks: Iterable[str] = (),
    page_size: int = 4096,
    force: bool = False,
    compression: Compression = "zstd",
    progress: Progress | None = None,
) -> ReadReport:
    """Import bitmaps, each a file at `paths` or in a folder there, into the trace `out`.

    `times` says where the epochs' ends stand: by itself in names like Qemu-DPT's, in an interval
    where one is given, else in the files' times. `blocks` are the guest's RAM as
    `NAME:FIRST_FRAME:PAGES`; without them all of a bitmap is one block.

    Raises UsageError for options that do not fit, TraceError with the file for a bitmap that is
    empty, no whole number of words, of another size than the first, or has bits outside the
    blocks; nothing is left at `out` then.
    """
    files = find_files(paths)
    dpt = all(_DPT.fullmatch(file.name) for file in files)
    if dpt:
        files = sorted(files, key=natural)
        pids = {file.name.split("-")[1].split(".")[0] for file in files}
        if len(pids) > 1:
            raise TraceError(f"bitmaps of several guests (pids {', '.join(sorted(pids))})")
    job = _Job(files, page_size, progress)
    times = times or ("names" if dpt else "interval" if interval_ns is not None else "mtimes")
    given = extents_of(blocks, "--block", page_size)
    with TraceWriter(Path(out), compression=compression, force=force) as writer:
        first = job.load(files[0])
        job.place(given, len(first))
        ends = epoch_ends(files, times, unit_ns=10**9 if dpt else unit_ns, interval_ns=interval_ns)
        if dpt and len(files) > 1 and _full(first):
            job.notes.append(
                f"{files[0]} has every bit set, as when Qemu-DPT starts: time zero; names tell "
                "whole seconds, and the last file's may be one too late"
            )
            zero = ends.pop(0)
            files = files[1:]
        else:
            zero = 0 if times == "interval" else start_before(ends, interval_ns)
            if times != "interval":
                job.notes.append(
                    "when the first epoch began is not recorded: taken as "
                    f"{milliseconds(ends[0] - zero)} "
                    "before its end"
                )
        return job.write(writer, files, [end - zero for end in ends], zero, times)


def _full(bits: npt.NDArray[np.uint8]) -> bool:
    # Bits beyond the last block stay clear: all of RAM but the last bytes' padding.
    return bool(np.all(bits[:-_WORD] == 0xFF)) and bool(bits.any())


class _Job:
    def __init__(self, files: list[Path], page_size: int, progress: Progress | None):
        self._files, self._page_size, self._progress = files, page_size, progress
        self.notes: list[str] = []
        self._bytes = 0

    def load(self, file: Path) -> npt.NDArray[np.uint8]:
        """Return a bitmap's bytes."""
        cuts: list[str] = []
        data = b"".join(read_blocks(file, cuts, None))
        if cuts:
            raise TraceError(f"{file}: {cuts[0]}; a bitmap is read whole or not at all")
        if not data or len(data) % _WORD:
            raise TraceError(
                f"{file}: {len(data)} bytes; a bitmap is a whole number of 64-bit words"
            )
        return np.frombuffer(data, np.uint8)

    def place(self, given: list[Extent], size: int) -> None:
        """Decide which frames are the guest's RAM."""
        self._size = size
        if not given:
            given = [Extent("ram", 0, size * 8)]
            self.notes.append(
                f"RAM taken as all {size * 8} bits of a bitmap, which is rounded up to 64 "
                "(--block says otherwise)"
            )
        self._map = RamMap(given)
        for extent in given:
            if extent.first + extent.pages > size * 8:
                raise TraceError(
                    f"{self._files[0]}: {size} bytes hold {size * 8} frames; block {extent.name} "
                    f"goes up to frame {extent.first + extent.pages - 1:#x}"
                )

    def _epoch(self, file: Path) -> Iterator[Int64s]:
        """Yield the dense pages of a bitmap, part by part and ascending in each."""
        bits = self.load(file)
        if len(bits) != self._size:
            raise TraceError(
                f"{file}: {len(bits)} bytes, {self._files[0]} has {self._size}; the bitmaps of "
                "one guest are of one size"
            )
        self._bytes += len(bits)
        for at in range(0, len(bits), _PART):
            frames = at * 8 + frames_of(bits[at : at + _PART])
            pages = self._map.page_of(frames)
            if np.any(pages < 0):
                frame = int(frames[pages < 0][0])
                raise TraceError(
                    f"{file}: bit {frame} is set, frame {frame:#x} lies in no block; pass --block "
                    "NAME:FIRST_FRAME:PAGES for all of the guest's RAM"
                )
            pages.sort()
            yield pages

    def write(
        self, writer: TraceWriter, files: Sequence[Path], ends: list[int], zero: int, times: str
    ) -> ReadReport:
        rows = 0
        written = 0
        for number, (end, file) in enumerate(zip(ends, files, strict=True), 1):
            for pages in self._epoch(file):
                rows += write_pages(writer, "dirty", np.full(len(pages), end, np.int64), pages)
                written += len(pages)
            if self._progress is not None:
                self._progress(number, len(files))
        epochs = write_epochs(writer, np.array(ends, np.int64))
        source: dict[str, Any] = {
            "recorder": "dirty-bitmaps",
            "files": len(files),
            "times": times,
            "clock_zero_ns": zero,
            "frames": [f"{e.name}:{e.first:#x}:{e.pages}" for e in self._map.extents],
            "notes": self.notes,
        }
        meta = Meta(
            page_size=self._page_size,
            pages=self._map.pages,
            duration_ns=ends[-1],
            blocks=self._map.blocks,
            resolution="epoch",
            quantum_ns=1,
            source=source,
            clock="host",
        )
        writer.finish(meta)
        return ReadReport(
            out=writer.path,
            pages=meta.pages,
            page_size=meta.page_size,
            duration_ns=meta.duration_ns,
            resolution=meta.resolution,
            rows={"dirty": rows, "epochs": epochs},
            read={"files": len(files), "pages dirtied": written},
            bytes_read=self._bytes,
            notes=tuple(self.notes),
        )


def frames_of(bits: npt.NDArray[np.uint8]) -> Int64s:
    """Return the numbers of the set bits of little-endian words, ascending."""
    # Most bytes are empty: only the others are taken apart.
    at = np.flatnonzero(bits)
    bit, which = np.nonzero(np.unpackbits(bits[at], bitorder="little").reshape(-1, 8))
    return at[bit] * 8 + which
