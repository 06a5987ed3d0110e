"""What the kinds' options and guests have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import ClassVar

import numpy as np

from tracer.synth.distributions import Sampler
from tracer.synth.guest import SECOND_NS, Amount, Guest, Layout, Mix, Plan, Stream
from tracer.synth.streams import Resident, WorkingSet, free_at_start, kernel, whole


@dataclass(frozen=True)
class Common:
    """Every kind's options; a kind sets defaults of its own.

    rate: writes a second. alloc_order: memory is taken and freed in extents of so many pages, as
    a power of two. background: share of the writes that the kernel makes to its own memory. stale:
    share of the memory free at the start that holds old data; the rest is zero. MEMORY (bytes)
    and DURATION_NS are what a guest has where nothing else is said; UNUSED mean nothing to a kind.
    """

    MEMORY: ClassVar[int] = 4 << 30
    DURATION_NS: ClassVar[int] = 60 * SECOND_NS

    UNUSED: ClassVar[frozenset[str]] = frozenset()

    rate: int = 100_000
    alloc_order: int = 9
    background: Fraction = Fraction(0)
    stale: Fraction = Fraction(0)

    @classmethod
    def names(cls) -> list[str]:
        """Return the options that mean something to this kind."""
        return [field.name for field in fields(cls) if field.name not in cls.UNUSED]


@dataclass(frozen=True)
class WithWorkingSet(Common):
    """Options of kinds with one working set.

    working_set: its size. resident: share of it in use at the start, picked at random. reclaim:
    share of it that the guest frees each second, none of it hot.
    """

    working_set: Amount = Fraction(1, 2)
    resident: Fraction = Fraction(1, 2)
    reclaim: Fraction = Fraction(1, 1000)


def working_set(
    guest: Guest, options: WithWorkingSet, sampler: Callable[[int], Sampler], *, kept: Fraction
) -> Plan:
    """Return a guest with one working set, a kernel, and free memory.

    kept: the share of the working set, first in the sampler's order, that is never reclaimed.
    """
    layout = Layout(guest)
    base = kernel(guest, layout)
    region = layout.take("working set", guest.pages_of(options.working_set))
    extents = region.pages >> guest.order
    in_use = guest.rng("resident").random(extents) < float(options.resident)
    resident = Resident(region, guest.order, in_use)
    free = free_at_start(
        float(options.stale), resident.free_runs(), whole(layout.rest("never used"))
    )
    seconds = guest.duration_ns / SECOND_NS
    keep = int(np.ceil(extents * float(kept)))
    stream = WorkingSet(
        guest.rng("reclaim"),
        resident,
        sampler(region.pages),
        guest.order,
        kept=keep,
        reclaimed=float(options.reclaim) * extents * seconds / max(guest.writes, 1),
    )
    return Plan(with_kernel(guest, options, stream, base), free, layout.regions)


def with_kernel(guest: Guest, options: Common, stream: Stream, base: Stream) -> Mix:
    """Return a stream with the kernel's share of the writes in between."""
    background = float(options.background)
    return Mix(guest.rng("mix"), [(1 - background, stream), (background, base)])
