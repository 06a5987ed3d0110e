"""KVM's dirty log over a VM that the caller owns: the bitmap in both of its modes, and the ring.

A VMM written in Python, or one that hands over its file descriptors, records its guest so:

    log = BitmapLog(vm_fd, [Slot(number=0, first_page=0, pages=262144)])
    log.start()
    while …:
        pages = log.harvest()       # written since the harvest before

Every memory slot must be registered with the flag KVM_MEM_LOG_DIRTY_PAGES. Only what vCPUs and the
kernel itself write is logged: what a device model or a vhost thread writes into the guest's memory
through the VMM's own mapping is not.

Each harvest takes some time (`harvest_ns`, the longest so far); while vCPUs run on, a page written
during it is in this one or the next, and never in neither.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from tracer.errors import RecordError, UsageError
from tracer.recorders import kvm_abi as kvm

if TYPE_CHECKING:
    from tracer.rows import Int64s


@dataclass(frozen=True)
class Slot:
    """A memory slot: its number in KVM, and the trace's pages that it holds.

    address_space: KVM's (1 is system management mode), in the ring's and the bitmap's slot ids.
    """

    number: int
    first_page: int
    pages: int
    address_space: int = 0

    @property
    def id(self) -> int:
        """The slot as KVM's dirty log names it."""
        return self.address_space << 16 | self.number


class DirtyLog(Protocol):
    """A dirty log of KVM; `harvest_ns` is the longest that a harvest took."""

    harvest_ns: int

    def start(self) -> None:
        """Forget everything logged so far: the first epoch begins here."""

    def harvest(self) -> Int64s:
        """Return the pages, int64 ascending, written since the harvest before; clear the log."""


class BitmapLog:
    """KVM_GET_DIRTY_LOG: a harvest reads each slot's bitmap and clears it at once."""

    def __init__(self, vm_fd: int, slots: Sequence[Slot]):
        self._vm = vm_fd
        self._slots = tuple(slots)
        # One bit a page in whole 64-bit words, as KVM fills them.
        self._bitmaps = [np.zeros((slot.pages + 63) // 64, np.uint64) for slot in slots]
        self.harvest_ns = 0

    def start(self) -> None:
        """Forget everything logged so far: the first epoch begins here."""
        self.harvest()
        self.harvest_ns = 0

    def harvest(self) -> Int64s:
        """Return the pages, int64 ascending, written since the harvest before; clear the log."""
        begin = time.monotonic_ns()
        for slot, bitmap in zip(self._slots, self._bitmaps, strict=True):
            self._take(slot, bitmap)
        self.harvest_ns = max(self.harvest_ns, time.monotonic_ns() - begin)
        found = [
            slot.first_page + _set_bits(bitmap, slot.pages)
            for slot, bitmap in zip(self._slots, self._bitmaps, strict=True)
        ]
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)

    def _take(self, slot: Slot, bitmap: npt.NDArray[np.uint64]) -> None:
        log = kvm.GetDirtyLog(slot=slot.id, bitmap=bitmap.ctypes.data)
        try:
            kvm.call(self._vm, kvm.GET_DIRTY_LOG, log)
        except OSError as error:
            raise UsageError(
                f"memory slot {slot.number}: KVM gives no dirty bitmap ({error.strerror}); it must "
                "be registered with KVM_MEM_LOG_DIRTY_PAGES, and the VM must have no dirty ring"
            ) from None


class ManualLog(BitmapLog):
    """The bitmap under KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: read first, cleared by a second call.

    Switch it on with `enable_manual` before any slot logs. A page written between the two calls of
    a harvest that reports it leaves no further record (the kernel's rule): `harvest` makes them
    back to back, and an epoch ends with the second.
    """

    def _take(self, slot: Slot, bitmap: npt.NDArray[np.uint64]) -> None:
        super()._take(slot, bitmap)
        self.clear(slot, 0, slot.pages, bitmap)

    def clear(self, slot: Slot, first: int, pages: int, bitmap: npt.NDArray[np.uint64]) -> None:
        """KVM_CLEAR_DIRTY_LOG: clear pages of a slot and protect them anew.

        Of the `pages` pages from page `first` on those whose bit is set in `bitmap`, where bit 0 is
        page `first`. `first` is a multiple of 64, and so is `pages` unless it reaches the slot's
        end; raises UsageError else.
        """
        aligned = not first % 64 and (not pages % 64 or first + pages == slot.pages)
        if not aligned or not 0 <= first <= first + pages <= slot.pages:
            raise UsageError(
                f"pages {first}+{pages} of memory slot {slot.number}: KVM clears multiples of 64 "
                f"pages, or up to the slot's end at {slot.pages}"
            )
        log = kvm.ClearDirtyLog(
            slot=slot.id, num_pages=pages, first_page=first, bitmap=bitmap.ctypes.data
        )
        kvm.call(self._vm, kvm.CLEAR_DIRTY_LOG, log)


class RingLog:
    """KVM_CAP_DIRTY_LOG_RING: each vCPU lists the pages that it dirties, in the order it does.

    Switch it on with `enable_ring` before the first vCPU is made; `entries` is what that was told.
    A vCPU whose ring is full stops running (exit reason 31) until a harvest. A page may stand in a
    ring, or in several, more than once; `harvest` returns it once, `entries` as often as it is
    there. Both raise RecordError if KVM let a vCPU run on with a full ring, which loses pages.
    """

    def __init__(self, vm_fd: int, vcpu_fds: Sequence[int], entries: int, slots: Sequence[Slot]):
        self._vm = vm_fd
        self._slots = {slot.id: slot for slot in slots}
        kind = np.dtype([("flags", np.uint32), ("slot", np.uint32), ("offset", np.uint64)])
        self._rings = []
        for fd in vcpu_fds:
            mapped = mmap.mmap(
                fd, entries * kind.itemsize, offset=kvm.DIRTY_LOG_PAGE_OFFSET * mmap.PAGESIZE
            )
            self._rings.append(np.frombuffer(mapped, kind))
        self._next = [0] * len(vcpu_fds)
        self.harvest_ns = 0

    def start(self) -> None:
        """Forget everything logged so far: the first epoch begins here."""
        self.harvest()
        self.harvest_ns = 0

    def harvest(self) -> Int64s:
        """Return the pages, int64 ascending, written since the harvest before; clear the log."""
        found = self.entries()
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)

    def entries(self) -> list[Int64s]:
        """Return each ring's pages, int64 in the order they were dirtied, and reset the rings."""
        begin = time.monotonic_ns()
        found = [self._collect(index) for index in range(len(self._rings))]
        kvm.call(self._vm, kvm.RESET_DIRTY_RINGS)
        self.harvest_ns = max(self.harvest_ns, time.monotonic_ns() - begin)
        return found

    def _collect(self, index: int) -> Int64s:
        """Take a ring's dirty entries and hand them back to the kernel.

        x86 keeps loads and stores in order, so that an entry whose flag is seen is whole.
        """
        ring, begin = self._rings[index], self._next[index]
        order = (begin + np.arange(len(ring))) % len(ring)
        dirty = ring["flags"][order] & kvm.DIRTY_GFN_DIRTY != 0
        if dirty.all():
            raise RecordError(
                f"the dirty ring of {len(ring)} entries ran over, so that pages are lost: harvest "
                "more often, or take a larger ring"
            )
        taken = order[: int(dirty.argmin())]
        slots, offsets = ring["slot"][taken], ring["offset"][taken].astype(np.int64)
        ring["flags"][taken] = kvm.DIRTY_GFN_RESET
        self._next[index] = (begin + len(taken)) % len(ring)
        pages = np.full(len(taken), -1, np.int64)
        for number, slot in self._slots.items():
            mine = (slots == number) & (offsets < slot.pages)
            pages[mine] = slot.first_page + offsets[mine]
        return pages[pages >= 0]


