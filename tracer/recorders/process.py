"""`record process`: the pages that a virtual machine's process writes, seen from outside.

Whatever runs the guest, its RAM is memory of a process, and Linux can tell which pages of it were
written: by vCPUs of KVM, by an emulator, by device models and by the kernel's vhost threads alike.
Not seen is what reaches the memory past the process' page tables: a passed-through device, and
direct I/O into pages that were pinned before an epoch began.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from tracer.errors import RecordError, UsageError
from tracer.format import Block, Meta
from tracer.recorders import softdirty
from tracer.recorders.contents import Contents
from tracer.recorders.mappings import PAGE, Region
from tracer.recorders.ptrace import stopped
from tracer.recorders.session import Recorded, Session, Wanted
from tracer.recorders.softdirty import SoftDirty
from tracer.recorders.writeprotect import WriteProtect
from tracer.rows import Int64s

Method = Literal["auto", "protect", "soft-dirty"]

_BLIND = (
    "writes that pass the process' page tables are not there: DMA of passed-through devices, "
    "direct I/O into pages that were pinned before an epoch began"
)
_GIVEN_BACK = "a page that the process gives back (a balloon) and does not write again shows no row"


class Tracker(Protocol):
    """Tells which pages of a process were written; `pauses`: it must be stopped for a harvest."""

    pauses: bool

    def start(self) -> None:
        """Forget what was written so far."""

    def harvest(self) -> Iterator[Int64s]:
        """Yield the pages written since the harvest before, int64 ascending, and begin anew."""

    def close(self) -> None:
        """Leave the process as it was."""


@dataclass
class _Clock:
    """Time since `begin` in which the process could run, and what harvests cost it."""

    begin: int = 0
    paused: int = 0
    longest_pause: int = 0
    longest_harvest: int = 0
    started: int = field(default_factory=time.monotonic_ns)

    def now(self) -> int:
        return time.monotonic_ns() - self.begin - self.paused


def record_process(
    wanted: Wanted,
    pid: int,
    regions: Sequence[Region],
    *,
    method: Method = "auto",
    interval_ns: int = 1_000_000_000,
    zeros: bool = True,
    notes: Sequence[str] = (),
) -> Recorded:
    """Record which pages of `regions` of a process are written, an epoch every `interval_ns`.

    method: `protect` (Linux 6.7 and on, x86-64), `soft-dirty` (a kernel with
    CONFIG_MEM_SOFT_DIRTY; the process stands still during each harvest, and that time is left
    out), `auto`: the first that works. zeros: also read the contents, first of all pages, then of
    those written, to tell which are zero. `notes` are added to the trace's.

    Raises RecordError where the process cannot be recorded, UsageError for what does not fit.
    """
    if method not in get_args(Method):
        raise UsageError(f"no method {method!r}; there are {', '.join(get_args(Method))}")
    if interval_ns <= 0:
        raise UsageError("the interval is 0; an epoch needs some time")
    tracker, name = _tracker(pid, regions, method)
    try:
        meta = _meta(regions, name, interval_ns, [*notes, *_notes(pid, regions, tracker)])
        with Session(wanted, meta) as session:
            return _Recording(pid, regions, tracker, session, wanted).run(interval_ns, zeros)
    finally:
        tracker.close()


def _tracker(pid: int, regions: Sequence[Region], method: Method) -> tuple[Tracker, str]:
    if method == "soft-dirty":
        return SoftDirty(pid, regions), "soft-dirty"
    try:
        return WriteProtect(pid, regions), "protect"
    except (RecordError, PermissionError) as error:
        if method == "protect" or not softdirty.supported():
            raise RecordError(_reason(pid, error)) from None
    return SoftDirty(pid, regions), "soft-dirty"


def _reason(pid: int, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"process {pid}: run as root, or as its owner with CAP_SYS_PTRACE, to see its pages"
    return str(error)


def _meta(regions: Sequence[Region], method: str, interval_ns: int, notes: Sequence[str]) -> Meta:
    return Meta(
        page_size=PAGE,
        pages=sum(region.pages for region in regions),
        duration_ns=0,
        blocks=tuple(Block(r.name, r.first_page, r.pages) for r in regions),
        resolution="epoch",
        clock="host" if method == "protect" else "host, without the pauses of each harvest",
        source={
            "recorder": "process",
            "method": method,
            "interval_ns": interval_ns,
            "notes": list(notes),
        },
    )


def _notes(pid: int, regions: Sequence[Region], tracker: Tracker) -> Iterator[str]:
    yield _BLIND
    yield _GIVEN_BACK
    if not tracker.pauses:
        yield "a page written while a harvest goes on is in the epoch before or after it"
    huge = _huge_bytes(pid, regions)
    if huge:
        yield (
            f"{huge >> 20} MiB of the RAM are in transparent huge pages: a write to one of their "
            "pages may show all of the huge page"
        )


def _huge_bytes(pid: int, regions: Sequence[Region]) -> int:
    """Return how much of the regions lies in transparent huge pages (bytes)."""
    total, mine = 0, False
    with Path(f"/proc/{pid}/smaps").open(encoding="utf-8", errors="replace") as smaps:
        for line in smaps:
            word = line.split(maxsplit=1)[0]
            if not word.endswith(":"):
                start, end = (int(part, 16) for part in word.split("-"))
                mine = any(r.start < end and start < r.end for r in regions)
            elif mine and word in ("AnonHugePages:", "ShmemPmdMapped:"):
                total += int(line.split()[1]) << 10
    return total


class _Recording:
    """One recording: from the first look at all pages to the end."""

    def __init__(
        self,
        pid: int,
        regions: Sequence[Region],
        tracker: Tracker,
        session: Session,
        wanted: Wanted,
    ):
        self._pid, self._regions = pid, regions
        self._tracker, self._session, self._wanted = tracker, session, wanted
        self._clock = _Clock()
        self._at = 0
        self._contents: Contents | None = None

    def run(self, interval_ns: int, zeros: bool) -> Recorded:
        ended, notes = None, []
        try:
            if zeros:
                self._contents = Contents(self._pid, self._regions)
                unread = self._contents.unreadable
                notes += [f"{name}: its contents could not be read; run as root" for name in unread]
            self._begin()
            self._epochs(interval_ns)
        except ProcessLookupError:
            ended = "the process ended"
        finally:
            if self._contents is not None:
                self._contents.close()
        clock = self._clock
        return self._session.end(
            ended,
            notes,
            longest_harvest_ns=clock.longest_harvest,
            paused_ns=clock.paused,
            longest_pause_ns=clock.longest_pause,
        )

    def _begin(self) -> None:
        """Look at every page; what was written meanwhile is looked at again, and then time runs."""
        self._tracker.start()
        if self._contents is None:
            self._session.begin(None)
        else:
            pagemap = os.open(f"/proc/{self._pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            try:
                zero = self._contents.all_zero(pagemap, self._wanted.doing)
            finally:
                os.close(pagemap)
            for pages in self._harvest():
                zero[pages] = False
                for found in self._contents.zero(pages):
                    zero[found] = True
            self._session.begin(np.flatnonzero(zero))
        self._clock, self._at = _Clock(begin=time.monotonic_ns()), 0

    def _epochs(self, interval_ns: int) -> None:
        ends = interval_ns
        # Over by what the epochs cover: a recorder that was held up still looks at what is open.
        while not self._wanted.over(self._at):
            if self._wanted.duration_ns is not None:
                ends = min(ends, self._wanted.duration_ns)
            self._wanted.wait(self._clock.begin + self._clock.paused + ends)
            pages = self._harvest()
            t = self._at
            zero = None
            if self._contents is not None:
                zero = _joined([z for part in pages for z in self._contents.zero(part)])
            self._session.epoch(t, _joined(pages), zero)
            ends = max(ends, t) + interval_ns

    def _harvest(self) -> list[Int64s]:
        """Return the pages written, in parts, and set `_at` to when the epoch ended."""
        still: AbstractContextManager[None] = nullcontext()
        if self._tracker.pauses:
            still = stopped(self._pid)
        before = time.monotonic_ns()
        with still:
            self._at = self._clock.now()
            begin = time.monotonic_ns()
            pages = list(self._tracker.harvest())
            took = time.monotonic_ns() - begin
            if not self._tracker.pauses:
                self._at = self._clock.now()
        if self._tracker.pauses:
            pause = time.monotonic_ns() - before
            self._clock.paused += pause
            self._clock.longest_pause = max(self._clock.longest_pause, pause)
        self._clock.longest_harvest = max(self._clock.longest_harvest, took)
        return pages


def _joined(parts: Sequence[Int64s]) -> Int64s:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
