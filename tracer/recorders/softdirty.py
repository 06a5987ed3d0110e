"""Which pages of a process were written, by its page tables' soft-dirty bits.

Documentation/admin-guide/mm/soft-dirty.rst: 4 written to /proc/PID/clear_refs clears the bits and
protects the pages; the next write to one faults and sets bit 55 of its entry in /proc/PID/pagemap.
For a guest under KVM the kernel takes its second-level entries away too, so that its write comes
back to the process' page table. Reading and clearing are two steps: the process must be stopped
meanwhile, or a write between them is seen by neither.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tracer.errors import RecordError
from tracer.recorders.mappings import PAGE, Region

if TYPE_CHECKING:
    import numpy.typing as npt

    from tracer.rows import Int64s

_SOFT_DIRTY = np.uint64(1 << 55)
_PRESENT_OR_SWAPPED = np.uint64(3 << 62)
#: Pages whose entries are read at once: 1 GiB of a guest, 2 MiB of entries.
_CHUNK = 1 << 18


class SoftDirty:
    """The soft-dirty bits of a process' regions; `pauses`: it must be stopped for a harvest."""

    pauses = True

    def __init__(self, pid: int, regions: Sequence[Region]):
        if not supported():
            raise RecordError(
                "this kernel has no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY); Linux 6.7 and on can "
                "protect pages instead"
            )
        self._regions = regions
        self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._clear = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)

    def start(self) -> None:
        """Forget what was written so far."""
        os.write(self._clear, b"4")

    def harvest(self) -> Iterator[Int64s]:
        """Yield the pages written since the clear before, int64 ascending, then clear.

        Raises ProcessLookupError where the process is gone.
        """
        for first, entries in read_pagemap(self._pagemap, self._regions):
            written = np.flatnonzero(entries & _SOFT_DIRTY)
            if len(written):
                yield first + written
        self.start()

    def close(self) -> None:
        """Leave the process as it is."""
        os.close(self._pagemap)
        os.close(self._clear)


def read_pagemap(
    pagemap: int, regions: Sequence[Region]
) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
    """Yield the trace's first page and the entries, chunk by chunk, of an open /proc/PID/pagemap.

    Raises ProcessLookupError where the process is gone.
    """
    buffer = np.empty(_CHUNK, np.uint64)
    for region in regions:
        for at in range(0, region.pages, _CHUNK):
            entries = buffer[: min(_CHUNK, region.pages - at)]
            view, done = entries.data.cast("B"), 0
            while done < len(view):
                got = os.preadv(pagemap, [view[done:]], (region.start // PAGE + at) * 8 + done)
                if not got:
                    raise ProcessLookupError
                done += got
            yield region.first_page + at, entries


def untouched(entries: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return which pages were never written, or given back: neither in memory nor in swap."""
    return np.asarray(entries & _PRESENT_OR_SWAPPED == 0)


def supported() -> bool:
    """Return whether this kernel keeps soft-dirty bits: a page that we write has one."""
    with mmap.mmap(-1, PAGE) as page:
        page[0] = 1
        address = np.frombuffer(page, np.uint8).ctypes.data
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:  # noqa: PTH123
            pagemap.seek(address // PAGE * 8)
            return bool(int.from_bytes(pagemap.read(8), "little") & int(_SOFT_DIRTY))
