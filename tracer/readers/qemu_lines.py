"""Lines of QEMU's trace log, found and taken apart by one compiled loop over the bytes.

Only the three events that come in millions are understood here; every other line is handed back
by its place, for `tracer.readers.qemu_log` to look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    import numpy.typing as npt

#: What a record of the event table is (see `EVENT`). Compiled code is cached by the file it stands
#: in and keeps these numbers: never give one another meaning.
OTHER, WRITE, SAVE, RING_PAGE = 0, 1, 2, 3
SYNC_START, SYNC_END, CLEAR, THROTTLE, PENDING, STOP, REAP, SLOT = 4, 5, 6, 7, 8, 9, 10, 11
EXACT, KINDS = 12, 13

#: One event: host time in us, two arguments, the kind. Packed, since logs have many.
#:   WRITE a=ram_addr b=size; SAVE a=byte offset b=block; SYNC_END a=dirty pages;
#:   CLEAR a=page in block b=block; PENDING a=bytes; EXACT a=bytes, counted anew after a PENDING;
#:   THROTTLE a=percent, 0 where the event names none;
#:   RING_PAGE a=page in slot b=vCPU; REAP a=pages;
#:   SLOT a=number in the log's changes of slots;
#:   OTHER a=place in the chunk b=length, t=-1 where the line has no time.
EVENT = np.dtype([("t", "<i8"), ("a", "<i8"), ("b", "<i4"), ("kind", "u1")])

_WRITE_NAME = np.frombuffer(b"memory_notdirty_write_access 0x", np.uint8)
_WRITE_ADDR = np.frombuffer(b" ram_addr 0x", np.uint8)
_WRITE_SIZE = np.frombuffer(b" size ", np.uint8)
_SAVE_NAME = np.frombuffer(b"ram_save_page ", np.uint8)
_SAVE_OFFSET = np.frombuffer(b": offset: 0x", np.uint8)
_SAVE_HOST = np.frombuffer(b" host: ", np.uint8)
_RING_NAME = np.frombuffer(b"kvm_dirty_ring_page vcpu ", np.uint8)
_RING_FETCH = np.frombuffer(b" fetch ", np.uint8)
_RING_OFFSET = np.frombuffer(b" offset 0x", np.uint8)

_NEWLINE, _CARRIAGE, _SPACE = 10, 13, 32
_DOT, _COLON, _AT, _DASH, _PLUS, _T, _Z = 46, 58, 64, 45, 43, 84, 90
_MAX_DIGITS = 16


class BlockNames:
    """The RAM block names met so far, in the shape that the compiled loop compares with."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.flat: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self.ends: npt.NDArray[np.int64] = np.zeros(1, np.int64)

    def index(self, name: str) -> int:
        """Return the number of block `name`, a new one if it was never met."""
        if name not in self.names:
            self.names.append(name)
            encoded = [n.encode("utf-8", "surrogateescape") for n in self.names]
            self.flat = np.frombuffer(b"".join(encoded), np.uint8)
            self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return self.names.index(name)


def parse_lines(chunk: bytes, names: BlockNames) -> npt.NDArray[np.void]:
    """Return one record of `EVENT` for each line of `chunk`, whose last byte is a newline."""
    data = np.frombuffer(chunk, np.uint8)
    events = np.empty(chunk.count(b"\n"), EVENT)
    _parse(data, names.flat, names.ends, events["t"], events["a"], events["b"], events["kind"])
    return events


@njit(cache=True, nogil=True)
def _parse(data, flat, ends, t, a, b, kind):  # type: ignore[no-untyped-def]
    start, last = 0, 0
    for line in range(len(t)):
        stop = start
        while data[stop] != _NEWLINE:
            stop += 1
        end = stop - 1 if stop > start and data[stop - 1] == _CARRIAGE else stop
        micros, body = _time(data, start, end)
        t[line], a[line], b[line], kind[line] = micros, start, end - start, OTHER
        if micros >= 0:
            what, first, second = _body(data, body, end, flat, ends, last)
            if what != OTHER:
                a[line], b[line], kind[line] = first, second, what
                last = second if what == SAVE else last
        start = stop + 1


@njit(cache=True, nogil=True)
def _body(data, at, end, flat, ends, last):  # type: ignore[no-untyped-def]
    """Take an event's name and arguments apart; (OTHER, 0, 0) where they are not of ours."""
    if _is(data, at, end, _WRITE_NAME):
        at, _, _ = _hex(data, at + len(_WRITE_NAME), end)
        if _is(data, at, end, _WRITE_ADDR):
            at, address, good = _hex(data, at + len(_WRITE_ADDR), end)
            if good and _is(data, at, end, _WRITE_SIZE):
                at, size, good = _decimal(data, at + len(_WRITE_SIZE), end)
                if good and at == end and 0 < size < 1 << 20:
                    return WRITE, address, size
    elif _is(data, at, end, _SAVE_NAME):
        at += len(_SAVE_NAME)
        for turn in range(len(ends) - 1):
            # Neighbouring rows name the same block, so the last one is tried first.
            block = (last + turn) % (len(ends) - 1)
            name = flat[ends[block] : ends[block + 1]]
            after = at + len(name)
            if _is(data, at, end, name) and _is(data, after, end, _SAVE_OFFSET):
                after, offset, good = _hex(data, after + len(_SAVE_OFFSET), end)
                if good and _is(data, after, end, _SAVE_HOST):
                    return SAVE, offset, block
                break
    elif _is(data, at, end, _RING_NAME):
        at, vcpu, good = _decimal(data, at + len(_RING_NAME), end)
        if good and _is(data, at, end, _RING_FETCH):
            at, _, good = _decimal(data, at + len(_RING_FETCH), end)
            if good and _is(data, at, end, _RING_OFFSET):
                at, page, good = _hex(data, at + len(_RING_OFFSET), end)
                if good and at == end:
                    return RING_PAGE, page, vcpu
    return OTHER, 0, 0


