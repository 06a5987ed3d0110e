"""CRIU's dumps: each dump or pre-dump with --track-mem holds what changed since its parent.

The pages are those of the process's virtual memory; a trace says which of them were dumped when.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracer.errors import TraceError, UsageError
from tracer.format import Meta
from tracer.readers.address_space import AddressSpace
from tracer.readers.contents_of import read_pages
from tracer.readers.criu_pagemap import PARENT, PRESENT, PageMap, read_pagemap
from tracer.readers.epoch_files import Epochs, Times, epochs_of
from tracer.readers.report import ReadReport, milliseconds
from tracer.readers.rows_out import write_at, write_epochs
from tracer.readers.streams import Progress
from tracer.rows import Int64s
from tracer.writer import Compression, TraceWriter

_DEPTH = 10_000


def import_criu(
    paths: Sequence[str | Path],
    *,
    out: str | Path,
    pid: int | None = None,
    times: Times | None = None,
    interval_ns: int | None = None,
    page_size: int = 4096,
    force: bool = False,
    compression: Compression = "zstd",
    progress: Progress | None = None,
) -> ReadReport:
    """Import the page maps of image folders into the trace `out`.

    `paths` are folders, oldest first, or the newest alone: its `parent` links lead to the others.
    `pid` chooses the process where a folder has several. A first folder that refers to no parent is
    the state at the start; each other one ends an epoch. `times` and `interval_ns` as for bitmaps.

    Raises UsageError for options that do not fit, TraceError with the file for one that is missing,
    cut short or no page map; nothing is left at `out` then.
    """
    folders = _chain([Path(path) for path in paths])
    job = _Job(folders, [_map_file(folder, pid) for folder in folders], page_size, progress)
    if times == "names":
        raise UsageError("--times names: page maps carry no times in their names")
    files = job.files[1:] if job.full else job.files
    first = job.files[0] if job.full else None
    epochs = epochs_of(files, times, interval_ns=interval_ns, before=first)
    with TraceWriter(Path(out), compression=compression, force=force) as writer:
        return job.write(writer, epochs)


def _chain(folders: list[Path]) -> list[Path]:
    """Return the folders oldest first; a single one is followed to its ancestors."""
    if not folders:
        raise UsageError("nothing to import: pass the folders of images, oldest first")
    for folder in folders:
        if not folder.is_dir():
            raise TraceError(f"{folder}: no folder of CRIU's images")
    if len(folders) > 1:
        return folders
    seen = [folders[0]]
    while (parent := seen[0] / "parent").exists() or parent.is_symlink():
        if not parent.is_dir() or len(seen) > _DEPTH:
            raise TraceError(f"{parent}: leads nowhere; the chain of dumps is broken")
        seen.insert(0, parent.resolve())
    return seen


def _map_file(folder: Path, pid: int | None) -> Path:
    if pid is not None:
        for suffix in ("img", "json"):
            if (file := folder / f"pagemap-{pid}.{suffix}").is_file():
                return file
        raise TraceError(f"{folder}: holds no pagemap-{pid}.img (nor .json)")
    found = sorted(f for s in ("img", "json") for f in folder.glob(f"pagemap-[0-9]*.{s}"))
    if not found:
        raise TraceError(f"{folder}: holds no pagemap-PID.img; is this a folder of CRIU's images?")
    if len(found) > 1:
        names = ", ".join(file.stem.removeprefix("pagemap-") for file in found[:8])
        raise UsageError(f"{folder}: holds several processes ({names}); choose one with --pid")
    return found[0]


class _Job:
    def __init__(
        self, folders: list[Path], files: list[Path], page_size: int, progress: Progress | None
    ):
        self._folders, self.files, self._page_size = folders, files, page_size
        self._progress = progress
        self._bytes = sum(file.stat().st_size for file in files)
        #: Whether the first map is a state and no difference.
        self.full = False
        self._space = AddressSpace(page_size)
        # Each is read twice, so that no more than a part of one is in memory.
        for number, file in enumerate(files):
            difference = False
            for each in read_pagemap(file, page_size):
                self._space.see(each.page, each.count)
                difference |= bool(np.any(each.flags & PARENT))
            self.full |= not number and not difference
        if len(files) == int(self.full):
            raise TraceError(
                f"{files[0]}: one full dump alone says nothing of what was written when; pass "
                "the dumps that followed (criu pre-dump --track-mem --prev-images-dir)"
            )
        self._space.close()
        self._read = 0

    def write(self, writer: TraceWriter, epochs: Epochs) -> ReadReport:
        """Write the trace."""
        rows = {"dirty": 0, "zero": 0}
        written = 0
        ends = epochs.ends
        instants = [0, *ends] if self.full else ends
        for number, (end, file) in enumerate(zip(instants, self.files, strict=True)):
            contents = _Contents(self._folders[number], self._page_size)
            for each in read_pagemap(file, self._page_size):
                present = (each.flags & PRESENT) != 0
                page, count = each.page[present], each.count[present]
                if number or not self.full:
                    rows["dirty"] += self._write(writer, end, page, count)
                    written += int(count.sum())
                for empty in contents.zeros(each, page, count):
                    rows["zero"] += write_at(writer, "zero", end, self._space.page_of(empty))
            self._bytes += contents.bytes
            self._read += contents.there
            if self._progress is not None:
                self._progress(number + 1, len(self.files))
        rows["epochs"] = write_epochs(writer, np.array(ends, np.int64))
        notes = [
            self._space.note(),
            "pages unmapped, or as their file has them, are in no dump: they count as not written",
        ]
        if not self.full:
            notes.append(
                "the first dump's parent is not here: its epoch is taken as "
                f"{milliseconds(ends[0])} long"
            )
        if self._read < len(self.files):
            notes.append(f"{len(self.files) - self._read} dumps without pages-ID.img: zero pages "
                         "in them are unknown")  # fmt: skip
        source: dict[str, Any] = {
            "recorder": "criu",
            "dumps": len(self.files),
            "times": epochs.times,
            "clock_zero_ns": epochs.zero,
            "notes": notes,
        }
        meta = Meta(
            page_size=self._page_size,
            pages=self._space.pages,
            duration_ns=ends[-1],
            blocks=self._space.blocks,
            resolution="epoch",
            source=source,
            clock="host",
        )
        writer.finish(meta)
        return ReadReport.of(
            writer.path,
            meta,
            rows=rows,
            read={"dumps": len(self.files), "pages dirtied": written},
            bytes_read=self._bytes,
            notes=tuple(notes),
        )

    def _write(self, writer: TraceWriter, t: int, page: Int64s, count: Int64s) -> int:
        writer.write(
            "dirty", t_ns=np.full(len(page), t), page=self._space.page_of(page), count=count
        )
        return len(page)


class _Contents:
    """Which pages of a dump are zeros, by its `pages-ID.img`; none where that is not there."""

    def __init__(self, folder: Path, page_size: int):
        self._folder, self._page_size = folder, page_size
        self._at = 0
        self.bytes = 0
        self.there = False

    def zeros(self, each: PageMap, page: Int64s, count: Int64s) -> Iterator[Int64s]:
        """Yield the virtual pages that are zeros among the next ones that are present."""
        size, pages = self._page_size, int(count.sum())
        file = self._folder / f"pages-{each.pages_id}.img"
        start, self._at = self._at, self._at + pages * size
        self.there = file.is_file()
        if not self.there:
            return
        if (found := file.stat().st_size) < self._at:
            raise TraceError(
                f"{file}: {found} bytes, {each.path} says {self._at} or more; it was cut short"
            )
        ends = np.cumsum(count)
        with file.open("rb") as opened:
            for offset, zero in read_pages(opened.fileno(), start, self._at, size):
                place = (offset - start) // size + np.flatnonzero(zero)
                entry = np.searchsorted(ends, place, side="right")
                self.bytes += len(zero) * size
                yield page[entry] + place - (ends - count)[entry]
