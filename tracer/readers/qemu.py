"""A trace out of a recorded QEMU migration: its trace log, free-list samples and answers.

Time zero is the first sync, so that a replay starts where the migration did. What is read, what
follows from it and what stays unknown is counted in the `ImportReport`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tracer.errors import TraceError, UsageError
from tracer.format import META
from tracer.readers.freelist_log import read_freelist
from tracer.readers.migration_log import read_migration
from tracer.readers.qemu_log import QemuLog, read_qemu_log
from tracer.readers.qemu_trace import QemuImport
from tracer.readers.report import ImportReport
from tracer.readers.streams import Progress
from tracer.writer import Compression, TraceWriter

_FILES = {
    "log": ("qemu.log", "qemu.log.gz"),
    "freelist": ("freelist.log", "freelist.log.gz"),
    "migration": ("migrate.json", "qmp.txt"),
}


def import_qemu(
    directory: str | Path | None = None,
    *,
    log: str | Path | None = None,
    freelist: str | Path | None = None,
    migration: str | Path | None = None,
    out: str | Path,
    force: bool = False,
    compression: Compression = "zstd",
    progress: Progress | None = None,
    until_ns: int | None = None,
    below_4g: int | None = None,
    slots: Sequence[str] = (),
    read: Callable[[Path, Progress | None], QemuLog] = read_qemu_log,
) -> ImportReport:
    """Import a recorded migration into the trace `out` and report what was found.

    `directory` holds qemu.log[.gz], freelist.log[.gz] and migrate.json (or qmp.txt); each file can
    be given alone, and only the log is required. `progress(done, total)` is called with bytes of
    the log. `until_ns` ends the trace at that guest time. `below_4g` is the guest's RAM below
    4 GiB in bytes, where it is not what QEMU's pc or q35 machine does by itself. `slots`
    are KVM's memory slots as `ID:FIRST_PAGE:PAGES`, pages of the guest's RAM, for the log of a
    dirty ring that does not name them. `read` reads the log, where it is not of the log backend.

    Raises UsageError for options that do not fit, TraceError with file and line for recordings
    that are missing, foreign or garbled; nothing is left at `out` then.
    """
    paths = _find(directory, {"log": log, "freelist": freelist, "migration": migration})
    if until_ns is not None and until_ns <= 0:
        raise UsageError(f"until_ns is {until_ns}; a trace needs some time")
    if below_4g is not None and below_4g <= 0:
        raise UsageError(f"below_4g is {below_4g}; a guest has some RAM below 4 GiB")
    log_path, free_path = paths["log"], paths["freelist"]
    assert log_path is not None
    sampled = free_path is not None
    with TraceWriter(Path(out), sampled=sampled, compression=compression, force=force) as writer:
        answers = read_migration(paths["migration"])
        samples = None if free_path is None else read_freelist(free_path)
        qemu_log = read(log_path, progress)
        try:
            job = QemuImport(
                qemu_log, answers, samples, until_ns=until_ns, below_4g=below_4g, slots=slots
            )
            return job.write(writer)
        finally:
            qemu_log.close()


def find_log(folder: str | Path) -> Path:
    """Return the log in a folder of a recorded migration; raises TraceError where there is none."""
    log = _find(folder, {})["log"]
    assert log is not None
    return log


def find_answers(folder: str | Path) -> Path | None:
    """Return query-migrate's answers in a folder of a recorded migration, None without any."""
    return _find(folder, {})["migration"]


def _find(
    directory: str | Path | None, given: Mapping[str, str | Path | None]
) -> dict[str, Path | None]:
    """Return the three inputs' paths; those not given are looked for in `directory`."""
    found = {key: None if path is None else Path(path) for key, path in given.items()}
    if directory is not None:
        folder = Path(directory)
        if not folder.is_dir():
            what = "is a file; pass it as the log" if folder.exists() else "does not exist"
            raise TraceError(f"{folder}: {what}; wanted a folder with qemu.log or qemu.log.gz")
        for key, names in _FILES.items():
            there = [folder / name for name in names if (folder / name).is_file()]
            found[key] = found.get(key) or next(iter(there), None)
        if found["log"] is None:
            if (folder / META).is_file():
                raise TraceError(f"{folder}: is a trace already; wanted a folder with qemu.log")
            raise TraceError(f"{folder}: holds neither qemu.log nor qemu.log.gz; nothing to import")
    elif found.get("log") is None:
        raise UsageError("nothing to import: pass a folder with a qemu.log, or the log itself")
    return found
