"""A synthetic guest: its size, its regions, and writes in order with what goes with them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from tracer.errors import UsageError
from tracer.rows import NO_FLAGS, NO_TIMES, Flags, Int64s

SECOND_NS = 1_000_000_000

#: An amount of memory: bytes, or a share of the guest.
Amount = int | Fraction


@dataclass(frozen=True)
class Region:
    """Pages `first` to `first + pages - 1`, with a name for the trace's header."""

    name: str
    first: int
    pages: int


@dataclass(frozen=True)
class Guest:
    """What all kinds share. page_size in bytes; writes: how many the guest makes in all.

    order: memory is taken and freed in extents of 2^order pages. init_on_alloc: the kernel
    zeroes all memory that it hands out; else only what it hands to processes.
    """

    pages: int
    page_size: int
    duration_ns: int
    writes: int
    seed: int
    order: int = 0
    init_on_alloc: bool = True

    def rng(self, name: str) -> np.random.Generator:
        """Return a random stream of its own for `name`."""
        entropy = [self.seed, zlib.crc32(name.encode())]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    def pages_of(self, amount: Amount) -> int:
        """Return an amount of memory in whole pages, rounded down."""
        if isinstance(amount, Fraction):
            return int(amount * self.pages)
        return amount // self.page_size

    @property
    def extent(self) -> int:
        """Pages of an extent."""
        return 1 << self.order


class Layout:
    """Hands out a guest's memory from page 0 up, in whole extents."""

    def __init__(self, guest: Guest):
        self._guest = guest
        self._next = 0
        self.regions: list[Region] = []

    def take(self, name: str, pages: int, *, least: int = 1) -> Region:
        """Return the next region, of `pages` rounded down to extents, at least `least` extents.

        Raises UsageError where the guest has no such room.
        """
        extent = self._guest.extent
        pages = max(pages // extent, least) * extent
        room = self._guest.pages - self._next
        if pages > room:
            raise UsageError(
                f"{name}: {pages} pages (in extents of {extent}) do not fit, the guest of "
                f"{self._guest.pages} pages has {room} left for it; make the guest larger, or "
                "this smaller"
            )
        region = Region(name, self._next, pages)
        self._next += pages
        self.regions.append(region)
        return region

    def rest(self, name: str) -> Region:
        """Return all that is left, perhaps nothing."""
        region = Region(name, self._next, self._guest.pages - self._next)
        self._next = self._guest.pages
        if region.pages:
            self.regions.append(region)
        return region

    @staticmethod
    def span(name: str, first: Region, last: Region) -> Region:
        """Return all from one region's start to another's end."""
        return Region(name, first.first, last.first + last.pages - first.first)

    @property
    def room(self) -> int:
        """Pages that are left, in whole extents."""
        return (self._guest.pages - self._next) // self._guest.extent * self._guest.extent


@dataclass(frozen=True)
class Runs:
    """Runs of pages that are freed or taken; int64 arrays of equal length, `at` ascending.

    at: index of the write they come before (taken) or after whose predecessor they come (freed).
    zeroed: bool, whether the guest zeroes what it takes.
    """

    at: Int64s
    page: Int64s
    count: Int64s
    zeroed: Flags

    @classmethod
    def of(cls, at: Int64s | int, page: Int64s, count: Int64s | int, zeroed: bool = True) -> Runs:
        """Return runs; single numbers stand for all of them."""
        n = len(page)
        return cls(
            at if isinstance(at, np.ndarray) else np.full(n, at, np.int64),
            page,
            count if isinstance(count, np.ndarray) else np.full(n, count, np.int64),
            np.full(n, zeroed),
        )

    def __len__(self) -> int:
        return len(self.page)

    def at_(self, at: Int64s) -> Runs:
        """Return the same runs at other writes."""
        return Runs(at, self.page, self.count, self.zeroed)


NO_RUNS = Runs(NO_TIMES, NO_TIMES, NO_TIMES, NO_FLAGS)


def joined(parts: Iterable[Runs]) -> Runs:
    """Return runs in the order of their writes; those at one write stay in order."""
    some = [part for part in parts if len(part)]
    if len(some) < 2:
        return some[0] if some else NO_RUNS
    at = np.concatenate([part.at for part in some])
    page = np.concatenate([part.page for part in some])
    count = np.concatenate([part.count for part in some])
    zeroed = np.concatenate([part.zeroed for part in some])
    if np.all(at[:-1] <= at[1:]):
        return Runs(at, page, count, zeroed)
    order = np.argsort(at, kind="stable")
    return Runs(at[order], page[order], count[order], zeroed[order])


def merged(page: Int64s, count: int) -> tuple[Int64s, Int64s]:
    """Return starts and counts of the runs that extents of `count` pages from `page` make up."""
    if not len(page):
        return page, page
    page = np.sort(page)
    breaks = np.flatnonzero(np.diff(page) != count) + 1
    first = np.concatenate(([0], breaks))
    ends = np.concatenate((breaks, [len(page)]))
    return page[first], (ends - first) * count


@dataclass(frozen=True)
class Block:
    """Some writes in order: `page`, int64, one page each; and what is freed and taken.

    A run freed at i is written last by write i - 1 or earlier and may be taken again at i.
    A run taken at i, i < len(page), is first written by write i.
    """

    page: Int64s
    frees: Runs = NO_RUNS
    takes: Runs = NO_RUNS


class Stream(Protocol):
    """Writes without end, in order."""

    def next(self, n: int) -> Block:
        """Return the next n > 0 writes."""
        ...


@dataclass(frozen=True)
class Plan:
    """A guest of some kind, ready to run.

    free: runs on the free list at the start (`at` means nothing, `zeroed`: of zeros at the
    start). pace: (share of the duration, share of the writes) stretch by stretch. block: writes
    made at a time. What a stream frees for all to take is taken in a later block.
    """

    stream: Stream
    free: Runs
    regions: list[Region]
    pace: tuple[tuple[Fraction, Fraction], ...] = ((Fraction(1), Fraction(1)),)
    block: int = 1 << 15


class Mix:
    """Streams whose writes are shuffled into each other: each write falls to stream i by weight."""

    def __init__(self, rng: np.random.Generator, parts: list[tuple[float, Stream]]):
        self._rng = rng
        self._streams = [stream for weight, stream in parts if weight > 0]
        weights = np.array([weight for weight, _ in parts if weight > 0])
        self._edges = np.cumsum(weights / weights.sum())[:-1]

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        if len(self._streams) == 1:
            return self._streams[0].next(n)
        choice = np.searchsorted(self._edges, self._rng.random(n), side="right")
        # Grouped by stream; stable, so that each stream's writes stay in order.
        order = np.argsort(choice.astype(np.uint16), kind="stable")
        ends = np.searchsorted(choice[order], np.arange(len(self._streams)), side="right").tolist()
        page = np.empty(n, np.int64)
        frees, takes = [], []
        for stream, begin, end in zip(self._streams, [0, *ends], ends, strict=False):
            if begin == end:
                continue
            where = order[begin:end]
            block = stream.next(end - begin)
            page[where] = block.page
            if len(block.takes):
                takes.append(block.takes.at_(where[block.takes.at]))
            if len(block.frees):
                after = np.concatenate(([0], where + 1))
                frees.append(block.frees.at_(after[block.frees.at]))
        return Block(page, joined(frees), joined(takes))
