"""What all recorders share: when to stop, telling how far they are, and what they made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.errors import UsageError
from tracer.files import check_free
from tracer.format import Meta, Resolution
from tracer.rows import Int64s
from tracer.streaming import StreamingWriter
from tracer.writer import refuse_foreign

#: Told how far a recording is: ns recorded, and pages seen written so far.
Watch = Callable[[int, int], None]
#: Told of other work: what it is, how much is done, how much there is.
Doing = Callable[[str, int, int], None]
#: How long a wait may go on after the recording is to stop (s).
_SOON = 0.05


@dataclass(frozen=True)
class Wanted:
    """How long to record and where to: what every recorder is told.

    duration_ns: None until stopped. `stop` is set, by whoever, to end the recording with what it
    has. `watch` is called a few times a second, `doing` before and after the recording.

    Raises UsageError if nothing may be put at `out`, or there is no time to record.
    """

    out: Path
    duration_ns: int | None = None
    force: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    watch: Watch = lambda _ns, _pages: None
    doing: Doing = lambda _what, _done, _total: None

    def __post_init__(self) -> None:
        refuse_foreign(self.out)
        check_free(self.out, force=self.force)
        if self.duration_ns is not None and self.duration_ns <= 0:
            raise UsageError("the duration is 0; a trace needs some time")

    def over(self, elapsed_ns: int) -> bool:
        """Return whether the recording ends after so many ns."""
        past = self.duration_ns is not None and elapsed_ns >= self.duration_ns
        return past or self.stop.is_set()

    def wait(self, until_ns: int) -> None:
        """Sleep until the monotonic clock reads `until_ns`, or the recording is to stop.

        Not by `stop.wait`: it holds the lock for moments that `stop.set` takes, which a signal's
        handler that comes in one of them would wait for without end, in the same thread.
        """
        while (left := until_ns - time.monotonic_ns()) > 0 and not self.stop.is_set():
            time.sleep(min(left / 1e9, _SOON))


@dataclass(frozen=True)
class Recorded:
    """What a recorder made. ended: why it stopped. notes: what the trace leaves open."""

    out: Path
    pages: int
    duration_ns: int
    resolution: Resolution
    rows: Mapping[str, int]
    pages_written: int
    ended: str
    notes: Sequence[str]


class Session:
    """A recording under way: its rows, its clock's reading, what was seen; a context manager.

    `begin` starts it with the pages that are zero, `epoch` adds an epoch's pages, `end` finishes
    the trace. Times are ns since the beginning.
    """

    def __init__(self, wanted: Wanted, meta: Meta):
        self._wanted = wanted
        self.writer = StreamingWriter(wanted.out, meta, force=wanted.force)
        self.pages_written = 0

    def __enter__(self) -> Session:
        self.writer.__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        self.writer.__exit__(*why)

    def begin(self, zero: Int64s | None, *, epochs: bool = True) -> None:
        """Start at 0 with these pages, ascending, all zeros; None where that is not known.

        epochs: whether the recording has any; the first then begins.
        """
        if zero is not None:
            self.zeros(0, zero)
        if epochs:
            self.writer.write("epochs", t_ns=[0])
        self.writer.commit(0)

    def write(self, t_ns: Int64s, pages: Int64s) -> None:
        """Add that each of `pages` was written at the time beside it; times ascend."""
        self.writer.write("dirty", t_ns=t_ns, page=pages, count=np.ones(len(pages), np.int64))
        self.pages_written += len(pages)

    def commit(self, until_ns: int) -> None:
        """Put everything written on disk; it is complete up to `until_ns`."""
        self.writer.commit(until_ns)
        self._wanted.watch(until_ns, self.pages_written)

    def epoch(self, t_ns: int, pages: Int64s, zero: Int64s | None = None) -> None:
        """Add an epoch that ends at `t_ns`: its pages, ascending, and those zero at its end."""
        first, count = runs(pages)
        self.writer.write("dirty", t_ns=np.full(len(first), t_ns), page=first, count=count)
        if zero is not None:
            self.zeros(t_ns, zero)
        self.writer.write("epochs", t_ns=[t_ns])
        self.pages_written += len(pages)
        self.commit(t_ns)

    def zeros(self, t_ns: int, pages: Int64s) -> None:
        """Add that pages, ascending, are all zeros."""
        first, count = runs(pages)
        self.writer.write("zero", t_ns=np.full(len(first), t_ns), page=first, count=count)

    def end(self, ended: str | None = None, notes: Sequence[str] = (), **source: Any) -> Recorded:
        """Finish the trace. `ended` says why where it was neither the duration nor the user."""
        if ended is None:
            ended = "stopped" if self._wanted.stop.is_set() else "the duration is over"
        told = [*self.writer.meta.source.get("notes", ()), *notes]
        trace = self.writer.finish(
            source={**source, "ended": ended, "notes": told},
            progress=lambda done, total: self._wanted.doing("finishing the trace", done, total),
        )
        return Recorded(
            out=self.writer.path,
            pages=trace.meta.pages,
            duration_ns=trace.meta.duration_ns,
            resolution=trace.meta.resolution,
            rows={str(name): number for name, number in self.writer.rows.items()},
            pages_written=self.pages_written,
            ended=ended,
            notes=told,
        )


def runs(pages: Int64s) -> tuple[Int64s, Int64s]:
    """Return first pages and lengths of the runs in distinct ascending pages."""
    if not len(pages):
        return pages, pages
    begins = np.flatnonzero(np.diff(pages, prepend=pages[0] - 2) != 1)
    return pages[begins], np.diff(begins, append=len(pages))


def zero_pages(pages: Int64s, contents: npt.NDArray[np.uint8]) -> Int64s:
    """Return those of `pages` whose row of `contents`, uint8[len(pages), page_size], is zero."""
    words = contents.view(np.uint64)
    # Most pages show that they are not zero in their first word.
    maybe = np.flatnonzero(words[:, 0] == 0)
    return pages[maybe[np.logical_not(words[maybe].any(axis=1))]]
