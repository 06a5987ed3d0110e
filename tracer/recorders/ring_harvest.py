"""A round's pages: the ring's entries that QEMU logged, with the slots that its memory shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracer.readers.qemu_slots import Slot
from tracer.recorders.ring_log import Logged, RingLog
from tracer.recorders.ring_memory import Ring, RingMemory
from tracer.rows import Int64s

_NONE: Int64s = np.empty(0, np.int64)


@dataclass
class Counts:
    """Entries of the rings over all rounds.

    several: of which nothing tells in which of several slots they lie, taken in all; nowhere: in
    no slot, or in one of no block; unlogged: those that QEMU did not log, but its memory showed;
    lost: those that neither shows.
    """

    entries: int = 0
    several: int = 0
    nowhere: int = 0
    unlogged: int = 0
    lost: int = 0

    def notes(self) -> list[str]:
        """Return what they leave open."""
        notes = []
        if self.several:
            notes.append(
                f"of {self.several:,} of {self.entries:,} ring entries nothing tells the memory "
                "slot: they are taken as written in every slot that has such a page"
            )
        if self.nowhere:
            notes.append(
                f"{self.nowhere:,} of {self.entries:,} ring entries are in no block of RAM that "
                "was there at the start: left out"
            )
        if self.unlogged:
            notes.append(
                f"{self.unlogged:,} of {self.entries:,} ring entries are not in QEMU's log, but "
                "were seen in its memory"
            )
        if self.lost:
            notes.append(
                f"PAGES ARE MISSING: {self.lost:,} ring entries are neither in QEMU's log (is its "
                "disk full?) nor were they seen in its memory"
            )
        return notes


class Harvest:
    """The entries of all rounds; `look` often enough that no ring comes round between two looks.

    memory: None where QEMU's memory cannot be read: then the log alone counts.
    """

    def __init__(self, log: RingLog, memory: RingMemory | None):
        self._log, self._memory = log, memory
        self._next: dict[int, int] = {}
        self.counts = Counts()

    def look(self) -> None:
        """Read what was logged since, and what the rings hold now."""
        self._log.read()
        if self._memory is None:
            return
        low = {cpu: logged.next for cpu, logged in self._log.vcpus.items()}
        copies = self._memory.read()
        self._log.read()
        for cpu, logged in self._log.vcpus.items():
            ring = self._memory.ring(cpu)
            if ring is not None and cpu in copies and logged.first is not None:
                ring.look(copies[cpu], low.get(cpu, logged.first), logged.next)

    def pages(self, *, pending: bool = False) -> Int64s:
        """Return the pages of the entries that were logged since, int64 ascending.

        pending: also of those that wait in the rings.
        """
        parts = [
            self._of(cpu, logged, self._memory.ring(cpu) if self._memory else None, pending)
            for cpu, logged in self._log.vcpus.items()
        ]
        self._log.forget()
        return np.unique(np.concatenate([*parts, _NONE]))

    def _of(self, cpu: int, logged: Logged, ring: Ring | None, pending: bool) -> Int64s:
        number, offset, table = logged.take()
        # What was logged before the slots were told is from before the recording.
        early = np.array([not slots for slots in self._log.tables])[table]
        start = self._next.get(cpu, logged.first or 0)
        if np.any(early):
            start = max(start, int(number[early][-1]) + 1)
            number, offset, table = number[~early], offset[~early], table[~early]
        seen, slot, place = (_NONE,) * 3
        if ring is not None:
            seen, slot, place = ring.take(logged.next + (ring.size if pending else 0))
            mine = seen >= start
            seen, slot, place = seen[mine], slot[mine], place[mine]
        at = np.searchsorted(seen, number)
        told = np.zeros(len(number), np.bool_)
        inside = np.flatnonzero(at < len(seen))
        told[inside] = (seen[at[inside]] == number[inside]) & (place[at[inside]] == offset[inside])
        other = np.flatnonzero(~np.isin(seen, number))
        end = max(logged.next, int(seen[-1]) + 1 if len(seen) else 0)
        self._count(start, end, len(number), seen[other], logged.next)
        self._next[cpu] = end
        last = len(self._log.tables) - 1
        return np.concatenate(
            [
                self._sure(slot[at[told]], offset[told], table[told]),
                self._sure(slot[other], place[other], np.full(len(other), last)),
                self._any(offset[~told], table[~told]),
            ]
        )

    def _count(self, start: int, end: int, logged: int, other: Int64s, after: int) -> None:
        self.counts.entries += logged + len(other)
        self.counts.unlogged += int(np.count_nonzero(other < after))
        self.counts.lost += max(end - start, 0) - logged - len(other)

    def _sure(self, slot: Int64s, offset: Int64s, table: Int64s) -> Int64s:
        """Return the pages of entries whose slots are known."""
        page = np.full(len(slot), -1, np.int64)
        for index in np.unique(table).tolist():
            for number, place in self._log.tables[index].items():
                mine = (table == index) & (slot == number) & (offset < place.pages)
                page[mine] = place.first + offset[mine] if place.first >= 0 else -1
        self.counts.nowhere += int(np.count_nonzero(page < 0))
        return page[page >= 0]

    def _any(self, offset: Int64s, table: Int64s) -> Int64s:
        """Return the pages in every slot that an entry can mean."""
        pages = []
        for index in np.unique(table).tolist():
            mine = offset[table == index]
            slots: set[Slot] = {
                Slot("", place.first, place.pages)
                for place in self._log.tables[index].values()
                if place.first >= 0
            }
            fits = np.zeros(len(mine), np.int64)
            for place in slots:
                inside = mine < place.pages
                fits += inside
                pages.append(place.first + mine[inside])
            self.counts.several += int(np.count_nonzero(fits > 1))
            self.counts.nowhere += int(np.count_nonzero(fits == 0))
        return np.concatenate([*pages, _NONE])
