"""Processes that take memory, write it and give it back, from one pool that they share."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from tracer.errors import UsageError
from tracer.rows import Int64s
from tracer.synth.guest import NO_RUNS, Block, Region, Runs, Stream, joined, merged

#: Spread of process sizes: the standard deviation of their logarithm.
_SPREAD = 0.8
#: How far back a rewrite falls, in pages, on the average.
_LOOK_BACK = 24


class Pool:
    """Extents for all to take: the one freed last goes first, as in the kernel's per-CPU lists.

    What is freed becomes available with `settle`, so that streams which are made one after the
    other but run at the same time cannot take what is not free yet. Memory: what was ever in use
    at one time.
    """

    def __init__(self, region: Region, order: int):
        self.region = region
        self._order = order
        self._extents = region.pages >> order
        self._fresh = 0
        self._freed: list[Int64s] = []
        self._waiting: list[Int64s] = []
        self._stacked = 0

    @property
    def available(self) -> int:
        """Extents that can be taken now."""
        return self._extents - self._fresh + self._stacked

    def take(self, number: int) -> Int64s:
        """Take so many extents; return their first pages. `number` <= available."""
        assert number <= self.available, "a kind took more than its pool holds"
        parts, left = [], number
        while left and self._freed:
            top = self._freed.pop()
            if len(top) > left:
                self._freed.append(top[:-left])
                top = top[-left:]
            parts.append(top[::-1])
            left -= len(top)
        self._stacked -= number - left
        parts.append(
            self.region.first + (np.arange(self._fresh, self._fresh + left) << self._order)
        )
        self._fresh += left
        return np.concatenate(parts)

    def free(self, extents: Int64s, at: int) -> Runs:
        """Give extents back at a write's index; return the runs that are freed."""
        self._waiting.append(extents)
        return Runs.of(at, *merged(extents, 1 << self._order))

    def settle(self) -> None:
        """Make available what was freed before."""
        self._freed += self._waiting
        self._stacked += sum(len(part) for part in self._waiting)
        self._waiting.clear()


class Settled:
    """A stream over streams that share a pool: frees become available block by block."""

    def __init__(self, stream: Stream, pool: Pool):
        self._stream = stream
        self._pool = pool

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        self._pool.settle()
        return self._stream.next(n)


class Processes:
    """One process after the other: each takes pages as it goes, rewrites recent ones, and ends.

    size: the median of their pages, log-normal. rewrites: writes to a page, on the average.
    most: no process takes more pages than this.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        pool: Pool,
        order: int,
        *,
        size: int,
        rewrites: float,
        most: int,
    ):
        if most < 1 << order:
            raise UsageError("the guest is too small for so many processes; give it more memory")
        self._rng, self._pool, self._order = rng, pool, order
        self._size, self._most = size, most
        self._fresh = 1 / max(rewrites, 1.0)
        self._held: Int64s = np.empty(0, np.int64)
        self._pages = self._end = 0

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        pages, frees, takes, done = [], [], [], 0
        while done < n:
            if self._pages >= self._end:
                if len(self._held):
                    frees.append(self._pool.free(self._held, done))
                self._begin()
            page, taken = self._go_on(n - done)
            pages.append(page)
            takes.append(taken.at_(taken.at + done))
            done += len(page)
        return Block(np.concatenate(pages), joined(frees), joined(takes))

    def _begin(self) -> None:
        drawn = math.exp(self._rng.normal(math.log(max(self._size, 1)), _SPREAD))
        self._end = min(max(int(drawn), 1), self._most)
        self._pages, self._held = 0, np.empty(0, np.int64)

    def _go_on(self, n: int) -> tuple[Int64s, Runs]:
        """Return up to n writes of the process under way: fewer where it ends."""
        forward = self._rng.random(n) < self._fresh
        forward[0] |= self._pages == 0
        reached = self._pages + np.cumsum(forward)
        back = self._rng.geometric(1 / _LOOK_BACK, n)
        # Its last page is followed by no more rewrites: it ends.
        length = int(np.searchsorted(reached, self._end)) + 1
        reached, forward, back = reached[:length], forward[:length], back[:length]
        index = np.where(forward, reached - 1, np.maximum(reached - 1 - back, 0))
        self._pages = int(reached[-1])
        needed = ((self._pages - 1) >> self._order) + 1 - len(self._held)
        takes = NO_RUNS
        if needed > 0:
            new = self._pool.take(needed)
            starts = (len(self._held) + np.arange(needed)) << self._order
            self._held = np.concatenate((self._held, new))
            takes = Runs.of(np.searchsorted(reached, starts + 1), new, 1 << self._order)
        mask = (1 << self._order) - 1
        return self._held[index >> self._order] | (index & mask), takes


class Buffers:
    """Buffers that are taken, filled page after page, kept for a while and freed.

    The oldest is freed when there would be more than `live`. size: pages of one, whole extents.
    """

    def __init__(self, pool: Pool, order: int, *, size: int, live: int):
        self._pool, self._order = pool, order
        self._size, self._live = size, live
        self._buffers: deque[list[Int64s]] = deque([[]])
        self._filled = 0

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        pages, frees, takes, done = [], [], [], 0
        while done < n:
            if self._filled == self._size:
                self._buffers.append([])
                self._filled = 0
                if len(self._buffers) > self._live:
                    frees.append(self._pool.free(np.concatenate(self._buffers.popleft()), done))
            page, taken = self._fill(min(n - done, self._size - self._filled))
            pages.append(page)
            takes.append(taken.at_(taken.at + done))
            done += len(page)
        return Block(np.concatenate(pages), joined(frees), joined(takes))

    def _fill(self, n: int) -> tuple[Int64s, Runs]:
        index = self._filled + np.arange(n)
        self._filled += n
        buffer, extent = self._buffers[-1], 1 << self._order
        first = np.flatnonzero(index & (extent - 1) == 0)
        last = buffer[-1][-1:] if buffer else np.empty(0, np.int64)
        new = self._pool.take(len(first))
        if len(first):
            buffer.append(new)
        here = np.concatenate((last, new)) if index[0] & (extent - 1) else new
        page = here[(index >> self._order) - (index[0] >> self._order)] | (index & (extent - 1))
        return page, Runs.of(first, new, extent)


class PageCache:
    """The page cache: files written once, page after page; the oldest go when it is full.

    Its region is a ring, so that it needs no list of what it holds. limit: pages it may hold.
    """

    def __init__(self, region: Region, order: int, limit: int):
        self._region, self._order = region, order
        self._extents = region.pages >> order
        self._limit = min(max(limit >> order, 2), self._extents)
        self._batch = max(self._limit // 16, 1)
        self._head = self._tail = self._next = 0

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        extent = 1 << self._order
        index = self._next + np.arange(n)
        self._next += n
        at = np.flatnonzero(index & (extent - 1) == 0)
        frees, taken = [], []
        for when in at.tolist():
            if self._head - self._tail >= self._limit:
                frees.append(self._reclaim(when))
            taken.append(self._head % self._extents)
            self._head += 1
        place = (index >> self._order) % self._extents
        page = self._region.first + ((place << self._order) | (index & (extent - 1)))
        new = self._region.first + (np.array(taken, np.int64) << self._order)
        return Block(page, joined(frees), Runs.of(at, new, extent, zeroed=False))

    def _reclaim(self, at: int) -> Runs:
        old = np.arange(self._tail, self._tail + self._batch) % self._extents
        self._tail += self._batch
        return Runs.of(at, *merged(self._region.first + (old << self._order), 1 << self._order))
