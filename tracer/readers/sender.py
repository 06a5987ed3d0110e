"""How fast QEMU's sender was, as its log shows."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tracer.readers.qemu_lines import EVENT, EXACT, PENDING, SAVE, STOP, SYNC_END, SYNC_START

if TYPE_CHECKING:
    from tracer.readers.qemu_log import Events, QemuLog

#: A window that lasted from 100 ms to this (us) was slept through to its end and not disturbed.
_FULL_US, _DISTURBED_US = 100_000, 101_000
_PAGE_BYTES, _HEADER_BYTES = 4096, 8
#: Fewer pages than these do not say how fast they go out: so many are put before a write flushes
#: them (qemu_fflush, two vectors a page).
_FEWEST = 32
#: Runs of so many zero pages say what one costs: in shorter ones the write that flushes what was
#: put before decides, which some of the pages around them wait for and most do not.
_RUN = 16


@dataclass(frozen=True)
class Sender:
    """What a log says of the sender; None where it has nothing that says it.

    windows: that it was measured in. line_rate: bytes/s at which a window's budget goes out.
    zero_page_ns: what a zero page costs. wake_ns: how much later than its window's end the sender
    goes on. rest_us: how long the copying after the stop took.
    """

    windows: int
    line_rate: int | None
    zero_page_ns: int | None
    wake_ns: int | None
    rest_us: int | None


def measure_sender(log: QemuLog, *, hinting: bool) -> Sender:
    """Measure the sender by a log's looks at what is pending and its `ram_save_page` rows.

    Between the row at a window's start and the last page sent in it lies the time of its pages:
    those with content are rows of their own, so that windows without zero pages say how fast they
    go out (the median: a busy host holds up some). In the first pass all that lies between two
    pages of rows is zero pages, unless hinting has taken some out, and what lies between their
    times beyond one page with content is the zero pages': the median of them, for the same reason.
    """
    seen = _Seen()
    for events in log.chunks():
        seen.take(events)
    plain = [
        (us, pages) for us, pages, zeros in seen.windows if us and not zeros and pages >= _FEWEST
    ]
    rates = [pages * (_PAGE_BYTES + _HEADER_BYTES) * 1_000_000 // us for us, pages in plain]
    rate = int(median(rates)) if rates else None
    zero_ns = None
    if rate and seen.runs and not hinting:
        page_ns = (_PAGE_BYTES + _HEADER_BYTES) * 1_000_000_000 // rate
        zero_ns = _median_of_pages(np.concatenate(seen.runs, axis=1), page_ns)
    lengths = np.diff(np.array(seen.starts, np.int64))
    full = lengths[(lengths > _FULL_US - 1000) & (lengths < _DISTURBED_US)]
    wake = max(int(full.sum()) * 1000 // len(full) - _FULL_US * 1000, 0) if len(full) else None
    return Sender(len(seen.windows), rate, zero_ns, wake, _rest_us(log, seen.last_save))


def _median_of_pages(runs: npt.NDArray[np.int64], page_ns: int) -> int:
    """Return the ns of the middle one of all zero pages, each taken to cost as its run's mean.

    runs: pages and us of each run of zero pages, a page with content included in the us.
    """
    pages, us = runs
    each = np.maximum(us * 1000 - page_ns, 0) // pages
    order = np.argsort(each, kind="stable")
    passed = np.cumsum(pages[order])
    return int(each[order][np.searchsorted(passed, (passed[-1] + 1) // 2)])


def _rest_us(log: QemuLog, last_save: int) -> int | None:
    """Return the us from the sync after the stop to the last page."""
    stop = next((at for at, (_, _, kind, _, _) in enumerate(log.rare) if kind == STOP), None)
    if stop is None:
        return None
    synced = next((t for _, t, kind, _, _ in log.rare[stop:] if kind == SYNC_END), None)
    return None if synced is None else max(last_save - synced, 0)


def _one_look_each(rows: Events) -> Events:
    """Leave out the estimates that an exact count follows, which are then the looks."""
    exact = np.flatnonzero(rows["kind"] == EXACT)
    rows["kind"][exact] = PENDING
    # Between the two lies a sync, if anything.
    before = exact - 1 - (rows["kind"][exact - 1] == SYNC_START)
    keep = np.ones(len(rows), bool)
    keep[before[(before >= 0) & (rows["kind"][before] == PENDING)]] = False
    return rows[keep]


class _Seen:
    """What a log shows, chunk by chunk.

    starts: of windows, us. windows: of those that no sync cuts short, us from the start to the last
    page with content, such pages, zero pages. runs: of long runs of zero pages between two pages
    with content, the pages in them and the us from the one page to the other, (2, n) int64 each.
    last_save: us.
    """

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.windows: list[tuple[int, int, int]] = []
        self.runs: list[npt.NDArray[np.int64]] = []
        self.last_save = 0
        self._syncs = 0
        #: From the last look at what is pending on: its window is not over.
        self._open = np.empty(0, EVENT)

    def take(self, events: Events) -> None:
        """Take the log's next events."""
        kind = events["kind"]
        chosen = events[np.isin(kind, (SAVE, PENDING, EXACT, SYNC_START))]
        saves = chosen["t"][chosen["kind"] == SAVE]
        if len(saves):
            self.last_save = int(saves[-1])
        rows = _one_look_each(np.concatenate((self._open, chosen)))
        looks = np.flatnonzero(rows["kind"] == PENDING)
        if not len(looks):
            self._open = rows
            return
        if len(self._open) and self._open[0]["kind"] == PENDING:
            self.starts.pop()
        self.starts += rows["t"][looks].tolist()
        self._take_windows(rows, looks)
        self._take_runs(rows[: looks[-1]])
        self._open = rows[looks[-1] :]

    def _take_windows(self, rows: Events, looks: np.ndarray) -> None:
        kind = rows["kind"]
        saved = np.concatenate(([0], np.cumsum(kind == SAVE)))
        synced = np.concatenate(([0], np.cumsum(kind == SYNC_START)))
        last = np.maximum.accumulate(np.where(kind == SAVE, np.arange(len(rows)), 0))
        begin, end = looks[:-1], looks[1:]
        pages = saved[end] - saved[begin]
        zeros = (rows["a"][begin] - rows["a"][end]) // _PAGE_BYTES - pages
        whole = (synced[end] == synced[begin]) & (pages > 0) & (zeros >= 0)
        spans = rows["t"][last[end]] - rows["t"][begin]
        columns = (column[whole].tolist() for column in (spans, pages, zeros))
        self.windows += list(zip(*columns, strict=True))

    def _take_runs(self, rows: Events) -> None:
        """Take the runs of zero pages in the first pass: after one sync and before the next."""
        syncs = self._syncs + np.cumsum(rows["kind"] == SYNC_START)
        if len(rows):
            self._syncs = int(syncs[-1])
        rows = rows[(syncs == 1) & (rows["kind"] != SYNC_START)]
        before, after = rows[:-1], rows[1:]
        pages = (after["a"] - before["a"]) // _PAGE_BYTES - 1
        both = (before["kind"] == SAVE) & (after["kind"] == SAVE) & (before["b"] == after["b"])
        run = both & (pages >= _RUN)
        if run.any():
            self.runs.append(np.stack((pages[run], (after["t"] - before["t"])[run])))
