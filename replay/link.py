"""The wire: what a page costs, in whole ns and an exact rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from replay.kernels import FOREVER
from tracer.format import Block
from tracer.rows import Int64s

HEADER_BYTES = 8
ZERO_PAGE_BYTES = 9
SECOND_NS = 1_000_000_000


def wire_bytes(page_size: int, pages: int, zero_pages: int) -> int:
    """Return the bytes on the wire of so many pages and zero pages."""
    return pages * (page_size + HEADER_BYTES) + zero_pages * ZERO_PAGE_BYTES


def link_constants(page_size: int, bandwidth: int, zero_page_ns: int = 0) -> Int64s:
    """Return int64[7]: ns and rest (in 1/bandwidth ns) of a page and a zero page, bandwidth, bytes.

    Adding ns and carrying the rests is the same as floor(bytes * 1e9 / bandwidth) of the sum, and
    never leaves int64. zero_page_ns: what a zero page costs the sender beside its bytes.
    """
    page_bytes = page_size + HEADER_BYTES
    page = divmod(page_bytes * SECOND_NS, bandwidth)
    zero, rest = divmod(ZERO_PAGE_BYTES * SECOND_NS, bandwidth)
    return np.array(
        [*page, zero + zero_page_ns, rest, bandwidth, page_bytes, ZERO_PAGE_BYTES], np.int64
    )


def nameless() -> Int64s:
    """Return the kernel's table of blocks where no block is ever named on the wire."""
    return np.array([[0], [FOREVER], [0]], np.int64)


def named(blocks: Sequence[Block]) -> Int64s:
    """Return the kernel's table of blocks where the first page of each run of one carries its name.

    One byte of length and the name (QEMU's save_page_header, which leaves both out where the page
    before was of the same block). Column 0 stands for no block, whose page came before the first.
    """
    columns = [(0, 0, 0)]
    for block in blocks:
        end = block.first_page + block.pages
        columns.append((block.first_page, end, 1 + len(block.name.encode())))
    return np.array(columns, np.int64).T.copy()
