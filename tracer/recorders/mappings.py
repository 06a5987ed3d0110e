"""Where a process has a guest's RAM: its mappings, as /proc/PID/maps lists them."""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from tracer.errors import RecordError, UsageError
from tracer.words import whole_size

#: No file; a file's own pages (a memfd, shared memory, hugetlbfs); a copy on write of a file's.
Backing = Literal["anonymous", "shared", "private"]

PAGE = mmap.PAGESIZE
_LINE = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) [0-9a-f]+:[0-9a-f]+ (\d+) *(.*)", re.ASCII
)
_RANGE = re.compile(r"(?:0x)?([0-9a-f]+)-(?:0x)?([0-9a-f]+)", re.ASCII | re.IGNORECASE)
_MEMORY = re.compile(r"(?:size=)?([0-9]{1,12})([kmgt]?)(?:,.*)?", re.ASCII | re.IGNORECASE)
_SHIFTS = {"k": 10, "m": 20, "g": 30, "t": 40}
#: No guest's RAM: the process' own.
_OWN = ("[heap]", "[stack]", "[vvar]", "[vdso]", "[vsyscall]", "[anon: glibc")


@dataclass(frozen=True)
class Mapping:
    """Addresses `start` up to `end` of a process; of a file (a memfd is one) from byte `offset`."""

    start: int
    end: int
    access: str
    name: str
    backing: Backing
    offset: int

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class Region:
    """RAM of a guest: `pages` pages from address `start` of a process, the trace's `first_page`."""

    name: str
    start: int
    pages: int
    first_page: int
    backing: Backing

    @property
    def end(self) -> int:
        """The address after its last page."""
        return self.start + self.pages * PAGE


def mappings(pid: int) -> list[Mapping]:
    """Return the mappings of a process, ascending. Raises UsageError where it is not there."""
    try:
        text = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise UsageError(f"process {pid}: there is none; pass the pid of one that runs") from None
    except PermissionError:
        raise RecordError(f"process {pid}: run as root or its owner to see its memory") from None
    lines = [match.groups() for line in text.splitlines() if (match := _LINE.fullmatch(line))]
    return [
        Mapping(
            int(start, 16),
            int(end, 16),
            access,
            name,
            "anonymous" if inode == "0" else "shared" if access.endswith("s") else "private",
            int(offset, 16),
        )
        for start, end, access, offset, inode, name in lines
    ]


def find_ram(pid: int, named: Sequence[str] = (), size: int | None = None) -> list[Region]:
    """Return where a process has its guest's RAM.

    named: address ranges such as 7f0000000000-7f0040000000, or parts of mappings' names, in the
    order of the guest's pages. size: the RAM in bytes, of one mapping, or of two if a hole for
    devices divides it. Else it is the one of the size that a QEMU's -m says, or the largest that is
    written and not executed.

    Raises UsageError where nothing fits, or too much, and lists what there is.
    """
    there = [m for m in mappings(pid) if "w" in m.access and "r" in m.access]
    able = [m for m in there if "x" not in m.access and not m.name.startswith(_OWN)]
    if named:
        chosen = [part for name in named for part in _named(name, there, pid)]
    elif size is not None:
        chosen = _sized(size, able, pid)
    else:
        told = _told_to_qemu(pid)
        chosen = [m for m in able if m.size == told]
        if len(chosen) != 1:
            chosen = sorted(able, key=lambda m: m.size)[-1:]
        if not chosen:
            raise UsageError(f"process {pid} has no memory that could be a guest's")
    regions, first = [], 0
    for number, mapping in enumerate(chosen):
        name = mapping.name or ("ram" if len(chosen) == 1 else f"ram{number}")
        pages = mapping.size // PAGE
        regions.append(Region(name, mapping.start, pages, first, mapping.backing))
        first += pages
    return regions


def _named(name: str, there: Sequence[Mapping], pid: int) -> list[Mapping]:
    if match := _RANGE.fullmatch(name):
        start, end = (int(part, 16) for part in match.groups())
        inside = [m for m in there if m.start < end and start < m.end]
        covered = sum(min(m.end, end) - max(m.start, start) for m in inside)
        if start % PAGE or end % PAGE or start >= end or covered != end - start:
            raise UsageError(f"{name}: is not whole pages of memory that process {pid} writes")
        return [Mapping(start, end, inside[0].access, "", inside[0].backing, 0)]
    found = [m for m in there if name in m.name]
    if not found:
        raise UsageError(
            f"{name!r}: no mapping of process {pid} has that in its name; {_list(there)}"
        )
    return found


def _sized(size: int, able: Sequence[Mapping], pid: int) -> list[Mapping]:
    """The RAM below the hole for devices lies below 4 GiB, the rest above: two mappings at most."""
    whole = [m for m in able if m.size == size]
    if not whole:
        pairs = [
            [low, high]
            for low in able
            for high in able
            if low is not high
            and low.size + high.size == size
            and low.size < 4 << 30
            and low.size % (128 << 20) == 0
        ]
        whole = pairs[0] if len(pairs) == 1 else []
    elif len(whole) > 1:
        raise UsageError(
            f"process {pid} has {len(whole)} mappings of that size; name the one: {_list(whole)}"
        )
    if not whole:
        raise UsageError(
            f"process {pid} has no mapping of {whole_size(size)}, nor two that make it up; "
            f"{_list(able)}"
        )
    return whole


def _told_to_qemu(pid: int) -> int | None:
    """Return the bytes of RAM that a QEMU's command line gives its guest, None of another."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if not Path(words[0]).name.startswith(("qemu", "kvm")):
        return None
    value = next((value for option, value in pairwise(words) if option in ("-m", "--m")), "")
    match = _MEMORY.fullmatch(value)
    # A number alone is one of MiB.
    return None if match is None else int(match[1]) << _SHIFTS[(match[2] or "m").lower()]


def _list(there: Sequence[Mapping]) -> str:
    largest = sorted(there, key=lambda m: -m.size)[:4]
    return "its largest are " + ", ".join(
        f"{m.start:x}-{m.end:x} ({m.size >> 20} MiB{', ' * bool(m.name)}{m.name})" for m in largest
    )
