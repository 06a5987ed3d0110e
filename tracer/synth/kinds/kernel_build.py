"""A kernel build: many short-lived processes, a growing page cache, a small hot kernel."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from tracer.synth.guest import Amount, Guest, Layout, Mix, Plan
from tracer.synth.kinds.base import Common
from tracer.synth.processes import PageCache, Pool, Processes, Settled
from tracer.synth.streams import free_at_start, kernel, whole

#: Writes of a job made at a time.
_BLOCK = 1 << 10
#: Writes to a page of a process, on the average.
_REWRITES = 2.0


@dataclass(frozen=True)
class Options(Common):
    """Options of a kernel build.

    jobs: processes at a time. process_size: their median. cache_writes: the page cache's share
    of the writes. cache_limit: at this size the oldest of it is reclaimed.
    """

    alloc_order: int = 4
    background: Fraction = Fraction(1, 5)
    stale: Fraction = Fraction(1, 2)
    jobs: int = 8
    process_size: Amount = 16 << 20
    cache_writes: Fraction = Fraction(1, 10)
    cache_limit: Amount = Fraction(1, 2)


def build(guest: Guest, options: Options) -> Plan:
    """Return the guest."""
    layout = Layout(guest)
    base = kernel(guest, layout)
    cached = layout.take("page cache", guest.pages_of(options.cache_limit), least=2)
    pool = Pool(layout.take("processes", layout.room), guest.order)
    cache = PageCache(cached, guest.order, cached.pages)
    free = free_at_start(
        float(options.stale), whole(cached), whole(pool.region), whole(layout.rest("never used"))
    )
    background, filed = float(options.background), float(options.cache_writes)
    each = max(1 - background - filed, 0) / options.jobs
    jobs = [
        (
            each,
            Processes(
                guest.rng(f"job {job}"),
                pool,
                guest.order,
                size=guest.pages_of(options.process_size),
                rewrites=_REWRITES,
                most=pool.region.pages // (4 * options.jobs),
            ),
        )
        for job in range(options.jobs)
    ]
    mix = Mix(guest.rng("mix"), [*jobs, (background, base), (filed, cache)])
    block = _BLOCK * options.jobs
    return Plan(Settled(mix, pool), free, layout.regions, block=min(block, pool.region.pages // 8))
