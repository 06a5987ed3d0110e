"""Small synthetic guests and their rows, for the tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tracer import Trace
from tracer.synth import builder_of, options_of
from tracer.synth.make import Made, Order, make
from tracer.synth.recording import Recording

SECOND = 10**9
PAGES = 1 << 16
RATE = 20_000
MS = 10**6


def order(kind: str, *, pages=PAGES, seconds=10, rate=RATE, seed=1, recording=None, **options):
    """An order for a guest of 256 MiB that makes 200,000 writes."""
    return Order(
        kind,
        replace(options_of(kind)(), rate=rate, **options),
        pages,
        duration_ns=int(seconds * SECOND),
        seed=seed,
        recording=recording or Recording(),
    )


def make_order(wanted: Order, path: Path, **settings) -> Made:
    return make(wanted, builder_of(wanted.kind), path, **settings)


@dataclass(frozen=True)
class Columns:
    """All rows of a table."""

    t: np.ndarray
    page: np.ndarray
    count: np.ndarray
    free: np.ndarray
    since: np.ndarray

    def __getitem__(self, where) -> Columns:
        free = self.free[where] if len(self.free) else self.free
        since = self.since[where] if len(self.since) else self.since
        return Columns(self.t[where], self.page[where], self.count[where].copy(), free, since)

    def expanded(self) -> tuple[np.ndarray, np.ndarray]:
        """Time and page of every page of every row."""
        count = self.count.astype(np.int64)
        ends = np.cumsum(count)
        page = np.arange(int(count.sum())) - np.repeat(ends - count, count)
        return np.repeat(self.t, count), page + np.repeat(self.page, count)


def columns(trace: Trace, table: str) -> Columns:
    names = ("t", "page", "count", "free", "since")
    parts = [[getattr(rows, name) for name in names] for rows in trace.rows(table)]
    if not parts:
        return Columns(*(np.empty(0, np.int64) for _ in names))
    return Columns(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def region(trace: Trace, name: str) -> tuple[int, int]:
    """First page of a region, and the page after its last."""
    (found,) = [r for r in trace.meta.source["regions"] if r["name"] == name]
    return found["first"], found["first"] + found["pages"]


def writes(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Time and page of the guest's own writes: all dirty rows that zero nothing."""
    dirty, zero = columns(trace, "dirty"), columns(trace, "zero")
    own = ~np.isin(dirty.t, zero.t[zero.t > 0])
    assert np.all(dirty.count[own] == 1)
    return dirty.t[own], dirty.page[own]


def inside(page: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    return (page >= span[0]) & (page < span[1])
