"""Entries of a dirty ring in a QEMU log as pages: an entry says where in its slot, not in which.

An offset that several slots have is told by what is sent: a page that the ring harvested is pending
after the next sync, and sent before the one after that, or soon: QEMU syncs while some are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.errors import TraceError
from tracer.readers.blocks import Layout
from tracer.readers.qemu_lines import (
    EVENT,
    REAP,
    RING_PAGE,
    SAVE,
    SLOT,
    SYNC_END,
    WRITE,
)
from tracer.readers.qemu_log import Events, QemuLog
from tracer.readers.qemu_slots import Slot, SlotTable, given_slots, pc_slots
from tracer.rows import Flags, Int64s

_SHIFT = 12
#: For so many syncs a harvested page's copy is looked for.
_AHEAD = 16
_NOWHERE: Int64s = np.empty(0, np.int64)


@dataclass
class RingCounts:
    """Offsets that the ring named, each once a reap.

    several: in several slots; told: of these, those of which what was sent says whose they are;
    nowhere: in no slot, or in one that is in no block of the trace.
    """

    offsets: int = 0
    several: int = 0
    told: int = 0
    nowhere: int = 0


class RingPages:
    """Replaces the ring's entries up to a reap by one write a page, at the reap.

    An entry says only that its page was written since the last reap; the pages of one epoch are
    written once each, in ascending order, at its end. Entries after the last reap are left out:
    their epoch did not end. A write's `a` is the byte of its dense page.
    """

    def __init__(
        self,
        log: QemuLog,
        layout: Layout,
        table: SlotTable,
        slots: Sequence[Slot] | None = None,
        *,
        assumed: bool = False,
    ):
        self._log, self._table = log, table
        self._slots = list(slots or ())
        #: What the log says of slots does not count where they are given.
        self._fixed, self._assumed = slots is not None, assumed
        self._sent = _Sent(log, layout)
        self._syncs = 0
        self._offsets: list[Int64s] = []
        self._parts: list[Int64s] = []
        self.counts = RingCounts()

    def __iter__(self) -> Iterator[Events]:
        for events in self._log.chunks():
            yield np.concatenate([*self._fold(events), np.empty(0, EVENT)])

    def _fold(self, events: Events) -> Iterator[Events]:
        start = 0
        stops = np.isin(events["kind"], (REAP, SLOT, SYNC_END))
        for at in np.flatnonzero(stops).tolist():
            yield self._take(events[start:at])
            kind, start = int(events["kind"][at]), at + 1
            if kind == SYNC_END:
                self._syncs += 1
            else:
                self._place()
            if kind == REAP:
                yield self._writes(int(events["t"][at]))
            if kind != SLOT:
                yield events[at : at + 1]
            elif not self._fixed:
                self._slots = self._table.change(self._log.slots[int(events["a"][at])])
        yield self._take(events[start:])

    def _take(self, events: Events) -> Events:
        ring = events["kind"] == RING_PAGE
        self._offsets.append(np.unique(events["a"][ring]))
        rest: Events = events[~ring]
        return rest

    def _writes(self, t: int) -> Events:
        pages = np.unique(np.concatenate([*self._parts, _NOWHERE]))
        self._parts = []
        writes = np.zeros(len(pages), EVENT)
        writes["t"], writes["kind"] = t, WRITE
        # One byte at the page's start stands for the page.
        writes["a"], writes["b"] = pages << _SHIFT, 1
        return writes

    def _place(self) -> None:
        """Find the pages of the offsets that wait, among the slots as they are now."""
        offsets = np.unique(np.concatenate([*self._offsets, _NOWHERE]))
        self._offsets = []
        if not len(offsets):
            return
        places = []
        for slot in self._slots:
            index = np.flatnonzero(offsets < slot.pages)
            page = np.full(len(index), -1) if slot.first < 0 else slot.first + offsets[index]
            places.append((index, page))
        index = np.concatenate([index for index, _ in places] or [_NOWHERE])
        page = np.concatenate([page for _, page in places] or [_NOWHERE])
        several = np.bincount(index, minlength=len(offsets)) > 1
        keep = page >= 0
        if np.any(several):
            keep &= ~several[index] | self._whose(index, page, several)
        found = np.zeros(len(offsets), np.bool_)
        found[index[keep]] = True
        self._parts.append(page[keep])
        self.counts.offsets += len(offsets)
        self.counts.several += int(np.count_nonzero(several))
        self.counts.nowhere += int(np.count_nonzero(~found))

    def _whose(self, index: Int64s, page: Int64s, several: Flags) -> Flags:
        """Return which of the places that an offset can mean are taken: those sent, else all."""
        chosen = np.zeros(len(page), np.bool_)
        open_ = several.copy()
        for sync in range(self._syncs + 1, self._syncs + 1 + _AHEAD):
            if not np.any(open_):
                break
            sent = self._sent.after(sync, page) & open_[index]
            chosen |= sent
            open_[index[sent]] = False
        self.counts.told += int(np.count_nonzero(several & ~open_))
        return chosen | open_[index]

    def notes(self) -> list[str]:
        """Return, after all, what to say of the slots, and which they were."""
        counts, slots = self.counts, ", ".join(self.slots)
        if self._assumed:
            how = (
                f"the log names no memory slot (kvm_set_user_memory): those of a PC, {slots}, are "
            )
            how += "assumed for the dirty ring's pages (--slot says otherwise)"
        else:
            whose = "are given" if self._fixed else "the log names"
            how = f"the dirty ring's pages lie in the memory slots that {whose}: {slots}"
        notes = [f"{how}; they were written at some time since the reap before"]
        if counts.several:
            rest = counts.several - counts.told
            notes.append(
                f"{counts.several} of {counts.offsets} harvested offsets are in several slots, and "
                f"an entry does not say which: {counts.told} are those of the pages that were sent "
                f"next, {rest} that none was sent of are taken as written in every slot"
            )
        if counts.nowhere:
            notes.append(
                f"{counts.nowhere} of {counts.offsets} harvested offsets are in no slot, or in one "
                "of which no page was sent: left out"
            )
        return notes

    @property
    def slots(self) -> list[str]:
        """The slots as `ID:FIRST_PAGE:PAGES`; those of no known block by ID alone."""
        return [str(slot) for slot in self._slots] if self._fixed else self._table.seen


def ring_pages(
    log: QemuLog, layout: Layout, low: int, machine: str, slots: Sequence[str]
) -> RingPages:
    """Return a log's ring pages, in the slots that the user names, the log names, or a PC has.

    low: bytes of RAM below 4 GiB. Raises UsageError for slots that do not fit, TraceError where
    nothing says where the slots are.
    """
    table = SlotTable(layout, log.hosts, low)
    if slots:
        return RingPages(log, layout, table, given_slots(slots, layout))
    if log.slots:
        return RingPages(log, layout, table)
    assumed = pc_slots(layout, low, machine)
    if assumed is None:
        raise TraceError(
            f"{log.path}: says of the dirty ring's pages where they lie in KVM's memory slots, and "
            "not where these are; record with kvm_set_user_memory too, or pass --slot "
            f"ID:FIRST_PAGE:PAGES, pages of block {layout.blocks[0].name}"
        )
    return RingPages(log, layout, table, assumed, assumed=True)


class _Sent:
    """Which pages were sent between one sync and the next, some syncs ahead of who asks."""

    def __init__(self, log: QemuLog, layout: Layout):
        self._chunks = log.chunks()
        self._base = np.array([*layout.base, 0], np.int64)
        self._pages = layout.pages
        self._syncs = 0
        self._rest: Events = np.empty(0, EVENT)
        self._now = np.zeros(self._pages, np.bool_)
        #: By number of the sync before: a bit a page.
        self._bits: dict[int, npt.NDArray[np.uint8]] = {}

    def after(self, sync: int, page: Int64s) -> Flags:
        """Return whether pages (-1 for none) were sent after sync number `sync`, before the next.

        Numbers from 1; one that is `_AHEAD` below one that was asked for is forgotten.
        """
        while self._syncs <= sync and self._more():
            pass
        bits = self._bits.get(sync)
        if bits is None:
            return np.zeros(len(page), np.bool_)
        found: Flags = (page >= 0) & (bits[page >> 3] >> (~page & 7).astype(np.uint8) & 1 > 0)
        return found

    def _more(self) -> bool:
        """Read on, up to the next sync at most; return whether there was more."""
        if not len(self._rest):
            self._rest = next(self._chunks, self._rest)
        ends = np.flatnonzero(self._rest["kind"] == SYNC_END)
        over = not len(self._rest)
        stop = int(ends[0]) if len(ends) else len(self._rest)
        part, self._rest = self._rest[:stop], self._rest[stop + 1 :]
        saves = part[part["kind"] == SAVE]
        page = (saves["a"] >> _SHIFT) + self._base[saves["b"]]
        self._now[page[page < self._pages]] = True
        if len(ends) or over:
            self._bits[self._syncs] = np.packbits(self._now)
            self._bits.pop(self._syncs - 2 * _AHEAD, None)
            self._now[:] = False
            self._syncs += 1
        return not over