def enable_manual(vm_fd: int, *, initially_set: bool = True) -> None:
    """Switch the bitmap to manual protection (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).

    With `initially_set` a slot's log begins all ones, and pages are protected only when they are
    cleared for the first time. Raises UsageError where the kernel cannot.
    """
    flags = kvm.MANUAL_PROTECT_ENABLE | (kvm.INITIALLY_SET if initially_set else 0)
    if kvm.call(vm_fd, kvm.CHECK_EXTENSION, kvm.CAP_MANUAL_DIRTY_LOG_PROTECT2) & flags != flags:
        raise UsageError("this kernel's KVM has no manual dirty log protection (Linux 5.7 and on)")
    _enable(vm_fd, kvm.CAP_MANUAL_DIRTY_LOG_PROTECT2, flags, "a dirty ring is on already?")


def enable_ring(vm_fd: int, entries: int) -> None:
    """Give every vCPU made from now on a dirty ring of `entries` entries, a power of two.

    The kernel keeps the last 64 for itself, or 576 where the processor logs pages by itself.
    Raises UsageError where it cannot, or not so many.
    """
    if entries < 1 or entries & (entries - 1):
        raise UsageError(f"a dirty ring of {entries} entries: wanted a power of two")
    size = entries * 16
    most = kvm.call(vm_fd, kvm.CHECK_EXTENSION, kvm.CAP_DIRTY_LOG_RING)
    if not most:
        raise UsageError("this kernel's KVM has no dirty ring (x86, Linux 5.11 and on)")
    if size > most:
        raise UsageError(f"a dirty ring of {entries} entries: this KVM allows {most // 16}")
    why = f"{entries} entries are too few for this processor, or there are vCPUs already?"
    _enable(vm_fd, kvm.CAP_DIRTY_LOG_RING, size, why)


def _enable(vm_fd: int, capability: int, argument: int, guess: str) -> None:
    wanted = kvm.EnableCap(cap=capability, args=(ctypes.c_uint64 * 4)(argument))
    try:
        kvm.call(vm_fd, kvm.ENABLE_CAP, wanted)
    except OSError as error:
        raise UsageError(
            f"KVM does not switch the dirty log's mode ({error.strerror}; {guess})"
        ) from None


def _set_bits(bitmap: npt.NDArray[np.uint64], pages: int) -> Int64s:
    """Return the numbers of the set bits among the first `pages`, int64 ascending."""
    busy = np.flatnonzero(bitmap)
    bits = np.unpackbits(bitmap[busy].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    word, bit = np.nonzero(bits)
    found = busy[word] * 64 + bit
    return found[found < pages].astype(np.int64)
