"""Which pages were zero, as told by the pages that a migration passed over without sending them.

QEMU logs `ram_save_page` for a page with content and nothing for a page of zeros. So the cursor's
way is walked again: the pending bitmap follows from the dirty rows and the syncs, and a page that
was pending and was passed without a row went out as zeros (MODEL.md, section 3; QEMU's
find_dirty_block and migration_bitmap_sync).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from tracer.readers.qemu_lines import CLEAR, PENDING, SAVE, SYNC_END, SYNC_START, WRITE
from tracer.rows import Int64s

Flags = npt.NDArray[np.uint8]

#: What a page held at the start: not told yet, zeros, something.
UNTOLD, ZERO, DATA = 0, 1, 2
_NEVER = -1
_WRITTEN, _BEFORE, _COPIED = range(3)
#: The log's times are whole microseconds.
_QUANTUM_NS = 1000
#: Places in the kernel's counters.
_CURSOR, _FLOOR, _SURE, _HARVESTED, _PENDING, _ZEROS, _STRAY, _TURNED, _SILENT, _CLOSE = range(10)


@dataclass(frozen=True)
class Contents:
    """What the passes told. Rows: int64 ns and page, ascending; pages: uint8 by page.

    start: UNTOLD, ZERO or DATA. zero_copies: pages passed as zeros. stray: pages sent though no row
    had dirtied them. turned: pages that had changed between zeros and content by a write that an
    earlier row hides. silent: pages passed as zeros that had content and no row since. close: zero
    pages passed so near to a write that their order is a guess.
    """

    zero_t: Int64s
    zero_page: Int64s
    start: Flags
    zero_copies: int
    stray: int
    turned: int
    silent: int
    close: int


class ContentTracker:
    """Follows belief and contents of `pages` pages through a log's events."""

    def __init__(self, pages: int):
        self._pages = pages
        self._pend = np.ones(pages, np.uint8)
        self._log = np.zeros(pages, np.uint8)
        self._harvest = np.zeros(pages, np.uint8)
        self._zero = np.zeros(pages, np.uint8)
        self._start = np.zeros(pages, np.uint8)
        # Times of each page's last write, of the one before, and of its last copy with content.
        self._last = np.full((3, pages), _NEVER, np.int64)
        self._counts = np.zeros(_CLOSE + 1, np.int64)
        self._counts[_PENDING] = pages
        self._rows: list[tuple[Int64s, Int64s]] = []

    @property
    def pending(self) -> int:
        """Pages that are pending now."""
        return int(self._counts[_PENDING])

    def feed(self, t: Int64s, page: Int64s, kind: Flags) -> None:
        """Take the next events: guest ns ascending, dense page (of a CLEAR too), kind."""
        at = 0
        while at < len(t):
            out = np.empty((2, 2 * self._pages + (1 << 16)), np.int64)
            at, rows = _walk(
                t, page, kind, at, self._pend, self._log, self._harvest, self._zero, self._start,
                self._last, self._counts, out,
            )  # fmt: skip
            self._rows.append((out[0, :rows].copy(), out[1, :rows].copy()))

    def finish(self, end_ns: int, *, completed: bool) -> Contents:
        """Return what was told; after a migration that `completed` nothing is left pending."""
        if completed:
            if self._counts[_HARVESTED]:
                _merge(self._pend, self._harvest, self._counts)
            # One more event, at the cursor itself: everything still pending is passed on the way.
            cursor = int(self._counts[_CURSOR]) % self._pages
            self._counts[_CURSOR] = cursor + 1
            ends = np.array([cursor], np.int64)
            self.feed(np.array([end_ns], np.int64), ends, np.array([CLEAR], np.uint8))
            if self._pend[cursor]:
                self.feed(np.array([end_ns], np.int64), ends + 1, np.array([CLEAR], np.uint8))
        t = np.concatenate([rows[0] for rows in self._rows] or [np.empty(0, np.int64)])
        page = np.concatenate([rows[1] for rows in self._rows] or [np.empty(0, np.int64)])
        order = np.lexsort((page, t))
        counts = self._counts
        return Contents(
            t[order], page[order], self._start,
            int(counts[_ZEROS]), int(counts[_STRAY]), int(counts[_TURNED]), int(counts[_SILENT]),
            int(counts[_CLOSE]),
        )  # fmt: skip


