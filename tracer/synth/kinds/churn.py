"""Allocate, fill, free, again and again: the reuse of memory just freed that hints trip over."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from tracer.synth.guest import Amount, Guest, Layout, Plan
from tracer.synth.kinds.base import Common, with_kernel
from tracer.synth.processes import Buffers, Pool, Settled
from tracer.synth.streams import free_at_start, kernel, whole


@dataclass(frozen=True)
class Options(Common):
    """buffer: the size of one. kept: so many at a time, the one being filled among them."""

    alloc_order: int = 4
    background: Fraction = Fraction(1, 10)
    buffer: Amount = Fraction(1, 20)
    kept: int = 4


def build(guest: Guest, options: Options) -> Plan:
    """Return the guest. All memory but the kernel's is free at the start."""
    layout = Layout(guest)
    base = kernel(guest, layout)
    size = max(guest.pages_of(options.buffer) >> guest.order, 1) << guest.order
    # What is freed within a block of writes cannot be taken in it: two more buffers at most.
    pool = Pool(layout.take("heap", max(size * (options.kept + 3), layout.room)), guest.order)
    buffers = Buffers(pool, guest.order, size=size, live=options.kept)
    free = free_at_start(float(options.stale), whole(pool.region), whole(layout.rest("never used")))
    stream = Settled(with_kernel(guest, options, buffers, base), pool)
    return Plan(stream, free, layout.regions, block=min(1 << 15, size))
