"""Compiled operations on the bitmaps of all pages: syncs, and the judgement at the end."""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

import numpy as np
from numba import njit

from replay.kernels.bits import popcount
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


@njit(cache=True, nogil=True, inline="always")
def _touch(state, hot, word):  # type: ignore[no-untyped-def]
    mask = hot[word] & ~state[word, FREE]
    return write(state, np.uint64(word), mask) if mask != _NONE else 0


@compiled
def touch(state, hot):  # type: ignore[no-untyped-def]
    """Write every hot page in use; return how many good copies that outdates."""
    outdated = 0
    for word in range(len(state)):
        outdated += _touch(state, hot, word)
    return np.int64(outdated)


@compiled
def touch_words(state, hot, words):  # type: ignore[no-untyped-def]
    """Write every hot page in use of some words (int64); returns as `touch`."""
    outdated = 0
    for word in words:
        outdated += _touch(state, hot, word)
    return np.int64(outdated)


@compiled
def heat(hot, page, count):  # type: ignore[no-untyped-def]
    """Make the runs hot."""
    for i in range(len(page)):
        set_run(hot, page[i], np.int64(count[i]))


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
