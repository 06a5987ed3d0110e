"""Compiled operations on free page reports, word by word of 64 pages and only where there is news.

`named` and `noted` are bitmaps of all pages, `moved` and `fresh` of all words (see
`replay.reported`).
"""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

import numpy as np

from replay.kernels.bits import lowest, popcount, run_mask
from replay.kernels.rows import FREE, LOG, PENDING, SYNCED, WRITTEN, settle
from replay.kernels.sweep import clear_chunk, last_from
from tracer.compiled import compiled

_ONE = np.uint64(1)
_NONE = np.uint64(0)


@compiled
def ones(bits):  # type: ignore[no-untyped-def]
    """Return how many bits are set."""
    count = 0
    for i in range(len(bits)):
        count += popcount(bits[i])
    return np.int64(count)


@compiled
def find_ones(bits, found):  # type: ignore[no-untyped-def]
    """Put the numbers of the set bits into `found` (int64, as many), ascending."""
    at = 0
    for i in range(len(bits)):
        left = bits[i]
        while left != _NONE:
            found[at] = (i << 6) + lowest(left)
            left &= left - _ONE
            at += 1


@compiled
def mark(bits, numbers):  # type: ignore[no-untyped-def]
    """Set the bits with these numbers (int64)."""
    for number in numbers:
        bits[number >> 6] |= _ONE << np.uint64(number & 63)


@compiled
def note_words(state, noted, words):  # type: ignore[no-untyped-def]
    """Bring some words (int64) of `noted` up to the free list; return how many pages that adds."""
    gain = 0
    for word in words:
        gain += popcount(state[word, FREE]) - popcount(noted[word])
        noted[word] = state[word, FREE]
    return np.int64(gain)


@compiled
def note_blocks(state, noted, words, order, first, end, touched):  # type: ignore[no-untyped-def]
    """Bring those blocks of 2^order pages in first..end-1 up to the free list that words have.

    A page is noted if all of its block is free; a block that does not fit in before `end` is none.
    `words`: int64, ascending. `touched` takes the words of these blocks. Returns how many pages
    that adds.
    """
    gain, size = 0, np.int64(1) << order
    past = first  # of the last block that was looked at
    for word in words:
        page = first + ((max(word << 6, past) - first) >> order << order)
        while page < min((word + 1) << 6, end) and page + size <= end:
            whole, p, past = True, page, page + size
            while whole and p < past:
                low = p & 63
                width = min(64 - low, past - p)
                mask = run_mask(low, width)
                whole = state[p >> 6, FREE] & mask == mask
                p += width
            p = page
            while p < past:
                low = p & 63
                width = min(64 - low, past - p)
                mask = run_mask(low, width)
                before = noted[p >> 6]
                noted[p >> 6] = before | mask if whole else before & ~mask
                gain += popcount(noted[p >> 6]) - popcount(before)
                touched[p >> 12] |= _ONE << np.uint64(p >> 6 & 63)
                p += width
            page = past
    return np.int64(gain)


@compiled
def take_away(named, page, count, free):  # type: ignore[no-untyped-def]
    """Clear in `named` the pages that free-list rows take.

    Returns the words changed (int64, in order, some twice) and what they were (uint64), for
    `restore`, and how many pages were cleared.
    """
    touched = 0
    for clearing in (False, True):
        if clearing:
            words, before = np.empty(touched, np.int64), np.empty(touched, np.uint64)
        at = gone = 0
        for i in range(len(page)):
            if free[i]:
                continue
            p, end = page[i], page[i] + count[i]
            while p < end:
                low = p & 63
                width = min(64 - low, end - p)
                mask = named[p >> 6] & run_mask(low, width)
                if mask != _NONE:
                    if clearing:
                        words[at], before[at] = p >> 6, named[p >> 6]
                        named[p >> 6] &= ~mask
                    at += 1
                    gone += popcount(mask)
                p += width
        touched = at
    return words[:at], before[:at], np.int64(gone)


@compiled
def restore(named, words, before):  # type: ignore[no-untyped-def]
    """Undo changes of words of `named`, the last first."""
    for i in range(len(words) - 1, -1, -1):
        named[words[i]] = before[i]


@compiled
def clear_named_chunks(  # type: ignore[no-untyped-def]
    state, written, harvested, marks, chunks, named, fresh
):
    """Clear the log of every marked chunk that a fresh word has a named page of.

    Returns how many good copies the writes so far outdate.
    """
    outdated = 0
    for i in range(len(fresh)):
        left = fresh[i]
        while left != _NONE:
            word = (i << 6) + lowest(left)
            left &= left - _ONE
            if named[word] == _NONE:
                continue
            chunk, end = last_from(chunks, word << 6), (word + 1) << 6
            while chunk < len(marks) and chunks[chunk] < end:
                if marks[chunk]:
                    page = max(chunks[chunk], word << 6)
                    width = min(chunks[chunk + 1], end) - page
                    if named[word] & run_mask(page & 63, width) != _NONE:
                        marks[chunk] = 0
                        outdated += clear_chunk(
                            state, written, harvested, chunks[chunk], chunks[chunk + 1]
                        )
                chunk += 1
    return np.int64(outdated)


@compiled
def skip(state, named, words, skipped, bits):  # type: ignore[no-untyped-def]
    """Clear the pending bits of the named pages of some words (int64); return how many there were.

    `skipped` gathers them over the migration, `bits` (uint64, one a word) takes which they were.
    """
    found = 0
    for i in range(len(words)):
        word = words[i]
        bits[i] = named[word]
        if bits[i] == _NONE:
            continue
        bits[i] &= state[word, PENDING]
        if bits[i] == _NONE:
            continue
        state[word, PENDING] &= ~bits[i]
        skipped[word] |= bits[i]
        found += popcount(bits[i])
    return np.int64(found)


@compiled
def skip_run(state, skipped, page, count):  # type: ignore[no-untyped-def]
    """Clear the pending bits of a run of pages; return how many there were."""
    found, end = 0, page + count
    while page < end:
        low = page & 63
        width = min(64 - low, end - page)
        cleared = state[page >> 6, PENDING] & run_mask(low, width)
        state[page >> 6, PENDING] &= ~cleared
        skipped[page >> 6] |= cleared
        found += popcount(cleared)
        page += width
    return np.int64(found)


@compiled
def find_missed(state, written, words, bits, missed):  # type: ignore[no-untyped-def]
    """Put into `missed` (uint64, as `bits`) the pages just skipped that are lost as things stand.

    Such a page was free at the snapshot and is in use now, so its last take came after the
    snapshot, and WRITTEN alone says that a write followed. Returns how many there are, and how
    many good copies the writes so far to these words outdate.
    """
    found = outdated = 0
    for i in range(len(words)):
        word = words[i]
        outdated += settle(state, written, word)
        row = state[word]
        carried = row[PENDING] | row[LOG] | row[SYNCED] | row[FREE]
        missed[i] = bits[i] & row[WRITTEN] & ~carried
        found += popcount(missed[i])
    return np.int64(found), np.int64(outdated)
