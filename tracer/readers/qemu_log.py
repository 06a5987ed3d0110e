"""QEMU's trace log (`-D FILE -msg timestamp=on`, log backend), read once from front to back.

Facts about the lines are QEMU's: scripts/tracetool/backend/log.py and util/log.c for what stands
before an event's name, accel/tcg, accel/kvm and migration trace-events for what stands behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

import numpy as np
import numpy.typing as npt

from tracer.errors import TraceError
from tracer.readers.qemu_lines import (
    CLEAR,
    EVENT,
    EXACT,
    KINDS,
    OTHER,
    PENDING,
    REAP,
    RING_PAGE,
    SAVE,
    SLOT,
    STOP,
    SYNC_END,
    SYNC_START,
    THROTTLE,
    WRITE,
    BlockNames,
    parse_lines,
)
from tracer.readers.qemu_slots import LOG_SLOT, SlotChange, parse_change
from tracer.readers.streams import LONGEST_LINE, Progress, read_blocks

Events = npt.NDArray[np.void]

#: The event table stays in memory up to this size and goes to a temporary file beyond it.
_SPOOL_BYTES = 256 << 20
_EVENTS_AT_ONCE = 1 << 18

#: Rare events: their kind and the shape of their arguments (first and second number of a record).
_RARE = {
    "migration_bitmap_sync_start": (SYNC_START, re.compile(r"\s*")),
    "migration_bitmap_sync_end": (SYNC_END, re.compile(r"dirty_pages (\d+)")),
    "migration_bitmap_clear_dirty": (
        CLEAR,
        re.compile(
            r"rb (?P<block>.+) start 0x[0-9a-f]+ size 0x[0-9a-f]+ page 0x(?P<hex>[0-9a-f]+)"
        ),
    ),
    "migration_throttle": (THROTTLE, re.compile(r"\s*")),
    "cpu_throttle_set": (THROTTLE, re.compile(r"set guest CPU throttled by (\d+)%")),
    # Up to 7.2 one look; from 8.0 on an estimate, and where that is small an exact count, which
    # syncs; from 11 on the same two under one name, and once more after the stop.
    "migrate_pending": (PENDING, re.compile(r"pending size (\d+) .*")),
    "migrate_pending_estimate": (PENDING, re.compile(r"estimate pending size (\d+) .*")),
    "migrate_pending_exact": (EXACT, re.compile(r"exact pending size (\d+) .*")),
    "qemu_savevm_query_pending": (
        PENDING,
        re.compile(r"exact=(?P<exact>[01]), final=(?P<final>[01]),.* total=(?P<total>\d+),?.*"),
    ),
    "migration_completion_vm_stop": (STOP, re.compile(r"ret -?\d+")),
    "kvm_dirty_ring_reap": (REAP, re.compile(r"reaped (\d+) pages .*")),
    "ram_save_page": (
        SAVE,
        re.compile(
            r"(?P<block>.+): offset: 0x(?P<hex>[0-9a-f]+) host: (?:0x(?P<host>[0-9a-f]+))?.*"
        ),
    ),
    "kvm_set_user_memory": (SLOT, LOG_SLOT),
}
#: Events whose lines `parse_lines` takes apart whenever they are whole.
_FREQUENT = {"memory_notdirty_write_access", "kvm_dirty_ring_page"}
_NAME = re.compile(r"([A-Za-z_]\w*)(?: (.*))?$", re.DOTALL)
_STAMPED = re.compile(rb"\d+@\d+\.\d{6}:|\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-][0-9:]+) ")


@dataclass
class QemuLog:
    """A trace log as a table of events in the order of its lines.

    Host times are in us since 1970 and never go back: a line that is stamped before its
    predecessor (threads stamp first, then wait for the log's lock) gets the predecessor's time.
    `rare` holds (number of the event, us, kind, first number, block's number) of every event that
    is no write, copy or ring page.
    """

    path: Path
    blocks: BlockNames = field(default_factory=BlockNames)
    events: int = 0
    lines: int = 0
    first_us: int = 0
    last_us: int = 0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(KINDS, np.int64))
    rare: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    #: One more than the highest page seen of each block, in pages of 4 KiB.
    extents: dict[int, int] = field(default_factory=dict)
    write_end: int = 0
    #: Where each block begins in QEMU's memory, by its number.
    hosts: dict[int, int] = field(default_factory=dict)
    #: Changes of KVM's slots; an event of kind SLOT has its number here.
    slots: list[SlotChange] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    other_text: int = 0
    cut: str | None = None
    late_lines: int = 0
    latest_us: int = 0
    bytes_read: int = 0
    recorder: str = "qemu-trace-log"
    spool: IO[bytes] = field(
        default_factory=lambda: SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - close()
    )

    def chunks(self) -> Iterator[Events]:
        """Yield the events, some at a time, as arrays of `EVENT` without any of kind OTHER."""
        at = 0
        while True:
            self.spool.seek(at)  # another reader may have been here
            data = self.spool.read(_EVENTS_AT_ONCE * EVENT.itemsize)
            if not data:
                return
            at += len(data)
            yield np.frombuffer(data, EVENT)

    def close(self) -> None:
        """Give the temporary storage back."""
        self.spool.close()


def read_qemu_log(path: Path, progress: Progress | None = None) -> QemuLog:
    """Read a trace log, plain or gzip, with `PID@SECONDS.MICROS:` or ISO 8601 timestamps.

    `progress(done, total)` is called with bytes of the file. A last line without an end and a
    gzip that breaks off are tolerated (`cut` says so); events of other names are counted, and so
    is plain text that QEMU writes into its log. Raises TraceError with file and line for a line
    that is neither, for a log without timestamps, and where nothing in the file is an event.
    """
    log = QemuLog(path)
    try:
        _read_lines(log, progress)
    except BaseException:
        log.close()
        raise
    return log


def _read_lines(log: QemuLog, progress: Progress | None) -> None:
    tail = b""
    cuts: list[str] = []
    for block in read_blocks(log.path, cuts, progress):
        log.bytes_read += len(block)
        end = block.rfind(b"\n") + 1
        if end:
            _take(log, tail + block[:end])
            tail = block[end:]
        else:
            tail += block
        if len(tail) > LONGEST_LINE:
            raise _foreign(log.path, log.lines + 1)
    if tail:
        log.lines += 1
        cuts.append(f"line {log.lines} is cut short and was left out")
    log.cut = cuts[0] if cuts else None
    if not log.bytes_read:
        raise TraceError(f"{log.path}: is empty; was tracing on (-trace, -D) while QEMU ran?")
    if not log.events:
        raise _foreign(log.path, 1)


def _take(log: QemuLog, chunk: bytes) -> None:
    """Append the events of some whole lines to the table."""
    events = parse_lines(chunk, log.blocks)
    for index in np.flatnonzero(events["kind"] == OTHER):
        _look_at(log, chunk, events, int(index))
    log.lines += len(events)
    add_events(log, events)


def add_events(log: QemuLog, events: Events) -> None:
    """Append parsed lines to the table, in their order and without those of kind OTHER."""
    events = events[events["kind"] != OTHER]
    if not len(events):
        return
    if not log.events:
        log.first_us = log.last_us = int(events["t"][0])
    before = np.maximum.accumulate(np.maximum(events["t"], log.last_us))
    late = before - events["t"]
    log.late_lines += int(np.count_nonzero(late))
    log.latest_us = max(log.latest_us, int(late.max()))
    events["t"] = before
    log.last_us = int(before[-1])
    log.counts += np.bincount(events["kind"], minlength=len(log.counts))
    for index in np.flatnonzero(~np.isin(events["kind"], (WRITE, SAVE, RING_PAGE))):
        t, a, b, kind = events[index].tolist()
        log.rare.append((log.events + int(index), t, kind, a, b))
    _extend(log, events)
    log.events += len(events)
    log.spool.write(events.tobytes())


def look_of(found: re.Match[str]) -> int:
    """Return what kind of look `qemu_savevm_query_pending` is; OTHER for that after the stop."""
    if found["final"] == "1":
        return OTHER
    return EXACT if found["exact"] == "1" else PENDING


def add_slot(log: QemuLog, events: Events, index: int, change: SlotChange | None) -> None:
    """Make an event of a change of KVM's slots; one that failed is none."""
    if change is not None:
        events[index] = (events["t"][index], len(log.slots), 0, SLOT)
        log.slots.append(change)


def _extend(log: QemuLog, events: Events) -> None:
    for kind, shift in ((SAVE, 12), (CLEAR, 0)):
        some = events[events["kind"] == kind]
        for block in np.unique(some["b"]).tolist():
            page = int(some["a"][some["b"] == block].max()) >> shift
            log.extents[block] = max(log.extents.get(block, 0), page + 1)
    writes = events[events["kind"] == WRITE]
    if len(writes):
        log.write_end = max(log.write_end, int((writes["a"] + writes["b"]).max()))
    ring = events["a"][events["kind"] == RING_PAGE]
    if len(ring):
        log.write_end = max(log.write_end, (int(ring.max()) + 1) << 12)


def _look_at(log: QemuLog, chunk: bytes, events: Events, index: int) -> None:
    """Understand a line that is no frequent event, or say what is wrong with it."""
    event = events[index]
    start, length, stamped = int(event["a"]), int(event["b"]), int(event["t"]) >= 0
    raw = chunk[start : start + length]
    number = log.lines + index + 1
    text = raw.decode("utf-8", "surrogateescape")
    if not stamped:
        _check_text(log, raw, number)
        log.other_text += 1
        return
    body = text[text.index(" ") + 1 :] if "@" not in text[:21] else text.partition(":")[2]
    match = _NAME.match(body)
    name = match[1] if match else ""
    if name in _RARE:
        kind, pattern = _RARE[name]
        found = pattern.fullmatch(match[2] or "") if match else None
        if found is None:
            raise _garbled(log.path, number, text)
        if kind == SLOT:
            add_slot(log, events, index, parse_change(found, 10))
            return
        groups = found.groupdict()
        if "final" in groups:
            kind = look_of(found)
        if kind == OTHER:
            return
        first = int(groups["hex"], 16) if "hex" in groups else int((found.groups() or (0,))[-1])
        if first >= 1 << 60:
            raise _garbled(log.path, number, text)
        second = log.blocks.index(groups["block"]) if "block" in groups else 0
        if groups.get("host"):
            log.hosts.setdefault(second, int(groups["host"], 16) - first)
        events[index] = (event["t"], first, second, kind)
    elif name in _FREQUENT:
        raise _garbled(log.path, number, text)
    elif match and "\0" not in text:
        log.unknown[name] += 1
    else:
        _check_text(log, raw, number)
        log.other_text += 1


def _check_text(log: QemuLog, raw: bytes, number: int) -> None:
    """Let pass what QEMU or a guest's console says; raise TraceError for anything else."""
    named = next((n for n in (*_RARE, *_FREQUENT) if n.encode() in raw), None)
    if named is not None and not _STAMPED.search(raw) and raw.lstrip().startswith(named.encode()):
        raise TraceError(
            f"{log.path}, line {number}: {named} without a time; record with -msg timestamp=on"
        )
    if named is not None:
        raise _garbled(log.path, number, raw.decode("utf-8", "replace"))
    if any(byte < 9 or 13 < byte < 27 for byte in raw):
        if not log.events:
            raise _foreign(log.path, number)
        raise _garbled(log.path, number, raw.decode("utf-8", "replace"))


def _garbled(path: Path, number: int, text: str) -> TraceError:
    shown = ascii(text[:60]) + ("..." if len(text) > 60 else "")
    return TraceError(
        f"{path}, line {number}: {shown} is no whole row of a trace log; "
        "if the file was damaged, cut it before this line"
    )


def _foreign(path: Path, number: int) -> TraceError:
    return TraceError(
        f"{path}, line {number}: no event of QEMU's trace log; wanted lines such as "
        "'PID@SECONDS.MICROS:ram_save_page ...' (QEMU -D FILE -msg timestamp=on)"
    )
