"""Which pages are copied together: how far a stretch of them goes, and when its last is begun."""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

import numpy as np
from numba import njit

from replay.kernels.bits import highest, lowest, popcount
from replay.kernels.rows import FREE, PENDING, ZERO, settle
from tracer.compiled import compiled

#: Slots of the constants `link` (int64): ns and rest of ns for a page and a zero page.
PAGE_NS, PAGE_REST, ZERO_NS, ZERO_REST, BANDWIDTH, PAGE_BYTES, ZERO_BYTES = range(7)

#: No stretch has more pages, nor words.
LONGEST, _FAR = 64, 256
#: Up to which ns a page, ns in all and bandwidth a stretch is reckoned in int64.
SHORT, SOON, NARROW = 1 << 40, 1 << 62, 1 << 56

_ONE = np.uint64(1)
_NONE = np.uint64(0)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(cache=True, nogil=True, inline="always")
def within(word, first, past):  # type: ignore[no-untyped-def]
    """Return the mask of those of the pages first..past-1 that are of `word`, which has one."""
    mask = _ALL
    if word == first >> 6:
        mask = _ALL << np.uint64(first & 63)
    if word == (past - 1) >> 6:
        mask &= _ALL >> np.uint64(63 - ((past - 1) & 63))
    return mask


@njit(cache=True, nogil=True, inline="always")
def burnt_of(state, hot, burning, word, pages):  # type: ignore[no-untyped-def]
    """Return those of `pages` that hidden writes dirty at this very moment."""
    return hot[word] & ~state[word, FREE] & pages if burning else _NONE


@njit(cache=True, nogil=True, inline="always")
def gather(state, written, hot, burning, first, stop):  # type: ignore[no-untyped-def]
    """Choose a stretch from `first`, which is pending, on: some pending pages before `stop`.

    All writes to its words so far are settled. Returns the page past it, how many pages and zero
    pages are to be copied before its last one, and how many good copies the writes outdated.
    """
    word, words = first >> 6, len(state)
    furthest = min(min(words, word + _FAR), stop >> 6)
    todo = state[np.uint64(word), PENDING] & within(word, first, min(stop, (word + 1) << 6))
    number, more, outdated = 0, popcount(todo), 0
    zeros, last, pages, blank = 0, word, todo, _NONE
    while number + more <= LONGEST:
        if more:
            last, pages = word, todo
            at = np.uint64(word)  # as one that cannot be negative it is cheaper to index with
            outdated += settle(state, written, at)
            blank = state[at, ZERO] & ~burnt_of(state, hot, burning, at, todo) & todo
            number += more
            zeros += popcount(blank)
        word += 1
        if word >= furthest:
            break
        todo = state[np.uint64(word), PENDING]
        more = popcount(todo)
    top = highest(pages)
    if blank >> np.uint64(top) & _ONE != _NONE:
        zeros -= 1
    return (last << 6) + top + 1, number - 1 - zeros, zeros, outdated


@njit(cache=True, nogil=True, inline="always")
def later(tau, fraction, pages, zeros, link):  # type: ignore[no-untyped-def]
    """Return the time, and its rest, once so many pages and zero pages have been copied."""
    rest = fraction + pages * link[PAGE_REST] + zeros * link[ZERO_REST]
    carry = np.int64(np.uint64(rest) // np.uint64(link[BANDWIDTH]))
    rest -= carry * link[BANDWIDTH]
    return tau + pages * link[PAGE_NS] + zeros * link[ZERO_NS] + carry, rest


@compiled
def cut(  # type: ignore[no-untyped-def]
    state, hot, burning, first, past, tau, fraction, link, latest, most
):
    """Shorten the stretch first..past-1 to at most `most` pages, none begun after `latest`.

    The first page always stays. Returns the page past it, and time and rest when its last page is
    begun.
    """
    start, rest = tau, fraction
    end, at = first, first
    for word in range(first >> 6, ((past - 1) >> 6) + 1):
        todo = state[word, PENDING] & within(word, first, past)
        blank = state[word, ZERO] & ~burnt_of(state, hot, burning, word, todo)
        while todo != _NONE:
            if end > first and (tau > latest or most == 0):
                return end, start, rest
            at = lowest(todo)
            todo &= todo - _ONE
            most -= 1
            end = (word << 6) + at + 1
            start, rest = tau, fraction
            zero = blank >> np.uint64(at) & _ONE != _NONE
            tau += link[ZERO_NS] if zero else link[PAGE_NS]
            fraction += link[ZERO_REST] if zero else link[PAGE_REST]
            if fraction >= link[BANDWIDTH]:
                fraction -= link[BANDWIDTH]
                tau += 1
    return end, start, rest
