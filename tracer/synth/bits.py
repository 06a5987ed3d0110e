"""One bit a page, in compiled loops: what a recorder remembers of a guest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from numba import njit

from tracer.rows import Int64s

Bits = npt.NDArray[np.uint64]

#: Runs found at a time.
_RUNS = 1 << 16


def no_bits(pages: int) -> Bits:
    """Return a bit for each page, all 0."""
    return np.zeros((pages + 63) // 64, np.uint64)


def runs(bits: Bits, mask: Bits | None = None, *, inverse: bool = False) -> Iterator[
    tuple[Int64s, Int64s]
]:  # fmt: skip
    """Yield the runs of set bits, first pages and counts, some at a time.

    With a mask only bits count that are set in it too; `inverse` takes those not set in it.
    """
    other = bits if mask is None else mask
    page, count = np.empty(_RUNS, np.int64), np.empty(_RUNS, np.int64)
    at = 0
    while at < 64 * len(bits):
        at, found = fill_runs(bits, other, inverse and mask is not None, at, page, count)
        if found:
            yield page[:found].copy(), count[:found].copy()


@njit(cache=True, nogil=True)
def fill_runs(bits, mask, inverse, at, page, count):  # type: ignore[no-untyped-def]
    """Fill page and count with runs from page `at` on; return where to go on and how many."""
    found, open_at = 0, -1
    one, none = np.uint64(1), np.uint64(0)
    for word in range(at >> 6, len(bits)):
        value = bits[word] & (~mask[word] if inverse else mask[word])
        if value == none and open_at < 0:
            continue
        if value == ~none and open_at >= 0:
            continue
        for bit in range(at & 63 if word == at >> 6 else 0, 64):
            is_set = (value >> np.uint64(bit)) & one != none
            here = (word << 6) + bit
            if is_set and open_at < 0:
                if found == len(page):
                    return here, found
                open_at = here
            elif not is_set and open_at >= 0:
                page[found], count[found] = open_at, here - open_at
                found += 1
                open_at = -1
    if open_at >= 0:
        page[found], count[found] = open_at, (len(bits) << 6) - open_at
        found += 1
    return len(bits) << 6, found


@njit(cache=True, nogil=True)
def put(bits, page, count, value):  # type: ignore[no-untyped-def]
    """Set or clear the bits of runs."""
    one = np.uint64(1)
    for i in range(len(page)):
        for p in range(page[i], page[i] + count[i]):
            if value[i]:
                bits[p >> 6] |= one << np.uint64(p & 63)
            else:
                bits[p >> 6] &= ~(one << np.uint64(p & 63))
