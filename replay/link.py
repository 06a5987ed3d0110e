"""The wire: what a page costs, in whole ns and an exact rest."""

from __future__ import annotations

import numpy as np

from tracer.rows import Int64s

HEADER_BYTES = 8
ZERO_PAGE_BYTES = 9
SECOND_NS = 1_000_000_000


def wire_bytes(page_size: int, pages: int, zero_pages: int) -> int:
    """Return the bytes on the wire of so many pages and zero pages."""
    return pages * (page_size + HEADER_BYTES) + zero_pages * ZERO_PAGE_BYTES


def link_constants(page_size: int, bandwidth: int) -> Int64s:
    """Return int64[5]: ns and rest (in 1/bandwidth ns) of a page and a zero page, bandwidth.

    Adding ns and carrying the rests is the same as floor(bytes * 1e9 / bandwidth) of the sum, and
    never leaves int64.
    """
    page = divmod((page_size + HEADER_BYTES) * SECOND_NS, bandwidth)
    zero = divmod(ZERO_PAGE_BYTES * SECOND_NS, bandwidth)
    return np.array([*page, *zero, bandwidth], np.int64)
