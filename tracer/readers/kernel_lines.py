"""Lines of Linux's tracers, found and taken apart by one compiled loop over the bytes.

What stands before an event differs between ftrace, trace-cmd and perf (task names with spaces, a
TGID, flags); what all have is `SECONDS.FRACTION: [SUBSYSTEM:]EVENT: FIELDS`. The fields are those
of the events' print formats (include/trace/events/kvm.h and kmem.h, virt/kvm/dirty_ring.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from tracer.readers.digits import decimal, find, hexadecimal, is_at, number
from tracer.readers.spool import RECORD

if TYPE_CHECKING:
    from tracer.readers.spool import Records
    from tracer.rows import Int64s

#: What a line is (see `tracer.readers.digits` on why these never change meaning).
#:   TEXT without an event's time; NOTHING empty or a comment; GARBLED an event of ours that
#:   cannot be read; ELSE another event; PUSH a=page in slot b=slot; RESET a=entries left;
#:   PROBE a=frame; SYNC; ALLOC, FREE a=frame b=order; FAILED an allocation that got nothing.
TEXT, NOTHING, GARBLED, ELSE = 0, 1, 2, 3
PUSH, RESET, PROBE, SYNC, ALLOC, FREE, FAILED = 4, 5, 6, 7, 8, 9, 10
KINDS = 11


def _word(text: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(text, np.uint8)


_PUSH, _RESET = _word(b"kvm_dirty_ring_push"), _word(b"kvm_dirty_ring_reset")
_ALLOC, _FREE = _word(b"mm_page_alloc"), _word(b"mm_page_free")
_PROBE, _SYNC = _word(b"mark_page_dirty_in_slot"), _word(b"kvm_arch_sync_dirty_log")
_RETURN = _word(b"return")
_SLOT, _OFFSET = _word(b" slot "), _word(b" offset 0x")
_DIRTY, _RESET_AT = _word(b" dirty 0x"), _word(b" reset 0x")
_RING = _word(b" ring ")
_PFN, _ORDER, _GFN = _word(b" pfn="), _word(b" order="), _word(b"gfn=")

_NEWLINE, _CARRIAGE, _SPACE, _HASH, _DOT, _COLON, _CALL = 10, 13, 32, 35, 46, 58, 40
_RIGHT, _OPEN, _CLOSE, _SLASH = 41, 91, 93, 47
_LARGEST_ORDER = 24
_SECONDS = 1 << 33


def parse_lines(chunk: bytes, first_line: int) -> tuple[Records, Int64s, int]:
    """Return one record for each line of `chunk`, whose it is, and the digits of a time's fraction.

    Records are as in `tracer.readers.spool.RECORD`, t in ns; lines count from `first_line`. A
    TEXT, GARBLED or ELSE line has its place in `chunk` in a and its length in b; ELSE's are those
    of the event's name, and its t is the name's hash. Whose: int64 (3, lines), process, thread
    and a PUSH's ring, -1 where they are not said; of ELSE, ALLOC and FREE they are not looked for.
    The chunk's last byte is a newline.
    """
    records = np.zeros(chunk.count(b"\n"), RECORD)
    records["line"] = first_line + np.arange(len(records))
    who = np.full((3, len(records)), -1, np.int64)
    digits = _parse(
        np.frombuffer(chunk, np.uint8), records["t"], records["a"], records["b"], records["kind"],
        who,
    )  # fmt: skip
    return records, who, int(digits)


@njit(cache=True, nogil=True)
def _parse(data, t, a, b, kind, who):  # type: ignore[no-untyped-def]
    start, digits = 0, 0
    for line in range(len(t)):
        stop = start
        while data[stop] != _NEWLINE:
            stop += 1
        end = stop - 1 if stop > start and data[stop - 1] == _CARRIAGE else stop
        a[line], b[line] = start, end - start
        if start == end or data[start] == _HASH:
            kind[line] = NOTHING
        else:
            ns, fraction, first, name, close, body = _event(data, start, end)
            if ns >= 0:
                what, one, other = _fields(data, name, close, body, end)
                t[line], kind[line] = ns, what
                if what in (PUSH, RESET, PROBE, SYNC):
                    who[0, line], who[1, line] = _task(data, start, first)
                if what == PUSH:
                    ring = find(data, body, end, _RING)
                    if ring >= 0:
                        _, who[2, line], _ = decimal(data, ring, end)
                digits = max(digits, fraction)
                if what == ELSE:
                    t[line], a[line], b[line] = _hash(data, name, close), name, close - name
                elif what != GARBLED:
                    a[line], b[line] = one, other
        start = stop + 1
    return digits


@njit(cache=True, nogil=True)
def _hash(data, at, end):  # type: ignore[no-untyped-def]
    """Return FNV-1a of some bytes, so that other events can be counted by name."""
    value = np.uint64(0xCBF29CE484222325)
    for i in range(at, end):
        value = (value ^ np.uint64(data[i])) * np.uint64(0x100000001B3)
    return np.int64(value >> np.uint64(1))


@njit(cache=True, nogil=True)
def _event(data, start, end):  # type: ignore[no-untyped-def]
    """Return ns, digits of its fraction, where the time, the name and the fields begin (and end).

    The first time that a name with a colon follows is the event's, since a task may be called
    anything; ns is -1 where there is none.
    """
    for dot in range(start + 1, end - 7):
        if data[dot] != _DOT or not 48 <= data[dot - 1] <= 57:
            continue
        after, fraction, good = decimal(data, dot + 1, end)
        width = after - dot - 1
        if not good or (width != 6 and width != 9) or after >= end or data[after] != _COLON:
            continue
        first = dot
        while first > start and 48 <= data[first - 1] <= 57:
            first -= 1
        if first > start and data[first - 1] != _SPACE:
            continue
        _, seconds, good = decimal(data, first, dot)
        if not good or seconds >= _SECONDS:
            continue
        name, close, body = _name(data, after + 1, end)
        if name >= 0:
            scale = 1000 if width == 6 else 1
            return seconds * 1_000_000_000 + fraction * scale, width, first, name, close, body
    return -1, 0, 0, 0, 0, 0


@njit(cache=True, nogil=True)
def _before(data, start, at):  # type: ignore[no-untyped-def]
    """Return where digits that end before `at` begin, and their value; (at, -1) for none."""
    first = at
    while first > start and 48 <= data[first - 1] <= 57:
        first -= 1
    _, value, good = decimal(data, first, at)
    return first, (value if good else -1)


@njit(cache=True, nogil=True)
def _task(data, start, at):  # type: ignore[no-untyped-def]
    """Return process and thread of an event whose time begins at `at`, -1 where they are not said.

    Before the time stands `TASK-TID [(TGID)] [CPU]`, perf's `TASK TID [CPU]` or `TASK PID/TID
    [CPU]`; flags may follow the CPU.
    """
    at -= 1
    while at > start and data[at] != _CLOSE:
        at -= 1
    while at > start and data[at] != _OPEN:
        at -= 1
    while at > start and data[at - 1] == _SPACE:
        at -= 1
    process = -1
    if at > start and data[at - 1] == _RIGHT:
        _, process = _before(data, start, at - 1)
        while at > start and data[at] != _CALL:
            at -= 1
        while at > start and data[at - 1] == _SPACE:
            at -= 1
    at, thread = _before(data, start, at)
    if thread >= 0 and at > start and data[at - 1] == _SLASH:
        _, process = _before(data, start, at - 1)
    return process, thread


@njit(cache=True, nogil=True)
def _name(data, at, end):  # type: ignore[no-untyped-def]
    """Return where an event's name begins and ends and its fields begin; (-1, 0, 0) for none."""
    for _ in range(2):
        while at < end and data[at] == _SPACE:
            at += 1
        name, numeral = at, True
        while at < end and data[at] != _SPACE and data[at] != _CALL:
            # perf puts the subsystem before the event, and may put a period before both.
            if data[at] == _COLON and at + 1 < end and data[at + 1] != _SPACE:
                name = at + 1
            numeral = numeral and 48 <= data[at] <= 57
            at += 1
        if at > name and data[at - 1] == _COLON:
            return name, at - 1, at
        if at < end and data[at] == _CALL and is_at(data, name, at, _PROBE):
            # The function tracer, with its arguments.
            return name, at, at
        if not numeral:
            break
    return -1, 0, 0


@njit(cache=True, nogil=True)
def _fields(data, name, close, at, end):  # type: ignore[no-untyped-def]
    """Return kind and two numbers of an event."""
    size = close - name
    if size == len(_PUSH) and is_at(data, name, close, _PUSH):
        slot, offset = find(data, at, end, _SLOT), find(data, at, end, _OFFSET)
        if slot >= 0 and offset >= 0:
            _, number_of, good = decimal(data, slot, end)
            _, page, fine = hexadecimal(data, offset, end)
            if good and fine and number_of < 1 << 31 and page < 1 << 48:
                return PUSH, page, number_of
        return GARBLED, 0, 0
    if size == len(_RESET) and is_at(data, name, close, _RESET):
        dirty, reset = find(data, at, end, _DIRTY), find(data, at, end, _RESET_AT)
        if dirty >= 0 and reset >= 0:
            _, pushed, good = hexadecimal(data, dirty, end)
            _, taken, fine = hexadecimal(data, reset, end)
            if good and fine:
                return RESET, (pushed - taken) & 0xFFFFFFFF, 0
        return GARBLED, 0, 0
    freed = size == len(_FREE) and is_at(data, name, close, _FREE)
    if freed or (size == len(_ALLOC) and is_at(data, name, close, _ALLOC)):
        place, power = find(data, at, end, _PFN), find(data, at, end, _ORDER)
        if place >= 0 and power >= 0:
            _, frame, good = number(data, place, end)
            _, order, fine = decimal(data, power, end)
            if good and fine and order <= _LARGEST_ORDER and frame < 1 << 48:
                if freed:
                    return FREE, frame, order
                # Frame 0 is never handed out: it stands for nothing in an allocation that failed.
                return (ALLOC if frame else FAILED), frame, order
        return GARBLED, 0, 0
    if find(data, name, close, _SYNC) >= 0:
        return (ELSE if find(data, name, close, _RETURN) >= 0 else SYNC), 0, 0
    if find(data, name, close, _PROBE) >= 0 and find(data, name, close, _RETURN) < 0:
        place = find(data, at, end, _GFN)
        while place >= 0 and 95 <= data[place - 5] <= 122:  # base_gfn is another field
            place = find(data, place, end, _GFN)
        if place >= 0:
            _, frame, good = number(data, place, end)
            if good and frame < 1 << 48:
                return PROBE, frame, 0
        return GARBLED, 0, 0
    return ELSE, 0, 0
