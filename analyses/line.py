"""How fast QEMU's sender was, measured from a recording's log: profile `qemu`'s parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tracer.errors import TraceError
from tracer.readers.migration_log import MigrationLog, read_migration
from tracer.readers.qemu import find_answers, find_log
from tracer.readers.qemu_lines import PENDING, SAVE, STOP, SYNC_END, SYNC_START
from tracer.readers.qemu_log import QemuLog, read_qemu_log
from tracer.readers.streams import Progress

#: A window that lasted from 100 ms to this (us) was slept through to its end and not disturbed.
_FULL_US, _DISTURBED_US = 100_000, 105_000
_PAGE_BYTES = 4096
#: Runs of so many zero pages say what one costs: in shorter ones the write that flushes what was
#: put before decides, which some of the pages around them wait for and most do not.
_RUN = 16


@dataclass(frozen=True)
class Line:
    """What a log says of the sender; windows: in how many of them it was measured.

    line_rate in bytes/s, zero_page_ns, wake_ns, stop_ns as in `replay.parameters`; None where the
    recording has nothing that says it.
    """

    name: str
    windows: int
    line_rate: int | None
    zero_page_ns: int | None
    wake_ns: int | None
    stop_ns: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


def measure_folder(folder: Path, progress: Progress | None = None) -> Line:
    """Fit the sender's speed to a recorded migration: a folder with QEMU's log, or the log itself.

    progress(done, total) is called with bytes of the log. Raises TraceError where there is no log
    or `measure_line` does.
    """
    path = folder if folder.is_file() else find_log(folder)
    answers = read_migration(None if folder.is_file() else find_answers(folder))
    log = read_qemu_log(path, progress)
    try:
        return measure_line(log, answers, folder.name or str(folder))
    finally:
        log.close()


def measure_line(log: QemuLog, answers: MigrationLog, name: str) -> Line:
    """Fit the sender's speed to a QEMU log with `ram_save_page` and `migrate_pending` rows.

    Between the row at a window's start and the last page sent in it lies the time of its pages:
    those with content are rows of their own, so that windows without zero pages say how fast they
    go out. In the first pass all that lies between two rows is zero pages, whose time is what
    lies between them beyond that of a page with content; unless a hint has taken them out. What
    QEMU counts as downtime beyond the copying after the stop is the stop's own.
    Raises TraceError where the log has no such rows.
    """
    seen = _seen(log)
    if not seen.windows:
        raise TraceError(
            f"{log.path}: no window with both migrate_pending and ram_save_page rows; record with "
            "both events enabled"
        )
    plain = [(us, pages) for us, pages, zeros in seen.windows if us and not zeros]
    # The usual window: a busy host holds up some of them for long.
    rates = [pages * (_PAGE_BYTES + 8) * 1_000_000 // us for us, pages in plain]
    rate = int(median(rates)) if rates else None
    zero_ns = None
    if rate is not None and seen.run_pages and not answers.hinting:
        page_ns = (_PAGE_BYTES + 8) * 1_000_000_000 // rate
        zero_ns = max(seen.run_us * 1000 - seen.runs * page_ns, 0) // seen.run_pages
    length = np.diff(np.array(seen.starts, np.int64))
    full = length[(length > _FULL_US - 1000) & (length < _DISTURBED_US)]
    wake = max(int(full.sum()) * 1000 // len(full) - _FULL_US * 1000, 0) if len(full) else None
    return Line(name, len(seen.windows), rate, zero_ns, wake, _stop_ns(seen, answers))


def _stop_ns(seen: _Seen, answers: MigrationLog) -> int | None:
    """Return the downtime, which QEMU tells in whole ms, less the time of the last copies."""
    downtime = answers.final.get("downtime")
    if not answers.completed or not isinstance(downtime, int) or seen.rest_us is None:
        return None
    return max(downtime * 1_000_000 - seen.rest_us * 1000, 0)


class _Seen:
    """What a log shows of the sender, row by row.

    starts: of windows, us. windows: of those that no sync cuts short, us from the start to the last
    page with content, such pages, zero pages. runs, run_pages, run_us: long runs of zero pages
    between two pages with content, the pages in them, and us from the one page to the other.
    rest_us: how long the copying after the stop took, None where there was no stop.
    """

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.windows: list[tuple[int, int, int]] = []
        self.runs = self.run_pages = self.run_us = 0
        self.rest_us: int | None = None
        self._syncs = 0
        self._begun: tuple[int, int] | None = None
        self._pages = 0
        #: Time, block and number of the page that was sent just before.
        self._last: tuple[int, int, int] | None = None
        self._last_us = 0
        self._stopped = False
        self._rest_from: int | None = None
        self.take: dict[int, Callable[[int, int, int], None]] = {
            SAVE: self._save,
            PENDING: self._pending,
            SYNC_START: self._sync,
            SYNC_END: self._synced,
            STOP: self._stop,
        }

    def _save(self, when: int, offset: int, block: int) -> None:
        page = offset // _PAGE_BYTES
        if self._last is not None and self._syncs == 1:
            before, its_block, its_page = self._last
            zeros = page - its_page - 1
            if block == its_block and zeros >= _RUN:
                self.runs += 1
                self.run_pages += zeros
                self.run_us += when - before
        self._last, self._last_us = (when, block, page), when
        self._pages += 1
        if self._rest_from is not None:
            self.rest_us = when - self._rest_from

    def _pending(self, when: int, size: int, _block: int) -> None:
        self.starts.append(when)
        if self._begun is not None and self._pages:
            begun, before = self._begun
            zeros = (before - size) // _PAGE_BYTES - self._pages
            if zeros >= 0:
                self.windows.append((self._last_us - begun, self._pages, zeros))
        self._begun, self._pages, self._last = (when, size), 0, None

    def _sync(self, _when: int, _a: int, _block: int) -> None:
        self._begun = self._last = None
        self._syncs += 1

    def _synced(self, when: int, _a: int, _block: int) -> None:
        if self._stopped and self._rest_from is None:
            self._rest_from, self.rest_us = when, 0

    def _stop(self, _when: int, _a: int, _block: int) -> None:
        self._stopped = True


def _seen(log: QemuLog) -> _Seen:
    seen = _Seen()
    for events in log.chunks():
        chosen = events[np.isin(events["kind"], list(seen.take))]
        for what, *row in zip(
            *(chosen[name].tolist() for name in ("kind", "t", "a", "b")), strict=True
        ):
            seen.take[what](*row)
    return seen