def fill_start(start: Flags, free: npt.NDArray[np.bool_] | None) -> tuple[Flags, int, int]:
    """Decide on the pages whose content at the start nothing told; return (start, zero, data).

    A page in use is taken as having content (it seldom has none); a page on the free list is taken
    to be as the nearest page on it of which the start is known. Without a free list all untold
    pages are taken as having content. The two counts are the pages so decided.
    """
    start = start.copy()
    untold = start == UNTOLD
    zero = 0
    if free is not None:
        known = np.flatnonzero(free & ~untold)
        asked = np.flatnonzero(free & untold)
        if len(known) and len(asked):
            right = np.minimum(np.searchsorted(known, asked), len(known) - 1)
            left = np.maximum(right - 1, 0)
            nearer = np.abs(known[left] - asked) <= np.abs(known[right] - asked)
            start[asked] = start[np.where(nearer, known[left], known[right])]
            zero = int(np.count_nonzero(start[asked] == ZERO))
    start[start == UNTOLD] = DATA
    return start, zero, int(np.count_nonzero(untold)) - zero


@njit(cache=True, nogil=True)
def _walk(t, page, kind, at, pend, log, harvest, zero, start, last, counts, out):  # type: ignore[no-untyped-def]
    """Take events from `at` on; return where it stopped for want of room in `out`, and its rows."""
    rows = 0
    while at < len(t):
        if rows + len(pend) > out.shape[1]:
            break
        now, p, what = t[at], page[at], kind[at]
        if what == WRITE:
            if start[p] == UNTOLD and last[_WRITTEN, p] == _NEVER and now <= 0:
                pass
            elif last[_WRITTEN, p] != now:
                last[_BEFORE, p] = last[_WRITTEN, p]
                last[_WRITTEN, p] = now
            log[p] = 1
            zero[p] = 0
        elif what == SYNC_START:
            for q in range(len(log)):
                harvest[q] |= log[q]
                log[q] = 0
            counts[_HARVESTED] = 1
        elif what in (SAVE, CLEAR):
            # The row after a sync names the first page still pending; what the sync brought
            # before that page lies behind the cursor.
            if counts[_HARVESTED] and what == SAVE:
                _merge(pend, harvest, counts)
            rows = _pass(p, now, pend, zero, start, last, counts, out, rows)
            if counts[_HARVESTED]:
                _merge(pend, harvest, counts)
            counts[_FLOOR] = counts[_SURE] = now
            counts[_CURSOR] = p
            if what == SAVE:
                _save(p, now, pend, zero, start, last, counts)
        elif what in (PENDING, SYNC_END):
            counts[_FLOOR] = now
        at += 1
    return at, rows


@njit(cache=True, nogil=True)
def _merge(pend, harvest, counts):  # type: ignore[no-untyped-def]
    for q in range(len(pend)):
        if harvest[q]:
            counts[_PENDING] += 1 - np.int64(pend[q])
            pend[q] = 1
            harvest[q] = 0
    counts[_HARVESTED] = 0


@njit(cache=True, nogil=True)
def _save(p, now, pend, zero, start, last, counts):  # type: ignore[no-untyped-def]
    if pend[p]:
        counts[_PENDING] -= 1
        pend[p] = 0
    else:
        counts[_STRAY] += 1
    if zero[p]:
        counts[_TURNED] += 1
        zero[p] = 0
    if start[p] == UNTOLD and last[_WRITTEN, p] == _NEVER:
        start[p] = DATA
    last[_COPIED, p] = now
    counts[_CURSOR] = p + 1


@njit(cache=True, nogil=True)
def _pass(goal, now, pend, zero, start, last, counts, out, rows):  # type: ignore[no-untyped-def]
    """Send what is pending from the cursor up to `goal`, round the end if need be, as zeros."""
    pages, cursor, floor = len(pend), counts[_CURSOR], counts[_FLOOR]
    length = goal - cursor if goal >= cursor else pages - cursor + goal
    found = 0
    for i in range(length):
        found += pend[(cursor + i) % pages]
    passed = 0
    for i in range(length):
        q = (cursor + i) % pages
        if not pend[q]:
            continue
        passed += 1
        pend[q] = 0
        # The sender sleeps after pages that cost bytes, then says what is pending, then goes on: so
        # zero pages lie after that row. They cost nearly the same each and are spread evenly.
        moment = floor + (now - floor) * passed // (found + 1)
        written = last[_WRITTEN, q]
        if written > counts[_SURE]:
            counts[_CLOSE] += 1
        later = written > moment
        if later:
            written = last[_BEFORE, q]
        if start[q] == UNTOLD and written == _NEVER:
            start[q] = ZERO
        elif not zero[q]:
            if written == _NEVER:
                # Known to have had content, and no row says that it was written since.
                counts[_SILENT] += 1
                written = moment
            elif last[_COPIED, q] >= written:
                # It still had content when it was last sent: a hidden write made it zero.
                counts[_TURNED] += 1
                written = min(last[_COPIED, q] + _QUANTUM_NS, moment)
            out[0, rows], out[1, rows] = written, q
            rows += 1
        zero[q] = 0 if later else 1
    counts[_PENDING] -= found
    counts[_ZEROS] += found
    return rows
