"""The free page reports that a recording with hinting on contains.

Linux's balloon driver takes the guest's free memory in blocks of order 10 and reports each as soon
as it has it (get_free_page_and_send); QEMU clears the pending bits of the block as it comes
(virtio_balloon_get_free_page_hints, qemu_guest_free_page_hint). A guest with init_on_alloc zeroes
each block that it takes, which shows in the trace: every page of an aligned block written once, in
ascending order. The report follows the last of these writes. Of a guest that zeroes nothing the
reports do not show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from replay.rewrites import sightings
from tracer.rows import Int64s
from tracer.trace import Trace

#: VIRTIO_BALLOON_HINT_BLOCK_PAGES: 2^10 pages, the largest block of Linux's page allocator.
BLOCK_PAGES = 1 << 10


@dataclass(frozen=True)
class Contained:
    """Reports in a trace: int64 guest ns at which each was handled, ascending, and first pages."""

    t: Int64s
    page: Int64s


def contained_reports(trace: Trace) -> Contained:
    """Return the reports of a `first-write` trace that was recorded with hinting on."""
    nothing = np.empty(0, np.int64)
    if not trace.meta.hinting or trace.meta.resolution != "first-write":
        return Contained(nothing, nothing)
    seen = sightings(trace)
    found: list[tuple[int, int]] = []
    for epoch in range(len(seen.edges) - 1):
        written = np.full(trace.meta.pages, -1, np.int64)
        of_epoch = seen.epoch == epoch
        written[seen.page[of_epoch]] = seen.t[of_epoch]
        for block in trace.meta.blocks:
            whole = block.pages // BLOCK_PAGES
            end = block.first_page + whole * BLOCK_PAGES
            times = written[block.first_page : end].reshape(whole, BLOCK_PAGES)
            swept = (times[:, 0] >= 0) & np.all(np.diff(times, axis=1) >= 0, axis=1)
            found += [
                (int(times[number, -1]), block.first_page + number * BLOCK_PAGES)
                for number in np.flatnonzero(swept).tolist()
            ]
    found.sort()
    t, page = (np.array([row[i] for row in found], np.int64) for i in range(2))
    return Contained(t, page)
