"""What a QEMU logs of its dirty rings, as it comes: entries, and the memory slots they lie in."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tracer.compiled import compiled
from tracer.readers.digits import decimal, find, hexadecimal, is_at
from tracer.readers.qemu_slots import LOG_SLOT, SlotTable, parse_change
from tracer.rows import Int64s

#: Bytes that are read at once, and after how many the file's space is given back.
_CHUNK = 1 << 22
_KEEP = 1 << 20
_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_SLOT_EVENT = b"kvm_set_user_memory "
#: What QEMU logs whenever it is asked for the dirty rate: a sign of life.
_SIGN = b"query_dirty_rate_info "
_PAGE_EVENT, _FETCH, _OFFSET = (
    np.frombuffer(text, np.uint8)
    for text in (b"kvm_dirty_ring_page vcpu ", b" fetch ", b" offset 0x")
)
#: A vCPU's entries are counted in 32 bits.
_COUNTS = 1 << 32
_NONE: Int64s = np.empty(0, np.int64)


class Tail:
    """The whole lines that QEMU adds to a file; what was read gives its space back."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._at = self._kept = 0
        self._rest = b""

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def lines(self) -> Iterator[bytes]:
        """Yield what was added since, cut behind a line's end."""
        while data := os.pread(self._file, _CHUNK, self._at):
            self._at += len(data)
            data = self._rest + data
            end = data.rfind(b"\n") + 1
            self._rest = data[end:]
            if end:
                yield data[:end]
        if self._at - self._kept > _KEEP:
            # The size stays: a QEMU 7.2 appends, and would begin anew in a file that was cut.
            libc = ctypes.CDLL(None, use_errno=True)
            length = ctypes.c_long(self._at - self._kept)
            libc.fallocate(self._file, _PUNCH_HOLE, ctypes.c_long(self._kept), length)
            self._kept = self._at


@dataclass
class Logged:
    """A vCPU's entries in the log that wait for the round's end.

    first: number of the first ever, None before; next: the one after the last. parts: number, page
    in the slot, and index in `RingLog.tables`. lost: numbers that were never logged.
    """

    first: int | None = None
    next: int = 0
    parts: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def add(self, fetch: Int64s, offset: Int64s, table: int) -> None:
        """Add entries in the order of the log, their numbers modulo 2^32."""
        if self.first is None:
            self.first = self.next = int(fetch[0])
        ahead = (fetch - self.next) % _COUNTS
        if ahead[0] >= _COUNTS >> 1:  # another vCPU of this number, counting from the beginning
            self.first, self.parts = int(fetch[0]), []
            number = fetch - fetch[0] + self.first
        else:
            number = self.next + ahead
        self.next = int(number[-1]) + 1
        self.parts.append(np.stack([number, offset, np.full(len(fetch), table)]))

    def take(self) -> npt.NDArray[np.int64]:
        """Return, and forget, what waits: number, page in the slot, table, int64[3, n]."""
        parts, self.parts = self.parts, []
        return np.concatenate([*parts, np.empty((3, 0), np.int64)], axis=1)


class RingLog:
    """Entries and slots as the log has them. tables: each state of the slots, the present last."""

    def __init__(self, tail: Tail, slots: SlotTable):
        self._tail, self._slots = tail, slots
        self.vcpus: dict[int, Logged] = {}
        self.tables = [slots.places()]
        #: Every place that a slot had, as `ID:FIRST_PAGE:PAGES`.
        self.seen: set[str] = set()
        #: How often QEMU logged that it was asked for the dirty rate.
        self.signs = 0
        self._entries(b"\n")  # compiled before there is a hurry

    def read(self) -> None:
        """Read on to the end of what QEMU has written."""
        for data in self._tail.lines():
            self.signs += data.count(_SIGN)
            begin = 0
            at = data.find(_SLOT_EVENT)
            while at >= 0:
                self._entries(data[begin:at])
                begin = data.index(b"\n", at)
                self._slot(data[at + len(_SLOT_EVENT) : begin].decode(errors="replace"))
                at = data.find(_SLOT_EVENT, begin)
            self._entries(data[begin:])

    def _slot(self, words: str) -> None:
        found = LOG_SLOT.match(words)
        change = parse_change(found, 10) if found else None
        if change is not None:
            self._slots.change(change)
            if (places := self._slots.places()) != self.tables[-1]:
                self.tables.append(places)
                self.seen.update(str(slot) for slot in places.values())

    def _entries(self, data: bytes) -> None:
        if not data:
            return
        most = len(data) // len(_PAGE_EVENT) + 1
        found = np.empty((3, most), np.int64)
        count = _parse(np.frombuffer(data, np.uint8), _PAGE_EVENT, _FETCH, _OFFSET, found)
        vcpu, fetch, offset = found[:, :count]
        for number in np.unique(vcpu).tolist():
            mine = vcpu == number
            logged = self.vcpus.setdefault(number, Logged())
            logged.add(fetch[mine], offset[mine], len(self.tables) - 1)

    def forget(self) -> None:
        """Forget the slots as they were; to be called when no entry waits."""
        self.tables = self.tables[-1:]


@compiled
def _parse(data, event, fetch, offset, found):  # type: ignore[no-untyped-def]
    """Fill `found`, int64[3, n], with vCPU, number and page of each entry; return how many."""
    count, at, end = 0, 0, len(data)
    while count < found.shape[1]:
        at = find(data, at, end, event)
        if at < 0:
            break
        at, vcpu, good = decimal(data, at, end)
        if not good or not is_at(data, at, end, fetch):
            continue
        at, number, good = decimal(data, at + len(fetch), end)
        if not good or not is_at(data, at, end, offset):
            continue
        at, page, good = hexadecimal(data, at + len(offset), end)
        if good and at < end and data[at] == 10:
            found[0, count], found[1, count], found[2, count] = vcpu, number, page
            count += 1
    return count
