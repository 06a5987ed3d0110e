"""The guest's memory as a migration sees it: belief and truth, one bit a page each.

Belief (what is pending, what is logged) decides what is sent; truth (what the destination really
has) judges it. Nothing of the truth is read by what decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from replay import kernels as k
from replay.reported import Reported, SomeWords, Words
from tracer.format import Meta
from tracer.rows import Int64s


@dataclass(frozen=True)
class Judgement:
    """What switchover left: counts of pages, and the lost ones (int64, ascending)."""

    needed: int
    freed_later: int
    lost: int
    unwritten: int
    stale_free: int
    old_bytes: int
    near_misses: int
    lost_pages: Int64s


def memory_needed(pages: int, *, manual: bool, hints: bool, saturated: bool) -> int:
    """Return about how many bytes the bitmaps of a replay take."""
    # Of hints: noted, named, skipped, missed, and what reports under way change.
    bits = 9 + manual + saturated + 6 * hints
    return pages * bits // 8


class Memory:
    """The bitmaps of one guest and the operations that a migration does on them.

    manual: log mode `manual` with chunks of `clear_chunk` pages. hints: reports will be handled.
    saturated: hidden writes dirty hot pages without pause. `ctl` is the kernels' control vector
    (see `replay.kernels`).
    """

    def __init__(
        self, meta: Meta, *, manual: bool, clear_chunk: int, hints: bool, saturated: bool
    ) -> None:
        words = (meta.pages + 63) // 64
        nothing = np.empty(0, np.uint64)
        self.state = _lines(words)
        self.written: Words = np.zeros(words, np.uint64)  # writes not yet in `state`
        self._last_word = np.uint64((1 << ((meta.pages - 1) % 64 + 1)) - 1)
        self.ctl = np.zeros(k.CTL_SIZE, np.int64)
        self.hot: Words = np.zeros(words, np.uint64) if saturated else nothing
        self.reported = Reported(meta.blocks, words if hints else 0)
        self.skipped: Words = np.zeros(words, np.uint64) if hints else nothing
        self.missed: Words = np.zeros(words, np.uint64) if hints else nothing
        self.harvested: Words = nothing
        self.marks: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self.chunks: Int64s = np.zeros(1, np.int64)
        self.manual = manual
        self._fill(k.PENDING)
        if manual:
            self.chunks = np.concatenate(
                [
                    np.arange(block.first_page, block.first_page + block.pages, clear_chunk)
                    for block in meta.blocks
                ]
                + [np.array([meta.pages])]
            ).astype(np.int64)
            # KVM_DIRTY_LOG_INITIALLY_SET: all pages count as logged and harvested at the start.
            self.marks = np.ones(len(self.chunks) - 1, np.uint8)
            self.harvested = np.zeros(words, np.uint64)
            self.initially_set()
        self.cleared: Int64s = np.full(len(self.marks), -1, np.int64)

    def initially_set(self) -> None:
        """Set the log to what it is before the guest has run: empty, or in manual mode full."""
        self.settle()
        self.state[:, k.LOG] = 0
        self.state[:, k.WRITTEN] = 0
        if self.manual:
            self._fill(k.LOG)
            self.harvested[:] = self.state[:, k.LOG]

    def settle(self, words: Int64s | None = None) -> None:
        """Bring the writes that kernels put off into `state`, of all words or but some of them."""
        if words is None:
            self.ctl[k.SUPERSEDED] += k.settle_all(self.state, self.written)
        else:
            self.ctl[k.SUPERSEDED] += k.settle_words(self.state, self.written, words)

    def superseded(self) -> int:
        """Return how many good copies writes have outdated up to now."""
        self.settle()
        return int(self.ctl[k.SUPERSEDED])

    def sync(self) -> int:
        """migration_bitmap_sync: return how many pages are pending after it."""
        if self.manual:
            pending, outdated = k.sync_manual(self.state, self.written, self.harvested, self.marks)
        else:
            pending, outdated = k.sync_legacy(self.state, self.written)
        self.ctl[k.SUPERSEDED] += outdated
        self.reported.synced()
        return int(pending)

    def look(self, min_order: int) -> tuple[SomeWords, int]:
        """Let the guest note its free pages; returns as `Reported.look`."""
        return self.reported.look(self.state, min_order)

    def clear_named_chunks(self, now: int) -> None:
        """Clear the log of the marked chunks of which a page is named (manual mode)."""
        if self.manual:
            before = self.marks.copy()
            self.ctl[k.SUPERSEDED] += k.clear_named_chunks(
                self.state, self.written, self.harvested, self.marks, self.chunks,
                self.reported.named, self.reported.fresh,
            )  # fmt: skip
            self.cleared[before != self.marks] = now

    def skip(self) -> tuple[SomeWords, int]:
        """Clear the pending bits of the pages that are named; return them and their number."""
        words = self.reported.news()
        bits = np.empty(len(words), np.uint64)
        found = k.skip(self.state, self.reported.named, words, self.skipped, bits)
        some = np.flatnonzero(bits)
        return SomeWords(words[some], bits[some]), int(found)

    def skip_run(self, first: int, count: int) -> int:
        """Clear the pending bits of a run of pages; return how many were set."""
        return int(k.skip_run(self.state, self.skipped, first, count))

    def find_missed(self, skipped: SomeWords) -> tuple[SomeWords, int]:
        """Return the pages just skipped that are lost as things stand, and their number."""
        missed = SomeWords(skipped.numbers, np.zeros_like(skipped.bits))
        found, outdated = k.find_missed(
            self.state, self.written, skipped.numbers, skipped.bits, missed.bits
        )
        self.ctl[k.SUPERSEDED] += outdated
        self.missed[missed.numbers] |= missed.bits
        return missed, int(found)

    def touch(self, words: Int64s | None = None) -> None:
        """Let the hidden writes of the saturated scenario catch up: every hot page is written.

        Those of all words, or of some.
        """
        if len(self.hot) and words is None:
            self.ctl[k.SUPERSEDED] += k.touch(self.state, self.hot)
        elif len(self.hot):
            self.ctl[k.SUPERSEDED] += k.touch_words(self.state, self.hot, words)

    def judge(self) -> Judgement:
        """Judge every page at switchover, after all that was pending has been copied.

        Raises AssertionError if a page is not synced for a reason the model does not know: a bug
        of this replayer.
        """
        lost = np.zeros(len(self.state), np.uint64)
        counts = np.zeros(8, np.int64)
        self.settle()
        k.final_counts(self.state, self.skipped, self.missed, self._last_word, lost, counts)
        needed, freed_later, unsafe, unwritten, stale_free, old_bytes, near, bugs = map(int, counts)
        if bugs:
            raise AssertionError(
                f"{bugs} pages are not synced at switchover, neither skipped nor lost: "
                "a bug of the replayer, please report it with the trace and the command"
            )
        pages = bit_numbers(lost)
        return Judgement(needed, freed_later, unsafe, unwritten, stale_free, old_bytes, near, pages)

    def _fill(self, column: int) -> None:
        self.state[:, column] = np.uint64(0xFFFFFFFFFFFFFFFF)
        self.state[-1, column] = self._last_word


def _lines(words: int) -> npt.NDArray[np.uint64]:
    """Return zeros, uint64 (words, 8), each row a cache line."""
    room = np.zeros(words * 8 + 7, np.uint64)
    ahead = -room.ctypes.data % 64 // 8
    return room[ahead : ahead + words * 8].reshape(words, 8)


def bit_numbers(words: Words) -> Int64s:
    """Return the numbers of the set bits, ascending, without a byte for every page."""
    at = np.flatnonzero(words)
    if not len(at):
        return np.empty(0, np.int64)
    bits = np.unpackbits(words[at].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    row, bit = np.nonzero(bits)
    return (at[row] * 64 + bit).astype(np.int64)
