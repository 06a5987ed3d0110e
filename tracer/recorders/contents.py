"""Which pages of a guest are all zeros, read out of the process that has them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from tracer.recorders.mappings import PAGE, Backing, Region, mappings
from tracer.recorders.session import Doing, runs, zero_pages
from tracer.recorders.softdirty import read_pagemap, untouched
from tracer.rows import Flags, Int64s

#: Pages read at once: 16 MiB.
_CHUNK = 4096


class Contents:
    """The contents of a process' regions, read without touching what was never touched.

    Anonymous memory is read through /proc/PID/mem. Shared memory (a memfd) is read from its file,
    since a page that is read through a mapping is allocated by that; `unreadable` names regions for
    which that is not allowed. What cannot be read counts as not zero.
    """

    def __init__(self, pid: int, regions: Sequence[Region]):
        self._pid, self._regions = pid, regions
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        #: For each region of a file: address, size, descriptor and offset in the file.
        self._files: list[tuple[int, int, int, int]] = []
        self.unreadable: list[str] = []
        for mapping in mappings(pid):
            mine = [r for r in regions if r.start < mapping.end and mapping.start < r.end]
            if mine and mapping.backing == "shared":
                self._open(mapping.start, mapping.end, mapping.offset, mine[0].name)
        self._buffer = np.empty((_CHUNK, PAGE), np.uint8)

    def _open(self, start: int, end: int, offset: int, name: str) -> None:
        try:
            path = f"/proc/{self._pid}/map_files/{start:x}-{end:x}"
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.unreadable.append(name)
            return
        self._files.append((start, end, fd, offset))

    def all_zero(self, pagemap: int, doing: Doing = lambda _what, _done, _total: None) -> Flags:
        """Return for every page whether it is all zeros. `pagemap` is an open /proc/PID/pagemap."""
        zero = np.zeros(sum(region.pages for region in self._regions), np.bool_)
        for region in self._regions:
            for first, entries in read_pagemap(pagemap, [region]):
                bare = untouched(entries)
                if region.backing == "anonymous":
                    zero[first : first + len(entries)] = bare
                known = np.zeros_like(bare) if region.backing == "shared" else bare
                for pages in self.zero(first + np.flatnonzero(~known)):
                    zero[pages] = True
                doing("reading the guest's pages", first + len(entries), len(zero))
        return zero

    def zero(self, pages: Int64s) -> Iterator[Int64s]:
        """Yield those of `pages`, ascending, that are all zeros.

        Raises ProcessLookupError where the process is gone.
        """
        for region in self._regions:
            low, high = np.searchsorted(
                pages, (region.first_page, region.first_page + region.pages)
            )
            mine = pages[low:high]
            for at in range(0, len(mine), _CHUNK):
                part = mine[at : at + _CHUNK]
                yield zero_pages(part, self._read(region, part))

    def _read(
        self, region: Region, pages: Int64s
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        filled = 0
        for first, count in zip(*(part.tolist() for part in runs(pages)), strict=True):
            rows = self._buffer[filled : filled + count]
            address = region.start + (first - region.first_page) * PAGE
            self._fill(rows.data.cast("B"), address, region.backing)
            filled += count
        return self._buffer[:filled]

    def _fill(self, view: memoryview, address: int, backing: Backing) -> None:
        done = 0
        while done < len(view):
            got = self._get(view[done:], address + done, backing)
            if not got:
                raise ProcessLookupError
            done += got

    def _get(self, view: memoryview, address: int, backing: Backing) -> int:
        if backing != "shared":
            try:
                return os.preadv(self._memory, [view], address)
            except OSError:
                # No such memory (any more): what is not there is not known to be zero.
                view[:PAGE] = b"\xff" * PAGE
                return PAGE
        for start, end, fd, offset in self._files:
            if start <= address < end:
                return os.preadv(fd, [view[: end - address]], offset + address - start)
        view[:PAGE] = b"\xff" * PAGE
        return PAGE

    def close(self) -> None:
        """Close what was opened."""
        os.close(self._memory)
        for _, _, fd, _ in self._files:
            os.close(fd)
