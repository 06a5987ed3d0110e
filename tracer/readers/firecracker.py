"""Firecracker's diff snapshots: sparse memory files that hold the pages dirtied since the last.

A memory file is all of the guest's RAM, region after region without the holes between them
(vmm/src/vstate/memory.rs): on x86-64 all RAM beyond 3 GiB begins at 4 GiB, on aarch64 RAM begins at
2 GiB (arch_memory_regions). Which regions there are also stands in the vmstate file, whose layout
changes with every version; it is not read. A trace's pages are the file's, and its source says
which guest frames these are.

A diff leaves holes where nothing changed. Which parts are data is asked with SEEK_DATA and
SEEK_HOLE, so a copy must have kept the holes (cp --sparse=always makes new ones
of zeros and loses dirty zero pages; use --sparse=auto, tar -S, rsync -S with care). A full snapshot
before them gives the contents at the start.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tracer.errors import TraceError, UsageError
from tracer.format import Meta
from tracer.readers.contents_of import read_pages
from tracer.readers.epoch_files import Epochs, Times, epochs_of, find_files
from tracer.readers.ram_map import Extent, RamMap, extents_of
from tracer.readers.report import ReadReport, milliseconds
from tracer.readers.rows_out import batched, write_epochs, write_pages
from tracer.readers.streams import Progress
from tracer.rows import Int64s
from tracer.words import whole_size
from tracer.writer import Compression, TraceWriter

Arch = Literal["x86_64", "aarch64"]
_GIB = 1 << 30


@dataclass(frozen=True)
class _Hole:
    """Bytes of a file up to `offset` are guest addresses `first` higher, those behind `then`."""

    offset: int
    first: int
    then: int


_HOLES = {"x86_64": _Hole(3 * _GIB, 0, _GIB), "aarch64": _Hole(0, 2 * _GIB, 2 * _GIB)}


def import_firecracker(
    paths: Sequence[str | Path],
    *,
    out: str | Path,
    base: str | Path | None = None,
    times: Times | None = None,
    unit_ns: int = 10**9,
    interval_ns: int | None = None,
    blocks: Iterable[str] = (),
    arch: Arch = "x86_64",
    page_size: int = 4096,
    force: bool = False,
    compression: Compression = "zstd",
    progress: Progress | None = None,
) -> ReadReport:
    """Import diff snapshots' memory files, in their order, into the trace `out`.

    `base` is the full snapshot before them: it is time zero and says what was zero then. `times`,
    `unit_ns` and `interval_ns` as for bitmaps. `blocks` names parts of the file, as
    `NAME:FIRST_PAGE:PAGES` of it; they must hold all of it. `arch` says which guest frames the
    file's pages are, for whoever puts a free list to the trace.

    Raises UsageError for options that do not fit, TraceError with the file for one that is missing,
    empty, no whole number of pages, of another size than the others or without any hole.
    """
    left_out: list[str] = []
    files = find_files(paths, left_out)
    full = None if base is None else Path(base)
    given = extents_of(blocks, "--block", page_size)
    job = _Job(files, full, page_size, progress)
    job.notes += left_out
    job.place(given)
    job.frames = guest_frames(given or [Extent("ram", 0, job.pages)], arch, page_size)
    epochs = epochs_of(files, times, unit_ns=unit_ns, interval_ns=interval_ns, before=full)
    with TraceWriter(Path(out), compression=compression, force=force) as writer:
        return job.write(writer, epochs)


class _Job:
    def __init__(
        self, files: list[Path], base: Path | None, page_size: int, progress: Progress | None
    ):
        self._files, self._base, self._page_size = files, base, page_size
        self._progress = progress
        self.notes: list[str] = []
        self._bytes = self._done = 0
        self.frames: list[Extent] = []
        sizes = {file: file.stat().st_size for file in [*([base] if base else []), *files]}
        self._size = sizes[files[0]]
        for file, size in sizes.items():
            if not size or size % page_size:
                raise TraceError(
                    f"{file}: {size:,} bytes; a memory file is a whole number of pages of "
                    f"{whole_size(page_size)}"
                )
            if size != self._size:
                raise TraceError(
                    f"{file}: {whole_size(size)}, {files[0]} has {whole_size(self._size)}; the "
                    "snapshots of one guest are of one size"
                )

    @property
    def pages(self) -> int:
        """The pages of a memory file."""
        return self._size // self._page_size

    def place(self, given: list[Extent]) -> None:
        """Decide what the file's pages are called."""
        pages = self.pages
        self._map = RamMap(given or [Extent("ram", 0, pages)])
        if self._map.pages != pages or self._map.page_of(np.array([0, pages - 1])).min() < 0:
            raise UsageError(
                f"--block: the blocks hold {self._map.pages} pages, the memory file {pages}; they "
                "must hold all of it, from its page 0 on"
            )

    def write(self, writer: TraceWriter, epochs: Epochs) -> ReadReport:
        """Write the trace."""
        rows = {"dirty": 0, "zero": 0}
        written = zeros = 0
        if self._base is not None:
            for (pages,) in batched((some,) for some in self._zeros_of_all(self._base)):
                rows["zero"] += self._write(writer, "zero", 0, pages)
                zeros += len(pages)
        for end, file in zip(epochs.ends, self._files, strict=True):
            for dirty, zero_pages in batched(self._changed(file)):
                rows["dirty"] += self._write(writer, "dirty", end, dirty)
                rows["zero"] += self._write(writer, "zero", end, zero_pages)
                written += len(dirty)
        rows["epochs"] = write_epochs(writer, np.array(epochs.ends, np.int64))
        self._note(written, epochs.ends[0])
        source: dict[str, Any] = {
            "recorder": "firecracker-diff-snapshots",
            "files": len(self._files),
            "base": self._base is not None,
            "times": epochs.times,
            "clock_zero_ns": epochs.zero,
            "frames": [f"{e.name}:{e.first:#x}:{e.pages}" for e in self.frames],
            "notes": self.notes,
        }
        meta = Meta(
            page_size=self._page_size,
            pages=self._map.pages,
            duration_ns=epochs.ends[-1],
            blocks=self._map.blocks,
            resolution="epoch",
            source=source,
            clock="host",
        )
        writer.finish(meta)
        return ReadReport.of(
            writer.path, meta,
            rows=rows,
            read={"files": len(self._files), "pages dirtied": written,
                  "zero pages at the start": zeros},
            bytes_read=self._bytes,
            notes=tuple(self.notes),
        )  # fmt: skip

    def _note(self, written: int, first_end: int) -> None:
        add = self.notes.append
        if self._base is None:
            add(
                f"no full snapshot before the first diff (--base): its epoch is taken as "
                f"{milliseconds(first_end)} long, and what is zero at the start is unknown"
            )
        if written == len(self._files) * self._map.pages:
            add(
                "every page is data in every file: these are full snapshots, or copies that lost "
                "their holes"
            )
        block = os.stat(self._files[0]).st_blksize  # noqa: PTH116 - pathlib's is the same
        if block > self._page_size:
            add(
                f"the file system allocates {whole_size(block)} at a time: clean pages beside a "
                "dirty one may count as dirty"
            )
        add(
            "without track_dirty_pages Firecracker writes every resident page into a diff, dirty "
            "or not; a guest is stopped while a snapshot is taken"
        )

    def _write(self, writer: TraceWriter, table: str, t: int, file_pages: Int64s) -> int:
        page = self._map.page_of(file_pages)
        page.sort()
        return write_pages(writer, table, np.full(len(page), t, np.int64), page)

    def _zeros_of_all(self, file: Path) -> Iterator[Int64s]:
        """Yield the zero pages of a full snapshot; its holes are zeros too."""
        size = self._page_size
        at = 0
        with file.open("rb") as opened:
            for start, end in extents_with_data(opened.fileno(), file, self._size):
                first, last = start // size, -(-end // size)
                if first > at:
                    yield np.arange(at, first)
                at = last
                for offset, zero in read_pages(opened.fileno(), first * size, last * size, size):
                    self._bytes += len(zero) * size
                    yield offset // size + np.flatnonzero(zero)
        if at * size < self._size:
            yield np.arange(at, self._size // size)

    def _changed(self, file: Path) -> Iterator[tuple[Int64s, Int64s]]:
        """Yield the pages that a diff holds, and those of them that are zeros."""
        size = self._page_size
        at = 0
        with file.open("rb") as opened:
            for start, end in extents_with_data(opened.fileno(), file, self._size):
                first, last = max(start // size, at), -(-end // size)
                at = last
                for offset, zero in read_pages(opened.fileno(), first * size, last * size, size):
                    self._bytes += len(zero) * size
                    pages = offset // size + np.arange(len(zero))
                    yield pages, pages[zero]
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, len(self._files))


def guest_frames(extents: Sequence[Extent], arch: Arch, page_size: int) -> list[Extent]:
    """Return parts of a memory file, whose `first` is a page of it, as parts of guest memory."""
    hole, frames = _HOLES[arch], []
    cut = hole.offset // page_size
    for extent in extents:
        low = max(min(cut - extent.first, extent.pages), 0)
        parts = (
            (extent.first, low, hole.first),
            (extent.first + low, extent.pages - low, hole.then),
        )
        for first, pages, shift in parts:
            if pages:
                frames.append(Extent(extent.name, first + shift // page_size, pages))
    return frames


def extents_with_data(file: int, path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the parts of an open file that are data (lseek(2))."""
    at = 0
    while at < size:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise TraceError(
                f"{path}: the file system does not tell data from holes ({error.strerror}); copy "
                "the snapshots to ext4, XFS, btrfs or tmpfs with their holes (cp --sparse=auto)"
            ) from None
        yield start, end
        at = end
