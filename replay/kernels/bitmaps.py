"""Compiled operations on the bitmaps of all pages: syncs, reports, the judgement at the end."""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

import numpy as np

from replay.kernels.bits import popcount, run_mask
from replay.kernels.rows import (
    CREDIT,
    FREE,
    HELD,
    LOG,
    PENDING,
    SYNCED,
    WRITTEN,
    set_run,
    settle,
    write,
)
from replay.kernels.sweep import clear_chunk
from tracer.compiled import compiled

_NONE = np.uint64(0)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@compiled
def settle_all(state, written):  # type: ignore[no-untyped-def]
    """Do all writes that were put off; return how many good copies they outdate."""
    outdated = 0
    for word in range(len(state)):
        outdated += settle(state, written, word)
    return np.int64(outdated)


@compiled
def settle_words(state, written, words):  # type: ignore[no-untyped-def]
    """Do the writes to some words (int64) that were put off; returns as `settle_all`."""
    outdated = 0
    for word in words:
        outdated += settle(state, written, word)
    return np.int64(outdated)


@compiled
def sync_legacy(state, written):  # type: ignore[no-untyped-def]
    """Harvest and clear the dirty log.

    Returns the number of pending pages, and how many good copies the writes so far outdate.
    """
    pending = outdated = 0
    for word in range(len(state)):
        outdated += settle(state, written, word)
        row = state[word]
        row[PENDING] |= row[LOG]
        row[LOG] = _NONE
        pending += popcount(row[PENDING])
    return np.int64(pending), np.int64(outdated)


@compiled
def sync_manual(state, written, harvested, marks):  # type: ignore[no-untyped-def]
    """Harvest the dirty log without clearing it, and mark every chunk; returns as the other."""
    pending = outdated = 0
    for word in range(len(state)):
        outdated += settle(state, written, word)
        row = state[word]
        row[PENDING] |= row[LOG]
        harvested[word] = row[LOG]
        pending += popcount(row[PENDING])
    marks[:] = 1
    return np.int64(pending), np.int64(outdated)


@compiled
def touch(state, hot):  # type: ignore[no-untyped-def]
    """Write every hot page in use; return how many good copies that outdates."""
    outdated = 0
    for word in range(len(state)):
        mask = hot[word] & ~state[word, FREE]
        if mask != _NONE:
            outdated += write(state, word, mask)
    return np.int64(outdated)


@compiled
def heat(hot, page, count):  # type: ignore[no-untyped-def]
    """Make the runs hot."""
    for i in range(len(page)):
        set_run(hot, page[i], np.int64(count[i]))


@compiled
def take_away(bits, page, count, free):  # type: ignore[no-untyped-def]
    """Clear in `bits` the pages that the rows take from the free list; return how many were set."""
    gone = 0
    for i in range(len(page)):
        if free[i]:
            continue
        p, end = page[i], page[i] + count[i]
        while p < end:
            low = p & 63
            width = min(64 - low, end - p)
            mask = run_mask(low, width)
            gone += popcount(bits[p >> 6] & mask)
            bits[p >> 6] &= ~mask
            p += width
    return np.int64(gone)


@compiled
def snapshot(state, first, end, order, report):  # type: ignore[no-untyped-def]
    """Put into `report` the free pages of first..end-1 that lie in wholly free blocks of 2^order.

    Returns their number.
    """
    found, size, page = 0, np.int64(1) << order, first
    while page + size <= end:
        if size == 1 and (page & 63) == 0 and page + 64 <= end:  # a whole word at once
            report[page >> 6] = state[page >> 6, FREE]
            found += popcount(report[page >> 6])
            page += 64
            continue
        whole, p = True, page
        while whole and p < page + size:
            low = p & 63
            width = min(64 - low, page + size - p)
            mask = run_mask(low, width)
            whole = state[p >> 6, FREE] & mask == mask
            p += width
        p = page
        while whole and p < page + size:
            low = p & 63
            width = min(64 - low, page + size - p)
            report[p >> 6] |= run_mask(low, width)
            found += width
            p += width
        page += size
    return np.int64(found)


@compiled
def clear_named_chunks(  # type: ignore[no-untyped-def]
    state, written, harvested, marks, chunks, report
):
    """Clear the log of every marked chunk of which the report names a page.

    Returns how many good copies the writes so far outdate.
    """
    outdated = 0
    for chunk in range(len(marks)):
        if not marks[chunk]:
            continue
        page, end = chunks[chunk], chunks[chunk + 1]
        while page < end:
            low = page & 63
            width = min(64 - low, end - page)
            if report[page >> 6] & run_mask(low, width):
                marks[chunk] = 0
                outdated += clear_chunk(state, written, harvested, chunks[chunk], end)
                break
            page += width
    return np.int64(outdated)


@compiled
def skip(state, report, skipped):  # type: ignore[no-untyped-def]
    """Clear the pending bits of the report's pages; leave in `report` those that were set.

    `skipped` gathers them over the migration. Returns their number.
    """
    found = 0
    for word in range(len(state)):
        if report[word] == _NONE:
            continue
        row = state[word]
        report[word] &= row[PENDING]
        row[PENDING] &= ~report[word]
        skipped[word] |= report[word]
        found += popcount(report[word])
    return np.int64(found)


@compiled
def note_missed(state, written, report, missed):  # type: ignore[no-untyped-def]
    """Add to `missed` the pages just skipped (`report`) that are lost as things stand.

    Such a page was free at the snapshot and is in use now, so its last take came after the
    snapshot, and WRITTEN alone says that a write followed. Returns how many there are, and how
    many good copies the writes so far to words of the report outdate.
    """
    found = outdated = 0
    for word in range(len(state)):
        if report[word] == _NONE:
            continue
        outdated += settle(state, written, word)
        row = state[word]
        carried = row[PENDING] | row[LOG] | row[SYNCED] | row[FREE]
        lost = report[word] & row[WRITTEN] & ~carried
        missed[word] |= lost
        found += popcount(lost)
    return np.int64(found), np.int64(outdated)


@compiled
def final_counts(state, skipped, missed, last_word, lost_bits, counts):  # type: ignore[no-untyped-def]
    """Judge every page at switchover (the model, sections 3 and 4).

    Adds (needed, freed_later, lost, unwritten, stale_free, old_bytes, near_misses, bugs) to
    `counts`, int64[8], and leaves the lost pages in `lost_bits`. `last_word` masks the pages of
    the last word.
    """
    for word in range(len(state)):
        row = state[word]
        exists = last_word if word == len(state) - 1 else _ALL
        free, credit = row[FREE], row[CREDIT]
        counts[0] += popcount(credit & ~free)
        counts[1] += popcount(credit & free)
        unsynced = ~row[SYNCED] & exists
        if unsynced == _NONE and (len(missed) == 0 or missed[word] == _NONE):
            continue
        ever = skipped[word] if len(skipped) else _NONE
        lost = unsynced & ~free & ever & row[WRITTEN]
        unwritten = unsynced & ~free & ever & ~row[WRITTEN]
        stale = unsynced & free
        counts[2] += popcount(lost)
        counts[3] += popcount(unwritten)
        counts[4] += popcount(stale)
        counts[5] += popcount((stale | unwritten) & row[HELD])
        if len(missed):
            counts[6] += popcount(missed[word] & ~lost)
        counts[7] += popcount(unsynced & ~free & ~ever) + popcount(stale & ~ever)
        lost_bits[word] = lost
