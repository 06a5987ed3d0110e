"""What free page reports name, kept as changes.

A report names all that is free, a quarter of a terabyte perhaps, and may come ten times a second;
what it says that the one before did not is little. So the guest notes only what has moved since it
looked last, and the host, who keeps what it was told, looks only at words with news: in all others
the pages that are named are not pending, for it has seen to them since the last sync.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from replay import kernels as k
from tracer.format import Block
from tracer.rows import Flags, Int64s, Rows

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class SomeWords:
    """Some words of a bitmap: their numbers (int64, ascending) and their bits (uint64)."""

    numbers: Int64s
    bits: Words

    def of(self, pages: Int64s) -> Flags:
        """Return which of the pages (int64) have their bit set."""
        found = np.zeros(len(pages), np.bool_)
        if len(self.numbers):
            at = np.minimum(np.searchsorted(self.numbers, pages >> 6), len(self.numbers) - 1)
            found = (self.numbers[at] == pages >> 6) & has(self.bits[at], pages)
        return found


class Reported:
    """The reports of one guest, each known by what it changes.

    moved, fresh: bitmaps of words (uint64, a bit for each word of 64 pages). moved: the free list
    changed there since the last report. fresh: a named page there may be pending. noted: bitmap of
    the pages that the last report names; named: of those that the report does which is being
    handled.
    """

    def __init__(self, blocks: tuple[Block, ...], words: int):
        self._blocks = blocks
        self.moved: Words = np.zeros((words + 63) // 64, np.uint64)
        self.fresh: Words = np.zeros_like(self.moved)
        self._words = self.moved.copy()
        k.mark(self._words, np.arange(words))
        self.noted: Words = np.zeros(words, np.uint64)
        self.named: Words = np.zeros(words, np.uint64)
        self._pages = 0
        # Reports in the order of their snapshots, each with whether it is done with; `named` is
        # what the last one before them named.
        self._waiting: dict[SomeWords, bool] = {}
        self._before: list[SomeWords] = []

    def synced(self) -> None:
        """After a sync any page may be pending, and any chunk of a log may have to be cleared."""
        self.fresh[:] = self._words

    def news(self) -> Int64s:
        """Return the fresh words (ascending), and take it that they are seen to."""
        return _taken(self.fresh)

    def look(self, state: Words, min_order: int) -> tuple[SomeWords, int]:
        """Let the guest note its free pages, of whole blocks of 2^min_order only.

        Returns what that changes, and how many pages the report names.
        """
        words = _taken(self.moved)
        if min_order == 0:
            self._pages += int(k.note_words(state, self.noted, words))
        else:
            touched = np.zeros_like(self.moved)
            for block in self._blocks:
                end = block.first_page + block.pages
                among = slice(*np.searchsorted(words, (block.first_page >> 6, (end + 63) >> 6)))
                self._pages += int(
                    k.note_blocks(
                        state, self.noted, words[among], min_order, block.first_page, end, touched
                    )
                )
            words = _taken(touched)
        changes = SomeWords(words, self.noted[words])
        self._waiting[changes] = False
        return changes, self._pages

    def open(self, changes: SomeWords) -> None:
        """Make `named` what a report names, until it is closed."""
        for earlier in self._waiting:
            self._before.append(SomeWords(earlier.numbers, self.named[earlier.numbers]))
            self._tell(earlier)
            if earlier is changes:
                return

    def leave_out(self, rows: Rows) -> int:
        """Clear in `named`, until it is closed, what free-list rows take; return how many pages."""
        *undo, gone = k.take_away(self.named, rows.page, rows.count, rows.free)
        self._before.append(SomeWords(*undo))
        return int(gone)

    def close(self, changes: SomeWords) -> None:
        """A report is done with, opened or not."""
        while self._before:
            before = self._before.pop()
            k.restore(self.named, before.numbers, before.bits)
            k.mark(self.fresh, before.numbers)  # seen to as the report had it, not as it is now
        self._waiting[changes] = True
        while self._waiting:
            oldest, done = next(iter(self._waiting.items()))
            if not done:
                break
            self._tell(oldest)
            del self._waiting[oldest]

    def _tell(self, changes: SomeWords) -> None:
        self.named[changes.numbers] = changes.bits
        k.mark(self.fresh, changes.numbers)


def has(words: Words, pages: Int64s) -> Flags:
    """Return which of the pages have their bit set in their words (uint64, one a page)."""
    flags: Flags = (words >> (pages & 63).astype(np.uint64) & np.uint64(1)) != 0
    return flags


def _taken(bits: Words) -> Int64s:
    """Return the numbers of the set bits, ascending, and clear them."""
    # Found in two steps: a kernel that allocates takes numba a while longer to load.
    found = np.empty(k.ones(bits), np.int64)
    k.find_ones(bits, found)
    bits[:] = 0
    return found
