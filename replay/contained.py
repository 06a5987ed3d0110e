"""The free page reports that a recording with hinting on contains, or would have contained.

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

from replay.columns import columns_of, merged
from replay.rewrites import sightings
from tracer.rows import Flags, Int64s
from tracer.trace import Trace

#: VIRTIO_BALLOON_HINT_BLOCK_PAGES: 2^10 pages, the largest block of Linux's page allocator.
BLOCK_PAGES = 1 << 10
#: The memory that x86's Linux hands out last.
_ZONE_DMA = 16 << 20


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
    for begin in np.unique(seen.begins).tolist():
        written = np.full(trace.meta.pages, -1, np.int64)
        of_epoch = seen.begins == begin
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


def foretold_reports(trace: Trace, block_ns: int) -> tuple[Trace, Contained]:
    """Return a trace recorded without hinting as it would be with it, and its reports.

    block_ns: how long the guest takes to take, zero and report one block. The driver takes what is
    free when the migration begins, here by address, and memory of ZONE_DMA last, as Linux's page
    allocator does; it gives it back when the migration is over. With init_on_alloc every page of it
    is dirtied by that, and zero.
    """
    free = _free_at_start(trace)
    first = np.concatenate([_whole_free(free, block.first_page, block.pages)
                            for block in trace.meta.blocks])  # fmt: skip
    low = first * trace.meta.page_size < _ZONE_DMA
    first = np.concatenate([first[~low], first[low]])
    done = (np.arange(len(first)) + 1) * block_ns
    kept = done <= trace.meta.duration_ns
    first, done = first[kept], done[kept]
    within = np.arange(BLOCK_PAGES)
    page = (first[:, None] + within).ravel()
    t = (done[:, None] - block_ns + 1 + within * (block_ns - 1) // BLOCK_PAGES).ravel()
    tables = {"dirty": merged(columns_of(trace, "dirty"), t, page)}
    zero = columns_of(trace, "zero") if "zero" in trace else None
    if zero is None:
        nothing = np.empty(0, np.int64)
        zero = {"t_ns": nothing, "page": nothing, "count": nothing}
    tables["zero"] = merged(zero, t, page)
    if "freelist" in trace:
        tables["freelist"] = merged(columns_of(trace, "freelist"))
    return Trace.from_tables(trace.meta, trace.name, **tables), Contained(done, first)


def _free_at_start(trace: Trace) -> Flags:
    free = np.zeros(trace.meta.pages, np.bool_)
    for rows in trace.rows("freelist"):
        start = rows.t <= 0
        for page, count, enters in zip(
            rows.page[start].tolist(), rows.count[start].tolist(), rows.free[start].tolist(),
            strict=True,
        ):  # fmt: skip
            free[page : page + count] = enters
        if not start.all():
            break
    return free


def _whole_free(free: Flags, first: int, pages: int) -> Int64s:
    """Return the first pages of a RAM block's wholly free blocks of order 10."""
    whole = pages // BLOCK_PAGES
    inside = free[first : first + whole * BLOCK_PAGES].reshape(whole, BLOCK_PAGES)
    return first + np.flatnonzero(inside.all(axis=1)) * BLOCK_PAGES
