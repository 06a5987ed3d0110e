"""How fast QEMU's sender was, measured from a recording's log: profile `qemu`'s parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracer.errors import TraceError
from tracer.readers.qemu import find_log
from tracer.readers.qemu_lines import PENDING, SAVE, SYNC_START
from tracer.readers.qemu_log import QemuLog, read_qemu_log
from tracer.readers.streams import Progress
from tracer.rows import Int64s

#: A window that lasted from 100 ms to this (us) was slept through to its end and not disturbed.
_FULL_US, _DISTURBED_US = 100_000, 105_000
_PAGE_BYTES = 4096


@dataclass(frozen=True)
class Line:
    """What a log says of the sender; windows: in how many of them it was measured.

    line_rate in bytes/s, zero_page_ns, wake_ns as in `replay.parameters`; None where the log has
    no window that says it.
    """

    name: str
    windows: int
    line_rate: int | None
    zero_page_ns: int | None
    wake_ns: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


def measure_folder(folder: Path, progress: Progress | None = None) -> Line:
    """Fit the sender's speed to a recorded migration: a folder with QEMU's log, or the log itself.

    progress(done, total) is called with bytes of the log. Raises TraceError where there is no log
    or `measure_line` does.
    """
    log = read_qemu_log(folder if folder.is_file() else find_log(folder), progress)
    try:
        return measure_line(log, folder.name or str(folder))
    finally:
        log.close()


def measure_line(log: QemuLog, name: str) -> Line:
    """Fit the sender's speed to a QEMU log with `ram_save_page` and `migrate_pending` rows.

    Between the row at a window's start and the last page sent in it lies the time of its pages:
    those with content are rows of their own, zero pages are what else left the pending count.
    Raises TraceError where the log has no such rows.
    """
    starts, spans, pages, zeros = _windows(log)
    if not len(spans):
        raise TraceError(
            f"{log.path}: no window with both migrate_pending and ram_save_page rows; record with "
            "both events enabled"
        )
    plain = zeros == 0
    bytes_sent = int(pages[plain].sum()) * (_PAGE_BYTES + 8)
    time_us = int(spans[plain].sum())
    rate = bytes_sent * 1_000_000 // time_us if time_us else None
    zero_ns = None
    if rate is not None and zeros.sum():
        page_ns = (_PAGE_BYTES + 8) * 1_000_000_000 // rate
        mixed = ~plain
        rest = int(spans[mixed].sum()) * 1000 - int(pages[mixed].sum()) * page_ns
        zero_ns = max(rest // int(zeros[mixed].sum()), 0)
    length = np.diff(starts)
    full = length[(length > _FULL_US - 1000) & (length < _DISTURBED_US)]
    wake = max(int(full.sum()) * 1000 // len(full) - _FULL_US * 1000, 0) if len(full) else None
    return Line(name, len(spans), rate, zero_ns, wake)


def _windows(log: QemuLog) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Return the windows' starts (us), and of those that no sync cuts short what was sent.

    The last three: us from the start to the last page with content, such pages, zero pages.
    """
    starts: list[int] = []
    sent: list[tuple[int, int, int]] = []
    begun: tuple[int, int] | None = None
    last = pages = 0
    for events in log.chunks():
        kind, t, value = events["kind"], events["t"], events["a"]
        chosen = np.flatnonzero((kind == SAVE) | (kind == PENDING) | (kind == SYNC_START))
        for what, when, size in zip(
            kind[chosen].tolist(), t[chosen].tolist(), value[chosen].tolist(), strict=True
        ):
            if what == SAVE:
                last, pages = when, pages + 1
            elif what == SYNC_START:
                begun = None
            else:
                starts.append(when)
                if begun is not None and pages:
                    zero = (begun[1] - size) // _PAGE_BYTES - pages
                    if zero >= 0:
                        sent.append((last - begun[0], pages, zero))
                begun, pages = (when, size), 0
    spans, copied, zeros = (np.array([row[i] for row in sent], np.int64) for i in range(3))
    return np.array(starts, np.int64), spans, copied, zeros
