"""Where guest page frames lie among a trace's dense pages.

A map is a list of extents, each a run of frames; the dense pages are the extents' pages one after
the other. Extents of one name that follow each other are one RAM block (a PC's RAM has a hole).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tracer.errors import TraceError, UsageError
from tracer.format import MAX_PAGES, Block
from tracer.rows import Int64s

_EXTENT = re.compile(
    r"(?P<name>.+):(?P<first>0[xX][0-9a-fA-F]{1,15}|\d{1,15}):"
    r"(?P<pages>0[xX][0-9a-fA-F]{1,12}|\d{1,12})(?P<unit>[KMGT]iB)?"
)
_UNITS = {unit: 1 << 10 * power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), 1)}
_GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True)
class Extent:
    """`pages` pages of RAM block `name` from guest frame `first` on."""

    name: str
    first: int
    pages: int


def parse_extent(text: str, option: str, page_size: int) -> Extent:
    """Return the extent that `NAME:FIRST:PAGES` says; `option` is for the error.

    FIRST is a guest frame, PAGES a number or a size (3GiB); both decimal or 0x….
    """
    found = _EXTENT.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{option}: {text!r} is no NAME:FIRST_FRAME:PAGES; write it like ram:0:3GiB, "
            "ram:0x100000:1GiB or rom:0xfffc0:64"
        )
    first, pages = int(found["first"], 0), int(found["pages"], 0)
    if found["unit"]:
        size = pages * _UNITS[found["unit"]]
        pages = size // page_size
        if size % page_size:
            raise UsageError(f"{option}: {text!r} is no whole number of {page_size}-byte pages")
    if not 1 <= pages <= MAX_PAGES or first > MAX_PAGES:
        raise UsageError(f"{option}: {text!r} is empty, or beyond {MAX_PAGES} pages")
    return Extent(found["name"], first, pages)


class RamMap:
    """Maps guest frames to the dense pages of `extents`, in their order.

    Raises UsageError where extents overlap.
    """

    def __init__(self, extents: Sequence[Extent]):
        self.extents = tuple(extents)
        base = np.cumsum([0, *(extent.pages for extent in extents)], dtype=np.int64)
        self.pages = int(base[-1])
        first = np.array([extent.first for extent in extents], np.int64)
        order = np.argsort(first, kind="stable")
        self._first = first[order]
        self._end = self._first + np.array([e.pages for e in extents], np.int64)[order]
        self._base = base[:-1][order]
        overlap = np.flatnonzero(self._first[1:] < self._end[:-1])
        if len(overlap):
            one, other = (extents[order[i]] for i in (overlap[0], overlap[0] + 1))
            raise UsageError(
                f"{one.name} from frame {one.first:#x} and {other.name} from {other.first:#x} "
                "overlap; a frame is in one block"
            )

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The RAM blocks: neighbours of one name are one block."""
        blocks: list[Block] = []
        page = 0
        for extent in self.extents:
            if blocks and blocks[-1].name == extent.name:
                last = blocks.pop()
                blocks.append(Block(last.name, last.first_page, last.pages + extent.pages))
            else:
                blocks.append(Block(extent.name, page, extent.pages))
            page += extent.pages
        return tuple(blocks)

    def page_of(self, frame: Int64s, count: Int64s | int = 1) -> Int64s:
        """Return the dense pages of runs of `count` frames, -1 for runs outside one extent."""
        at = np.searchsorted(self._first, frame, side="right") - 1
        known = at >= 0
        at = np.maximum(at, 0)
        known &= (frame >= 0) & (frame + count <= self._end[at])
        return np.where(known, self._base[at] + frame - self._first[at], -1)

    def pieces(self, frame: Int64s, count: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Return pages (-1 outside), counts and frames of runs, cut where extents begin and end."""
        cuts = np.unique(np.concatenate((self._first, self._end)))
        before = np.searchsorted(cuts, frame, side="right")
        number = np.searchsorted(cuts, frame + count, side="left") - before + 1
        if number.max(initial=1) > 1:
            run = np.repeat(np.arange(len(frame)), number)
            # Each piece but a run's first begins at a cut, each but its last ends at one.
            turn = np.arange(len(run)) - np.repeat(np.cumsum(number) - number, number)
            edge = np.append(cuts, 0)[np.minimum(before[run] + turn, len(cuts))]
            start = np.where(turn > 0, np.append(0, cuts)[before[run] + turn], frame[run])
            end = np.where(turn < number[run] - 1, edge, (frame + count)[run])
            frame, count = start, end - start
        return self.page_of(frame, count), count, frame

    def need(self, frame: Int64s, count: Int64s | int, line: Int64s, where: str) -> Int64s:
        """Return `page_of`; raises TraceError with the line of a run that is outside."""
        page = self.page_of(frame, count)
        bad = np.flatnonzero(page < 0)
        if len(bad):
            runs = np.broadcast_to(np.asarray(count), frame.shape)
            raise TraceError(
                f"{where}, line {int(line[bad[0]])}: frame {int(frame[bad[0]]):#x}"
                f"+{int(runs[bad[0]])} lies in no block; pass --block NAME:FIRST_FRAME:PAGES "
                "for all of the guest's RAM"
            )
        return page


def whole_mib(pages: int, page_size: int) -> int:
    """Return a number of pages rounded up to 1 MiB."""
    step = max(_MIB // page_size, 1)
    return -(-max(pages, 1) // step) * step


class FrameRange:
    """Remembers which frames were seen, as far as guessing a guest's RAM needs it."""

    def __init__(self, page_size: int):
        self._page_size = page_size
        self._marks = [2 * _GIB // page_size, 3 * _GIB // page_size, 4 * _GIB // page_size]
        self._seen = [False, False]
        self._end = 0

    def add(self, frame: Int64s, count: Int64s | int = 1) -> None:
        """Take runs of frames that were seen."""
        if not len(frame):
            return
        end = frame + count
        self._end = max(self._end, int(end.max()))
        for i, (low, high) in enumerate(zip(self._marks, self._marks[1:], strict=False)):
            self._seen[i] = self._seen[i] or bool(np.any((frame < high) & (end > low)))

    def guess(self, notes: list[str], name: str = "ram") -> list[Extent]:
        """Return the RAM that a guest with these frames has, and say in `notes` how it was found.

        RAM goes from frame 0 to the highest seen, rounded up to 1 MiB. Where that is above 4 GiB,
        the part below ends at 2 GiB if nothing was seen between 2 and 4 GiB, at 3 GiB if nothing
        was seen between 3 and 4 GiB (QEMU's q35, and its pc and Firecracker), else at 4 GiB.
        """
        low, middle, high = self._marks
        end = whole_mib(self._end, self._page_size)
        if end > MAX_PAGES:
            raise TraceError(f"frame {self._end - 1:#x} was seen; no guest has that much RAM")
        text = f"RAM taken as frames 0 to {end - 1:#x}, the highest seen rounded up to 1 MiB"
        if end <= high:
            notes.append(f"{text} (--block says otherwise)")
            return [Extent(name, 0, end)]
        below = high if self._seen[1] else middle if self._seen[0] else low
        if below < high:
            text += f", without the hole from {below:#x} to {high - 1:#x} in which none was seen"
        notes.append(f"{text} (--block says otherwise)")
        return [Extent(name, 0, below), Extent(name, high, end - high)]


def slots_of(texts: Iterable[str], page_size: int) -> list[Extent]:
    """Parse the user's slots of KVM's memory, `ID:FIRST_FRAME:PAGES`."""
    slots = extents_of(texts, "--slot", page_size)
    for slot in slots:
        if not slot.name.isdecimal():
            raise UsageError(f"--slot: {slot.name!r} is no slot's number; as in 0:0x100000:1GiB")
    if len({slot.name for slot in slots}) < len(slots):
        raise UsageError("--slot: a slot is given twice")
    return slots


def laid_out(pages: Mapping[int, int]) -> list[Extent]:
    """Return slots, by their numbers, of so many pages, one behind the other from frame 0 on."""
    slots, at = [], 0
    for number, count in sorted(pages.items()):
        slots.append(Extent(str(number), at, count))
        at += count
    if at > MAX_PAGES:
        raise TraceError(f"slots of {at} pages were seen; no guest has that much RAM")
    return slots


def ram_of(slots: Sequence[Extent], blocks: Sequence[Extent]) -> RamMap:
    """Return the map of the frames in slots: the blocks, or else a block for each slot."""
    return RamMap(blocks or [Extent(f"slot {s.name}", s.first, s.pages) for s in slots])


def extents_of(texts: Iterable[str], option: str, page_size: int) -> list[Extent]:
    """Parse several `NAME:FIRST:PAGES`."""
    return [parse_extent(text, option, page_size) for text in texts]
