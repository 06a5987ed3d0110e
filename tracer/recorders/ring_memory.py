"""The dirty rings of a QEMU's vCPUs, read in its memory: the slot that its log leaves out.

KVM shares a ring with QEMU as a mapping of the vCPU's file, 64 pages into it
(KVM_DIRTY_LOG_PAGE_OFFSET), which who may read QEMU's memory can read too. An entry is three fields
(struct kvm_dirty_gfn): flags, slot with the address space above 16 bits, page in the slot. QEMU
marks it collected, logs its number, and has KVM reset it; slot and page stay in place until the
ring has come round.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tracer.recorders.kvm_abi import DIRTY_GFN_DIRTY, DIRTY_LOG_PAGE_OFFSET
from tracer.recorders.mappings import PAGE, mappings
from tracer.rows import Int64s

KIND = np.dtype([("flags", "<u4"), ("slot", "<u4"), ("offset", "<u8")])
_VCPU = re.compile(r"anon_inode:kvm-vcpu:(\d+)")
_NONE: Int64s = np.empty(0, np.int64)


class RingMemory:
    """The rings of process `pid`; close it after use. Raises OSError where it may not be read."""

    def __init__(self, pid: int):
        self._pid = pid
        self._file = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        self._rings: dict[int, tuple[int, int, Ring]] = {}

    def close(self) -> None:
        """Let go of the process' memory."""
        os.close(self._file)

    def find(self, cpus: Sequence[int]) -> bool:
        """Look where the rings of these vCPUs are now; return whether there is one for each.

        cpus: QEMU's own numbers, ascending. KVM's, which the mappings have, ascend with them.
        """
        found = {
            int(name[1]): mapping
            for mapping in mappings(self._pid)
            if (name := _VCPU.match(mapping.name))
            and mapping.offset == DIRTY_LOG_PAGE_OFFSET * PAGE
        }
        if len(found) != len(cpus) or not found:
            self._rings = {}
            return False
        for cpu, number in zip(cpus, sorted(found), strict=True):
            place = (found[number].start, found[number].size)
            if self._rings.get(cpu, (0, 0))[:2] != place:
                self._rings[cpu] = (*place, Ring(found[number].size // KIND.itemsize))
        return True

    def read(self) -> dict[int, npt.NDArray[np.void]]:
        """Return what is in each vCPU's ring, `KIND`; raises OSError where the process has gone."""
        return {
            cpu: np.frombuffer(os.pread(self._file, size, start), KIND)
            for cpu, (start, size, _) in self._rings.items()
        }

    def ring(self, cpu: int) -> Ring | None:
        """Return what is known of a vCPU's ring."""
        found = self._rings.get(cpu)
        return found and found[2]


class Ring:
    """What was seen in one ring: by the entry's number since the vCPU's first, its slot and page.

    Entry f stands at f modulo the ring's size, a power of two.
    """

    def __init__(self, entries: int):
        self.size = entries
        self._place = np.arange(entries)
        self._last = np.full(entries, -1, np.int64)
        self._before = b""
        self._seen: list[npt.NDArray[np.int64]] = []

    def look(self, entries: npt.NDArray[np.void], low: int, high: int) -> None:
        """Take a copy of the ring, made after entry `low - 1` was logged and before `high` was.

        Entries that were collected while the copy was made are left for the next look.
        """
        if len(entries) != self.size or (raw := entries.tobytes()) == self._before:
            return
        self._before = raw if low == high else b""
        size, place = self.size, self._place
        dirty = entries["flags"] == DIRTY_GFN_DIRTY
        # Not collected yet, so the next with this place from `low` on; had that been logged, it
        # could be the one after.
        ahead = low + (place - low) % size
        # Collected, perhaps reset: the last with this place. The next to be logged may be collected
        # already, and KVM fills in the place behind the last dirty one before it sets the flag.
        behind = high - 1 - (high - 1 - place) % size
        filled = np.roll(dirty, 1) | (place == high % size)
        take = dirty & (ahead >= high)
        reset = ~dirty & ~filled & (behind < low) & (behind >= 0)
        number = np.where(take, ahead, behind)
        new = (take | reset) & (number > self._last)
        at = np.flatnonzero(new)
        self._last[at] = number[at]
        slot, offset = entries["slot"][at].astype(np.int64), entries["offset"][at].astype(np.int64)
        self._seen.append(np.stack([number[at], slot, offset]))

    def take(self, end: int) -> tuple[Int64s, Int64s, Int64s]:
        """Return, and forget, the entries below `end`: number, ascending, slot and page."""
        seen = np.concatenate([*self._seen, np.empty((3, 0), np.int64)], axis=1)
        old = seen[0] < end
        self._seen = [seen[:, ~old]]
        number, slot, offset = seen[:, old][:, np.argsort(seen[0, old], kind="stable")]
        return number, slot, offset
