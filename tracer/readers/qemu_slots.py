"""KVM's memory slots, as QEMU's trace log tells them: where the pages of the dirty ring lie.

`kvm_dirty_ring_page` (kvm_dirty_ring_reap_one of accel/kvm/kvm-all.c) names a page within its slot
and not the slot, in 7.2 and in 10.2 alike. `kvm_set_user_memory` names the slots: each when it is
made, moved, removed (size 0), and when a migration turns its log on. 7.2 prints `Slot#N flags=
gpa= size= ua= ret=`, N with the address space in its upper 16 bits; later versions `AddrSpace#S
Slot#N ...`. `ram_save_page` says where in QEMU's memory a block lies, and so which block a slot is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tracer.errors import UsageError
from tracer.readers.blocks import FIXED, Layout
from tracer.readers.ram_map import parse_extent

#: Flags of a slot (KVM_MEM_*): its writes are logged; it is read-only, so that nobody writes it.
_LOGGED, _READ_ONLY = 1, 2
#: KVM counts pages of 4 KiB, as the log does.
_SHIFT = 12
_FOUR_GIB = 4 << 30
#: A PC's RAM is cut here: below lie 640 KiB, above all that is not shadowed firmware.
_PC_LOW_END, _PC_HIGH = 0xA0000, 0x100000
_PC_MACHINE = re.compile(r"\b(?:pc|q35)\b")

#: What stands behind `kvm_set_user_memory`, in the log and as simpletrace.py prints it.
LOG_SLOT = re.compile(
    r"(?:AddrSpace#(?P<space>\d+) )?Slot#(?P<slot>\d+) flags=0x(?P<flags>[0-9a-f]+) "
    r"gpa=0x(?P<address>[0-9a-f]+) size=0x(?P<size>[0-9a-f]+) ua=0x(?P<host>[0-9a-f]+)"
    r".* ret=(?P<failed>-?)\d+"
)
SIMPLE_SLOT = re.compile(
    r"(?:as=0x(?P<space>[0-9a-f]+) )?slot=0x(?P<slot>[0-9a-f]+) flags=0x(?P<flags>[0-9a-f]+) "
    r"guest_phys_addr=0x(?P<address>[0-9a-f]+) memory_size=0x(?P<size>[0-9a-f]+) "
    r"userspace_addr=0x(?P<host>[0-9a-f]+).* ret=0x(?P<failed>f{6})?[0-9a-f]+"
)


@dataclass(frozen=True)
class SlotChange:
    """A slot of KVM as it is from now on: guest address, size and host address in bytes."""

    key: tuple[int, int]
    flags: int
    address: int
    size: int
    host: int


@dataclass(frozen=True)
class Slot:
    """A slot's place: dense page of its first page (-1 in no block of the trace), and pages."""

    name: str
    first: int
    pages: int

    def __str__(self) -> str:
        return f"{self.name}:{self.first:#x}:{self.pages}" if self.first >= 0 else self.name


def parse_change(found: re.Match[str], base: int) -> SlotChange | None:
    """Return what a line says, its decimal numbers to `base`; None for a change that failed."""
    if found["failed"]:
        return None
    slot = int(found["slot"], base)
    space = slot >> 16 if found["space"] is None else int(found["space"], base)
    address, size, host = (int(found[name], 16) for name in ("address", "size", "host"))
    return SlotChange((space, slot & 0xFFFF), int(found["flags"], 16), address, size, host)


class SlotTable:
    """The slots whose pages a dirty ring can name, change after change.

    hosts: where each block of the log (by number) begins in QEMU's memory. low: bytes of RAM below
    4 GiB. seen: every place that a slot had, as text.
    """

    def __init__(self, layout: Layout, hosts: Mapping[int, int], low: int):
        self._layout, self._hosts, self._low = layout, hosts, low
        self._slots: dict[tuple[int, int], SlotChange] = {}
        self.seen: list[str] = []

    def change(self, change: SlotChange) -> list[Slot]:
        """Take a change; return the slots that there are now, each place once."""
        if change.size:
            self._slots[change.key] = change
        else:
            self._slots.pop(change.key, None)
        places: dict[tuple[int, int], Slot] = {}
        for (space, number), each in self._slots.items():
            if each.flags & (_LOGGED | _READ_ONLY) == _LOGGED:
                slot = Slot(f"{space << 16 | number}", self._place(each), each.size >> _SHIFT)
                # Address space 1 (SMM) shows the same memory again.
                places.setdefault((slot.first, slot.pages if slot.first >= 0 else -number), slot)
        for slot in places.values():
            if str(slot) not in self.seen:
                self.seen.append(str(slot))
        return list(places.values())

    def places(self) -> dict[int, Slot]:
        """Return all slots that may be written, by number as the ring's entries have it."""
        return {
            space << 16 | number: Slot(
                f"{space << 16 | number}", self._place(each), each.size >> _SHIFT
            )
            for (space, number), each in self._slots.items()
            if not each.flags & _READ_ONLY
        }

    def _place(self, slot: SlotChange) -> int:
        for number, host in self._hosts.items():
            offset, base = slot.host - host, self._layout.base[number]
            block = next(b for b in self._layout.blocks if b.first_page == base)
            if 0 <= offset < block.pages << _SHIFT:
                return base + (offset >> _SHIFT)
        if 0 in self._hosts:
            return -1
        # No page of the RAM was sent: it is where a PC has it.
        page = slot.address if slot.address < self._low else slot.address - _FOUR_GIB + self._low
        inside = slot.address < self._low or slot.address >= _FOUR_GIB
        return page >> _SHIFT if inside and page >> _SHIFT < self._layout.ram_pages else -1


def given_slots(texts: Iterable[str], layout: Layout) -> list[Slot]:
    """Parse the user's `ID:FIRST_PAGE:PAGES`, pages of the guest's RAM; raises UsageError."""
    slots = []
    for text in texts:
        found = parse_extent(text, "--slot", 1 << _SHIFT)
        if found.first + found.pages > layout.ram_pages:
            raise UsageError(
                f"--slot {text}: ends at page {found.first + found.pages:#x}; the guest's RAM, "
                f"block {layout.blocks[0].name}, has {layout.ram_pages:#x}"
            )
        slots.append(Slot(found.name, found.first, found.pages))
    return slots


def pc_slots(layout: Layout, low: int, machine: str) -> list[Slot] | None:
    """Return the slots that a PC's RAM has once its firmware ran; None for another machine."""
    names = {block.name for block in layout.blocks}
    if not (names & {"pc.ram", *FIXED} or _PC_MACHINE.search(machine)):
        return None
    first, second = _PC_LOW_END >> _SHIFT, _PC_HIGH >> _SHIFT
    ends = min(low >> _SHIFT, layout.ram_pages)
    slots = [Slot("low", 0, min(first, ends))]
    if ends > second:
        slots.append(Slot("high", second, ends - second))
    if layout.ram_pages > ends:
        slots.append(Slot("above-4g", ends, layout.ram_pages - ends))
    return slots
