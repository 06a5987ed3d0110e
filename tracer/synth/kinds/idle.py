"""An idle guest full of freed memory: little is in use, little happens, old data lies all over."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tracer.rows import Int64s
from tracer.synth.guest import Amount, Guest, Layout, Mix, Plan, Region
from tracer.synth.kinds.base import Common
from tracer.synth.processes import Pool, Processes, Settled
from tracer.synth.streams import free_at_start, kernel

#: Free runs and holes at the start, at most.
_FRAGMENTS = 1 << 16


@dataclass(frozen=True)
class Options(Common):
    """free: share of the memory on the free list. process_size: median of what wakes at times."""

    rate: int = 500
    alloc_order: int = 4
    background: Fraction = Fraction(4, 5)
    stale: Fraction = Fraction(1)
    free: Fraction = Fraction(9, 10)
    process_size: Amount = 1 << 20


def build(guest: Guest, options: Options) -> Plan:
    """Return the guest. What is in use lies in holes all over the free memory."""
    layout = Layout(guest)
    base = kernel(guest, layout)
    pool = Pool(layout.take("processes", guest.pages // 50), guest.order)
    rest = layout.rest("freed before")
    wanted = int(guest.pages * options.free) - pool.region.pages
    runs = _fragments(guest, rest, min(max(wanted, 0), rest.pages))
    first = np.array([pool.region.first]), np.array([pool.region.pages])
    daemon = Processes(
        guest.rng("daemon"),
        pool,
        guest.order,
        size=guest.pages_of(options.process_size),
        rewrites=2.0,
        most=pool.region.pages // 4,
    )
    background = float(options.background)
    mix = Mix(guest.rng("mix"), [(1 - background, daemon), (background, base)])
    free = free_at_start(float(options.stale), first, runs)
    block = min(1 << 12, max(pool.region.pages // 8, 1))
    return Plan(Settled(mix, pool), free, layout.regions, block=block)


def _fragments(guest: Guest, region: Region, free: int) -> tuple[Int64s, Int64s]:
    """Return runs of `free` pages in all, between holes of memory in use."""
    used = region.pages - free
    number = min(_FRAGMENTS, free, used)
    if not number:
        return np.array([region.first][: free > 0]), np.array([free][: free > 0])
    rng = guest.rng("fragments")
    runs, holes = _parts(rng, free, number), _parts(rng, used, number)
    ends = np.cumsum(runs + holes)
    return region.first + ends - runs, runs


def _parts(rng: np.random.Generator, total: int, number: int) -> Int64s:
    """Return `number` random positive integers with this sum, long ones and short ones."""
    edges = np.cumsum(rng.standard_exponential(number))
    parts: Int64s = (
        np.diff(np.floor(edges / edges[-1] * (total - number)), prepend=0).astype(np.int64) + 1
    )
    return parts