@njit(cache=True, nogil=True)
def _is(data, at, end, text):  # type: ignore[no-untyped-def]
    if at + len(text) > end:
        return False
    for i in range(len(text)):  # noqa: SIM110 - numba knows no all()
        if data[at + i] != text[i]:
            return False
    return True


@njit(cache=True, nogil=True)
def _decimal(data, at, end):  # type: ignore[no-untyped-def]
    value, start = np.int64(0), at
    while at < end and 48 <= data[at] <= 57:
        value = value * 10 + np.int64(data[at]) - 48
        at += 1
    return at, value, start < at <= start + _MAX_DIGITS


@njit(cache=True, nogil=True)
def _hex(data, at, end):  # type: ignore[no-untyped-def]
    value, start = np.int64(0), at
    while at < end:
        c = np.int64(data[at])
        if 48 <= c <= 57:
            digit = c - 48
        elif 97 <= c <= 102:
            digit = c - 87
        elif 65 <= c <= 70:
            digit = c - 55
        else:
            break
        value = (value << 4) | digit
        at += 1
    # 2^60 bytes is far beyond any guest; more digits would not fit an int64.
    return at, value, start < at < start + _MAX_DIGITS


@njit(cache=True, nogil=True)
def _time(data, at, end):  # type: ignore[no-untyped-def]
    """Return host time in us and where the event's name begins; (-1, at) without a time."""
    after, number, good = _decimal(data, at, end)
    if good and after < end and data[after] == _AT:
        after, seconds, good = _decimal(data, after + 1, end)
        if good and after < end and data[after] == _DOT:
            fraction = after + 1
            after, micros, good = _decimal(data, fraction, end)
            if good and after - fraction == 6 and after < end and data[after] == _COLON:
                return seconds * 1_000_000 + micros, after + 1
    elif good and after - at == 4 and after < end and data[after] == _DASH:
        return _iso_time(data, at, end, number)
    return -1, at


@njit(cache=True, nogil=True)
def _iso_time(data, at, end, year):  # type: ignore[no-untyped-def]
    """As `_time`, for `YYYY-MM-DDTHH:MM:SS[.ffffff](Z|+HH[:MM]) `; GLib drops a zero fraction."""
    marks = (_DASH, _T, _COLON, _COLON)
    for i in range(4):
        if end - at < 21 or data[at + 7 + 3 * i] != marks[i]:
            return -1, at
    fields = np.empty(5, np.int64)
    for i in range(5):
        after, fields[i], good = _decimal(data, at + 5 + 3 * i, at + 7 + 3 * i)
        if not good or after != at + 7 + 3 * i:
            return -1, at
    month, day, hour, minute, second = fields
    after, micros = at + 19, 0
    if data[after] == _DOT:
        fraction = after + 1
        after, micros, good = _decimal(data, fraction, end)
        if not good or after - fraction > 6:
            return -1, at
        micros *= 10 ** (6 - (after - fraction))
    after, offset, good = _zone(data, after, end)
    if not good or not 1 <= month <= 12 or not 1 <= day <= 31:
        return -1, at
    minutes = (_days(year, month, day) * 24 + hour) * 60 + minute - offset
    return (minutes * 60 + second) * 1_000_000 + micros, after


@njit(cache=True, nogil=True)
def _zone(data, at, end):  # type: ignore[no-untyped-def]
    """Return where the name begins, minutes east of UTC, and whether a zone and a space are there.

    Z, +HH, +HHMM and +HH:MM are zones.
    """
    offset, good = 0, at < end
    if good and data[at] == _Z:
        at += 1
    elif good:
        sign = -1 if data[at] == _DASH else 1
        good = data[at] == _DASH or data[at] == _PLUS
        at, hours, digits = _decimal(data, at + 1, min(at + 3, end))
        minutes = 0
        if at < end and data[at] == _COLON:
            at += 1
        if at < end and data[at] != _SPACE:
            at, minutes, digits = _decimal(data, at, min(at + 2, end))
        offset = sign * (hours * 60 + minutes)
        good = good and digits
    good = good and at < end and data[at] == _SPACE
    return at + 1, offset, good


@njit(cache=True, nogil=True)
def _days(year, month, day):  # type: ignore[no-untyped-def]
    """Return the days since 1970-01-01 of a day of the Gregorian calendar."""
    # Years that begin in March put the leap day last, so that a month's start is linear.
    year -= month <= 2
    month = (month + 9) % 12
    leaps = year // 4 - year // 100 + year // 400
    return year * 365 + leaps + (153 * month + 2) // 5 + day - 1 - 719468
