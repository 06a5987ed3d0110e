"""Streams of writes that the kinds are put together from."""

from __future__ import annotations

import numpy as np

from tracer.rows import Flags, Int64s
from tracer.synth.distributions import Sampler, Scattered, Zipf
from tracer.synth.guest import NO_RUNS, Block, Guest, Layout, Region, Runs, merged

#: How skewed the kernel's own writes are.
_KERNEL_EXPONENT = 1.0


class Resident:
    """Which extents of a region are in use; the others are on the free list.

    One byte an extent. `taken` turns first writes into takes.
    """

    def __init__(self, region: Region, order: int, in_use: Flags | bool):
        self.region = region
        self._order = order
        self._in_use = np.empty(region.pages >> order, np.bool_)
        self._in_use[:] = in_use

    def taken(self, index: Int64s) -> Runs:
        """Return the takes for writes to `index`, pages counted from the region's first."""
        extent = index >> self._order
        absent = np.flatnonzero(~self._in_use[extent])
        if not len(absent):
            return NO_RUNS
        new, first = np.unique(extent[absent], return_index=True)
        self._in_use[new] = True
        order = np.argsort(first)
        at, new = absent[first[order]], new[order]
        return Runs.of(at, self.region.first + (new << self._order), 1 << self._order)

    def freed(self, extents: Int64s, at: int) -> Runs:
        """Free those of these extents that are in use, at a write's index."""
        extents = np.unique(extents)
        extents = extents[self._in_use[extents]]
        self._in_use[extents] = False
        page, count = merged(self.region.first + (extents << self._order), 1 << self._order)
        return Runs.of(at, page, count)

    def all_freed(self) -> Runs:
        """Free all that is in use, before the next write."""
        return self.freed(np.flatnonzero(self._in_use), 0)

    def free_runs(self) -> tuple[Int64s, Int64s]:
        """Return the runs that are free now: first pages and counts."""
        free = self.region.first + (np.flatnonzero(~self._in_use) << self._order)
        return merged(free, 1 << self._order)


class Everywhere:
    """Writes to a region that stays in use."""

    def __init__(self, region: Region, sampler: Sampler, places: Scattered | None = None):
        self._region = region
        self._sampler = sampler
        self._places = places

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        index = self._sampler.draw(n)
        if self._places is not None:
            index = self._places.place(index)
        return Block(self._region.first + index)


class WorkingSet:
    """Writes by a sampler to a region that is taken extent by extent, and now and then reclaimed.

    reclaimed: extents that the guest frees for each write that it makes, picked at random among
    those beyond the first `kept` of the sampler's order.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        resident: Resident,
        sampler: Sampler,
        order: int,
        *,
        kept: int = 0,
        reclaimed: float = 0.0,
    ):
        self._rng = rng
        self._resident = resident
        self._sampler = sampler
        self._order = order
        self._places = Scattered(rng, sampler.size, order)
        self._extents = sampler.size >> order
        self._kept = kept
        self._reclaimed = reclaimed
        self._due = 0.0

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        frees = self._reclaim(n)
        index = self._places.place(self._sampler.draw(n))
        takes = self._resident.taken(index)
        return Block(self._resident.region.first + index, frees, takes)

    def _reclaim(self, n: int) -> Runs:
        self._due += n * self._reclaimed
        number = int(self._due)
        self._due -= number
        if not number or self._kept >= self._extents:
            return NO_RUNS
        chosen = self._rng.integers(self._kept, self._extents, number)
        return self._resident.freed(self._places.extent(chosen), 0)


class Sweep:
    """Writes to a region page after page, from its start again after its end."""

    def __init__(self, resident: Resident):
        self._resident = resident
        self._next = 0

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        pages = self._resident.region.pages
        index = (self._next + np.arange(n)) % pages
        self._next = (self._next + n) % pages
        return Block(self._resident.region.first + index, takes=self._resident.taken(index))


def kernel(guest: Guest, layout: Layout, share: float = 0.02) -> Everywhere:
    """Return the kernel's own writes: few pages, always in use, the hottest far above the rest."""
    region = layout.take("kernel", int(guest.pages * share))
    rng = guest.rng("kernel")
    return Everywhere(region, Zipf(rng, region.pages, _KERNEL_EXPONENT))


def free_at_start(stale: float, *parts: tuple[Int64s, Int64s]) -> Runs:
    """Return runs of free memory, of each of which the first `stale` share holds old data.

    The rest is zero. A run that is only partly stale becomes two.
    """
    page = np.concatenate([part[0] for part in parts])
    count = np.concatenate([part[1] for part in parts])
    old = np.rint(count * stale).astype(np.int64)
    pages = np.concatenate((page, page + old))
    counts = np.concatenate((old, count - old))
    zeroed = np.repeat([False, True], len(page))
    order = np.argsort(pages, kind="stable")
    order = order[counts[order] > 0]
    return Runs(np.zeros(len(order), np.int64), pages[order], counts[order], zeroed[order])


def whole(region: Region) -> tuple[Int64s, Int64s]:
    """Return a region as one run, or none where it is empty."""
    some = [region.first] if region.pages else []
    return np.array(some, np.int64), np.array([region.pages] if some else [], np.int64)
