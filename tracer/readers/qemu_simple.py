"""QEMU's simple trace backend, as scripts/simpletrace.py prints it: the same events as the log's.

A line is `EVENT MICROS pid=N NAME=VALUE ...`, MICROS being those since the line before, to three
digits. There is no date: time starts at 0, or where the caller says that the first event stood.
Names of the arguments are those of QEMU's trace-events files; a string may be printed as b'...'.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from tracer.errors import TraceError
from tracer.readers.digits import decimal, find, hexadecimal, is_at
from tracer.readers.qemu_lines import (
    CLEAR,
    EVENT,
    EXACT,
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
)
from tracer.readers.qemu_log import Events, QemuLog, add_events, add_slot, look_of
from tracer.readers.qemu_slots import SIMPLE_SLOT, parse_change
from tracer.readers.streams import Progress, read_lines

if TYPE_CHECKING:
    import numpy.typing as npt


def _word(text: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)


_PID = _word(b" pid=")
_WRITE, _SAVE = _word(b"memory_notdirty_write_access "), _word(b"ram_save_page ")
_RING = _word(b"kvm_dirty_ring_page ")
_RAM_ADDR, _SIZE = _word(b" ram_addr=0x"), _word(b" size=0x")
_NAME, _OFFSET = _word(b" rbname="), _word(b" offset=0x")
_VCPU = _word(b" vcpu=0x")
_NEWLINE, _CARRIAGE, _SPACE, _DOT, _MINUS = 10, 13, 32, 46, 45

_NUMBER = r"0x([0-9a-f]{1,16})"
#: Rare events: their kind, and what takes a block's name and a number out of their arguments.
_RARE = {
    "migration_bitmap_sync_start": (SYNC_START, None),
    "migration_bitmap_sync_end": (SYNC_END, re.compile(rf"dirty_pages={_NUMBER}")),
    "migration_bitmap_clear_dirty": (
        CLEAR,
        re.compile(rf"str=(?P<block>.+) start=0x[0-9a-f]+ size=0x[0-9a-f]+ page={_NUMBER}"),
    ),
    "migration_throttle": (THROTTLE, None),
    "cpu_throttle_set": (THROTTLE, re.compile(rf"new_throttle_pct={_NUMBER}")),
    "migrate_pending": (PENDING, re.compile(rf"size={_NUMBER} .*")),
    "migrate_pending_estimate": (PENDING, re.compile(rf"size={_NUMBER} .*")),
    "migrate_pending_exact": (EXACT, re.compile(rf"size={_NUMBER} .*")),
    "qemu_savevm_query_pending": (
        PENDING,
        re.compile(
            r"exact=0x(?P<exact>[01]) final=0x(?P<final>[01]) .* "
            r"total=0x(?P<value>[0-9a-f]{1,16}).*"
        ),
    ),
    "migration_completion_vm_stop": (STOP, re.compile(rf"ret={_NUMBER}")),
    "kvm_dirty_ring_reap": (REAP, re.compile(rf"count={_NUMBER} .*")),
    "ram_save_page": (
        SAVE,
        re.compile(
            r"rbname=(?P<block>.+) offset=0x(?P<value>[0-9a-f]{1,16}) "
            r"host=(?:0x(?P<host>[0-9a-f]+))?.*"
        ),
    ),
    "kvm_set_user_memory": (SLOT, SIMPLE_SLOT),
}
_FREQUENT = {"memory_notdirty_write_access", "kvm_dirty_ring_page"}
_LINE = re.compile(r"(\w+) -?\d+\.\d{3} pid=\d+(?: (.*))?")
_BYTES = re.compile(r"b(['\"])(.*)\1")
_DROPPED = ("Dropped_Event", "dropped")


def simpletrace_reader(start_us: int = 0) -> Callable[[Path, Progress | None], QemuLog]:
    """Return a reader like `read_qemu_log` that puts the first event at `start_us`.

    `start_us` is host time since 1970, as a free-list log has it; 0 where nobody knows it. The
    reader raises TraceError with file and line for a line that is not simpletrace.py's, for one of
    our events whose arguments cannot be read, and where there is no event.
    """

    def read(path: Path, progress: Progress | None = None) -> QemuLog:
        log = QemuLog(path, recorder="qemu-simpletrace")
        try:
            _read(log, start_us * 1000, progress)
        except BaseException:
            log.close()
            raise
        return log

    return read


def _read(log: QemuLog, now_ns: int, progress: Progress | None) -> None:
    cuts: list[str] = []
    dropped = 0
    for chunk in read_lines(log.path, cuts, progress):
        events = np.empty(chunk.count(b"\n"), EVENT)
        now_ns = _parse(
            np.frombuffer(chunk, np.uint8), log.blocks.flat, log.blocks.ends, now_ns,
            events["t"], events["a"], events["b"], events["kind"],
        )  # fmt: skip
        for index in np.flatnonzero(events["kind"] == OTHER).tolist():
            dropped += _look_at(log, chunk, events, index)
        log.lines += len(events)
        log.bytes_read += len(chunk)
        add_events(log, events)
    if dropped:
        cuts.append(f"QEMU dropped {dropped} events; its trace buffer was full")
    log.cut = "; ".join(cuts) or None
    if not log.bytes_read:
        raise TraceError(f"{log.path}: is empty; was it written by scripts/simpletrace.py?")
    if not log.events:
        raise _foreign(log.path, 1)


def _look_at(log: QemuLog, chunk: bytes, events: Events, index: int) -> int:
    """Understand a line that is no frequent event; return how many events it says were dropped."""
    event = events[index]
    start, length = int(event["a"]), int(event["b"])
    text = chunk[start : start + length].decode("utf-8", "surrogateescape")
    number = log.lines + index + 1
    match = _LINE.fullmatch(text)
    if match is None or int(event["t"]) < 0:
        if not text.strip():
            return 0
        raise _foreign(log.path, number)
    name, arguments = match[1], match[2] or ""
    if name in _DROPPED:
        lost = re.search(_NUMBER, arguments)
        return int(lost[1], 16) if lost else 1
    if name in _RARE:
        kind, pattern = _RARE[name]
        if pattern is None:
            events[index] = (event["t"], 0, 0, kind)
            return 0
        found = pattern.fullmatch(arguments)
        if found is not None and kind == SLOT:
            add_slot(log, events, index, parse_change(found, 16))
            return 0
        if found is not None:
            groups = found.groupdict()
            kind = look_of(found) if "final" in groups else kind
            value = int(groups.get("value") or found.groups()[-1], 16)
            block = groups.get("block")
            if kind == STOP or value < 1 << 60:
                second = log.blocks.index(_plain(block)) if block is not None else 0
                events[index] = (event["t"], 0 if kind == STOP else value, second, kind)
                if groups.get("host"):
                    log.hosts.setdefault(second, int(groups["host"], 16) - value)
                return 0
    elif name not in _FREQUENT:
        log.unknown[name] += 1
        return 0
    raise TraceError(
        f"{log.path}, line {number}: the arguments of {name} cannot be read: {text[:80]!a}; "
        "print the trace with the simpletrace.py and the trace-events of the QEMU that wrote it"
    )


def _plain(name: str) -> str:
    quoted = _BYTES.fullmatch(name)
    return quoted[2] if quoted else name


def _foreign(path: Path, number: int) -> TraceError:
    return TraceError(
        f"{path}, line {number}: no line of scripts/simpletrace.py; wanted 'EVENT MICROS pid=N "
        "NAME=VALUE ...' (for the binary trace: simpletrace.py trace-events-all FILE)"
    )


@njit(cache=True, nogil=True)
def _parse(data, flat, ends, now, t, a, b, kind):  # type: ignore[no-untyped-def]
    """Fill one record a line, as `tracer.readers.qemu_lines.parse_lines`; return the last ns."""
    start, last = 0, 0
    for line in range(len(t)):
        stop = start
        while data[stop] != _NEWLINE:
            stop += 1
        end = stop - 1 if stop > start and data[stop - 1] == _CARRIAGE else stop
        t[line], a[line], b[line], kind[line] = -1, start, end - start, OTHER
        delta, body, good = _time(data, start, end)
        if good:
            now += delta
            t[line] = now // 1000
            what, first, second = _fields(data, start, body, end, flat, ends, last)
            if what != OTHER:
                a[line], b[line], kind[line] = first, second, what
                last = second if what == SAVE else last
        start = stop + 1
    return now


@njit(cache=True, nogil=True)
def _time(data, at, end):  # type: ignore[no-untyped-def]
    """Return the ns since the line before, where arguments begin, and whether both are there."""
    while at < end and data[at] != _SPACE:
        at += 1
    at += 1
    back = at < end and data[at] == _MINUS
    at, micros, good = decimal(data, at + 1 if back else at, end)
    if not good or at >= end or data[at] != _DOT:
        return 0, at, False
    after, thousandths, good = decimal(data, at + 1, end)
    if not good or after - at != 4 or not is_at(data, after, end, _PID):
        return 0, at, False
    at, _, good = decimal(data, after + len(_PID), end)
    ns = micros * 1000 + thousandths
    return (-ns if back else ns), at, good


@njit(cache=True, nogil=True)
def _hex_after(data, at, end, word):  # type: ignore[no-untyped-def]
    place = find(data, at, end, word)
    if place < 0:
        return 0, False
    _, value, good = hexadecimal(data, place, end)
    return value, good


@njit(cache=True, nogil=True)
def _fields(data, start, at, end, flat, ends, last):  # type: ignore[no-untyped-def]
    """Return kind and two arguments of a frequent event, (OTHER, 0, 0) for all others."""
    if is_at(data, start, end, _WRITE):
        address, good = _hex_after(data, at, end, _RAM_ADDR)
        size, fine = _hex_after(data, at, end, _SIZE)
        if good and fine and 0 < size < 1 << 20:
            return WRITE, address, size
    elif is_at(data, start, end, _RING):
        page, good = _hex_after(data, at, end, _OFFSET)
        vcpu, fine = _hex_after(data, at, end, _VCPU)
        if good and fine and vcpu < 1 << 31:
            return RING_PAGE, page, vcpu
    elif is_at(data, start, end, _SAVE):
        place = find(data, at, end, _NAME)
        if place >= 0:
            quoted = 2 if place + 1 < end and data[place] == 98 and data[place + 1] == 39 else 0
            for turn in range(len(ends) - 1):
                block = (last + turn) % (len(ends) - 1)
                name = flat[ends[block] : ends[block + 1]]
                after = place + quoted + len(name) + (1 if quoted else 0)
                if is_at(data, place + quoted, end, name) and is_at(data, after, end, _OFFSET):
                    _, offset, good = hexadecimal(data, after + len(_OFFSET), end)
                    if good:
                        return SAVE, offset, block
                    break
    return OTHER, 0, 0
