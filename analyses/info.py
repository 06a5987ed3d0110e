"""What is in a trace: its size, its times, its dirty rate, its working set, its free pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from analyses.compare import Watch, check
from analyses.windows import DISTINCT, FREE_AT_END, ON_FREE, WRITTEN, Account, zero_at_start
from tracer.format import SCHEMAS
from tracer.trace import Trace

WINDOWS = 20


@dataclass(frozen=True)
class Window:
    """A stretch of guest time: after `start_ns`, up to and with `end_ns`.

    pages_written counts every row's pages, distinct_pages each page once. free_pages are on the
    free list at its end, None where the trace has no free list.
    """

    start_ns: int
    end_ns: int
    pages_written: int
    distinct_pages: int
    free_pages: int | None


@dataclass(frozen=True)
class Info:
    """What `dirtylog info` says of a trace. Sizes in bytes, counts of pages or rows, times in ns.

    working_set_pages: distinct pages written in the whole trace. writes_on_free_pages: pages
    written while on the free list. free_pages_at_start is None without a free list,
    zero_pages_at_start without zero rows. migration is the final answer of the migration that was
    recorded along, without its course.
    """

    trace: str
    size_bytes: int
    digest: str
    page_size: int
    pages: int
    guest_bytes: int
    duration_ns: int
    resolution: str
    freelist_resolution: str | None
    quantum_ns: int
    exact: bool
    hinting: bool
    clock: str
    source: Mapping[str, Any]
    blocks: tuple[Mapping[str, Any], ...]
    rows: Mapping[str, int]
    epochs: int
    pages_written: int
    working_set_pages: int
    writes_on_free_pages: int
    free_pages_at_start: int | None
    zero_pages_at_start: int | None
    windows: tuple[Window, ...]
    migration: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


def describe(trace: Trace, windows: int = WINDOWS, watch: Watch | None = None) -> Info:
    """Check a trace and describe it, in as many windows of equal length.

    Goes through it batch by batch: memory is bounded by the guest's pages. Raises TraceError with
    file and row where it is no trace.
    """
    watch = watch or (lambda _what, _done, _total: None)
    check(trace, watch)
    meta = trace.meta
    edges = [meta.duration_ns * i // windows for i in range(windows + 1)]
    account = Account(trace, np.array(edges, np.int64))
    total = trace.num_rows("dirty") + trace.num_rows("freelist")
    for done in account.run():
        watch(f"{trace.name}: counting", done, total)
    listed = "freelist" in trace
    counts = account.counts.tolist()
    return Info(
        trace=trace.name,
        size_bytes=trace.size_bytes,
        digest=trace.digest,
        page_size=meta.page_size,
        pages=meta.pages,
        guest_bytes=meta.pages * meta.page_size,
        duration_ns=meta.duration_ns,
        resolution=meta.resolution,
        freelist_resolution=meta.freelist_resolution,
        quantum_ns=meta.quantum_ns,
        exact=trace.exact,
        hinting=meta.hinting,
        clock=meta.clock,
        source=dict(meta.source),
        blocks=tuple(asdict(block) for block in meta.blocks),
        rows={name: trace.num_rows(name) for name in SCHEMAS if name in trace},
        epochs=trace.num_rows("epochs"),
        pages_written=sum(row[WRITTEN] for row in counts),
        working_set_pages=account.ever,
        writes_on_free_pages=sum(row[ON_FREE] for row in counts),
        free_pages_at_start=counts[0][FREE_AT_END] if listed else None,
        zero_pages_at_start=zero_at_start(trace) if "zero" in trace else None,
        windows=tuple(
            Window(start, end, row[WRITTEN], row[DISTINCT], row[FREE_AT_END] if listed else None)
            for (start, end), row in zip(pairwise(edges), counts[1:], strict=True)
            if end > start
        ),
        migration=_final(trace.migration),
    )


def _final(answer: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The answer's own figures; settings and course are in the trace for who wants them."""
    if answer is None:
        return None
    aside = ("parameters", "capabilities", "recorded")
    return {key: value for key, value in answer.items() if key not in aside}
