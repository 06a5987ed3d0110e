"""Which pages of a process were written, by write protection (Linux 6.7 and later).

A userfaultfd in asynchronous write-protect mode lets the kernel itself take a page's protection
away when it is written, and the ioctl PAGEMAP_SCAN of /proc/PID/pagemap returns the pages without
it and protects them anew, in one step: nothing is missed and nothing stands still
(Documentation/admin-guide/mm/pagemap.rst). The userfaultfd must belong to the process, so it is
made inside it, by ptrace, and closed again in the end. A recorder that is killed leaves it open;
it costs the guest one fault, once, for each protected page, and the next recording uses it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tracer.errors import RecordError
from tracer.recorders.mappings import PAGE, Region
from tracer.recorders.ptrace import Inside, stopped

if TYPE_CHECKING:
    from tracer.rows import Int64s

_PAGEMAP_SCAN = 0xC0606610
_WP_MATCHING, _CHECK_WPASYNC = 1, 2
_WRITTEN = 2
#: Regions that one scan returns at most: 1.5 MiB.
_VECTOR = 1 << 16

_SYS_IOCTL, _SYS_CLOSE, _SYS_USERFAULTFD = 16, 3, 323
_USER_MODE_ONLY = 1  # so that it needs no privilege; no fault is ever handled by us
_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
_API = 0xAA
_WP_UNPOPULATED, _WP_ASYNC = 1 << 13, 1 << 15
_REGISTER_WP = 2


class ScanArguments(ctypes.Structure):
    """struct pm_scan_arg."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    )


class WriteProtect:
    """Write protection of a process' regions; `pauses`: it need not be stopped for a harvest.

    Raises RecordError where the kernel cannot, or the process may not be made to.
    """

    pauses = False

    def __init__(self, pid: int, regions: Sequence[Region]):
        self._pid, self._regions = pid, regions
        self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._vector = np.empty((_VECTOR, 3), np.uint64)
        self._inside: int | None = None
        try:
            if not self._protected():
                self._inside = self._open_inside()
        except BaseException:
            os.close(self._pagemap)
            raise

    def start(self) -> None:
        """Forget what was written so far."""
        for _ in self.harvest():
            pass

    def harvest(self) -> Iterator[Int64s]:
        """Yield the pages written since the harvest before, int64 ascending, protecting them anew.

        Raises ProcessLookupError where the process is gone.
        """
        for region in self._regions:
            at = region.start
            while at < region.end:
                count, at = self._scan(_WP_MATCHING | _CHECK_WPASYNC, at, region.end)
                begins, ends = (
                    (self._vector[:count, column].astype(np.int64) - region.start) // PAGE
                    for column in (0, 1)
                )
                if count:
                    yield region.first_page + _pages(begins, ends)

    def close(self) -> None:
        """Take the protection away and leave the process as it was."""
        os.close(self._pagemap)
        if self._inside is not None:
            try:
                with stopped(self._pid):
                    Inside(self._pid).call(_SYS_CLOSE, self._inside)
            except ProcessLookupError:
                pass
            self._inside = None

    def _protected(self) -> bool:
        """Return whether the regions are in write-protect mode already; changes nothing."""
        try:
            for region in self._regions:
                self._scan(_CHECK_WPASYNC, region.start, region.end)
        except PermissionError:
            return False
        except OSError as error:
            if error.errno == errno.ENOTTY:
                raise RecordError("this kernel cannot scan page maps (Linux 6.7 and on)") from None
            raise
        return True

    def _scan(self, flags: int, start: int, end: int) -> tuple[int, int]:
        """Scan for written pages; return how many regions were found and where it stopped."""
        arguments = ScanArguments(
            size=ctypes.sizeof(ScanArguments),
            flags=flags,
            start=start,
            end=end,
            vec=self._vector.ctypes.data,
            vec_len=len(self._vector),
            category_mask=_WRITTEN,
            return_mask=_WRITTEN,
        )
        buffer = bytearray(arguments)
        count = fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, buffer, True)
        return count, ScanArguments.from_buffer(buffer).walk_end

    def _open_inside(self) -> int:
        """Make a userfaultfd in the process and register the regions; return its descriptor."""
        with stopped(self._pid):
            inside = Inside(self._pid)
            try:
                fd, _ = inside.call(_SYS_USERFAULTFD, os.O_CLOEXEC | _USER_MODE_ONLY)
            except OSError as error:
                raise RecordError(
                    f"process {self._pid} cannot make a userfaultfd ({error.strerror})"
                ) from None
            try:
                asked = np.array([_API, _WP_ASYNC | _WP_UNPOPULATED, 0], np.uint64).tobytes()
                inside.call(_SYS_IOCTL, fd, _UFFDIO_API, asked)
                for region in self._regions:
                    size = region.end - region.start
                    asked = np.array([region.start, size, _REGISTER_WP, 0], np.uint64).tobytes()
                    inside.call(_SYS_IOCTL, fd, _UFFDIO_REGISTER, asked)
            except OSError as error:
                inside.call(_SYS_CLOSE, fd)
                raise RecordError(
                    f"process {self._pid}: its memory cannot be write-protected ({_reason(error)})"
                ) from None
        return fd


def _reason(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "it is under another userfaultfd: a postcopy, a background snapshot"
    return str(error.strerror)


def _pages(begins: Int64s, ends: Int64s) -> Int64s:
    """Return the pages of ascending runs, `begins` up to `ends`, one by one."""
    lengths = ends - begins
    offsets = np.repeat(begins - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.asarray(offsets + np.arange(len(offsets)), np.int64)
