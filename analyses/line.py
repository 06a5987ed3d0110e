"""How fast QEMU's sender was, measured from a recording's log: profile `qemu`'s parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analyses.recording import Recording
from tracer.errors import TraceError
from tracer.format import META
from tracer.readers.migration_log import MigrationLog, read_migration
from tracer.readers.qemu import find_answers, find_log
from tracer.readers.qemu_log import LOOKS, QemuLog, read_qemu_log
from tracer.readers.sender import measure_sender
from tracer.readers.streams import Progress
from tracer.trace import Trace


@dataclass(frozen=True)
class Line:
    """What a log says of the sender; windows: in how many of them it was measured.

    line_rate in bytes/s, zero_page_ns, wake_ns, stop_ns as in `replay.parameters`; None where the
    recording has nothing that says it. windows: None of a trace, which keeps the figures alone.
    """

    name: str
    windows: int | None
    line_rate: int | None
    zero_page_ns: int | None
    wake_ns: int | None
    stop_ns: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


def measure_folder(folder: Path, progress: Progress | None = None) -> Line:
    """Fit the sender's speed to a recorded migration: a folder with QEMU's log, or the log itself.

    Of a trace, return what was fitted when it was imported. progress(done, total) is called with
    bytes of the log. Raises TraceError where there is no log, where a trace knows nothing of the
    sender, or where `measure_line` does.
    """
    if (folder / META).is_file():
        return _kept(Trace.open(folder))
    path = folder if folder.is_file() else find_log(folder)
    answers = read_migration(None if folder.is_file() else find_answers(folder))
    log = read_qemu_log(path, progress)
    try:
        return measure_line(log, answers, folder.name or str(folder))
    finally:
        log.close()


def _kept(trace: Trace) -> Line:
    recorded = (trace.migration or {}).get("recorded")
    # Without the answers of query-migrate there may be the sender all the same.
    sender = Recording(trace, {}, {}, {}, recorded if isinstance(recorded, dict) else {}).sender
    if not sender:
        raise TraceError(
            f"{trace.path}: the trace keeps nothing of how fast QEMU's sender was; pass the folder "
            "with the log that it was imported from (qemu.log)"
        )
    speeds = (sender.get(name) for name in ("line_rate", "zero_page_ns", "wake_ns"))
    return Line(trace.name, None, *speeds)


def measure_line(log: QemuLog, answers: MigrationLog, name: str) -> Line:
    """Fit the sender's speed to a QEMU log with `ram_save_page` rows and looks at what is pending.

    What QEMU counts as downtime beyond the copying after the stop is the stop's own.
    Raises TraceError where the log has no such rows.
    """
    found = measure_sender(log, hinting=answers.hinting)
    if not found.windows:
        raise TraceError(
            f"{log.path}: no window with a look at what is pending ({LOOKS}) and ram_save_page "
            "rows; record with these events enabled"
        )
    stop_ns = _stop_ns(found.rest_us, answers)
    return Line(name, found.windows, found.line_rate, found.zero_page_ns, found.wake_ns, stop_ns)


def _stop_ns(rest_us: int | None, answers: MigrationLog) -> int | None:
    """Return the downtime, which QEMU tells in whole ms, less the time of the last copies."""
    downtime = answers.final.get("downtime")
    if rest_us is None or not answers.completed or not isinstance(downtime, int):
        return None
    return max(downtime * 1_000_000 - rest_us * 1000, 0)
