"""A boot: the kernel lays out its memory, unpacks an initramfs, starts services, settles."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from tracer.synth.distributions import Zipf
from tracer.synth.guest import Amount, Guest, Layout, Mix, Plan
from tracer.synth.kinds.base import Common
from tracer.synth.processes import PageCache, Pool, Processes, Settled
from tracer.synth.stages import Stage, Stages
from tracer.synth.streams import Resident, Sweep, WorkingSet, free_at_start, whole

#: Shares of the duration and of the writes: kernel, initramfs, services, settled.
PACE = tuple(
    (Fraction(time, 100), Fraction(writes, 100))
    for time, writes in ((4, 15), (4, 20), (32, 50), (60, 15))
)
_SERVICES = 4


@dataclass(frozen=True)
class Options(Common):
    """Options of a boot.

    initramfs: its size unpacked; all of it is freed when services start. process_size: the
    median of a service.
    """

    UNUSED: ClassVar[frozenset[str]] = frozenset({"background"})

    rate: int = 50_000
    alloc_order: int = 4
    initramfs: Amount = Fraction(1, 20)
    process_size: Amount = 16 << 20


def build(guest: Guest, options: Options) -> Plan:
    """Return the guest. All but the kernel's image is free and, unless stale, zero."""
    layout = Layout(guest)
    layout.take("kernel image", guest.pages // 100)
    kernel = Resident(layout.take("kernel", guest.pages // 25), guest.order, False)
    unpacked = Resident(
        layout.take("initramfs", guest.pages_of(options.initramfs)), guest.order, False
    )
    cached = layout.take("page cache", guest.pages // 2, least=2)
    pool = Pool(layout.take("processes", layout.room), guest.order)
    rest = whole(layout.rest("never used"))
    free = free_at_start(
        float(options.stale), *(whole(r.region) for r in (kernel, unpacked)), whole(cached),
        whole(pool.region), rest,
    )  # fmt: skip
    sampler = Zipf(guest.rng("kernel"), kernel.region.pages, 1.0)
    base = WorkingSet(guest.rng("kernel places"), kernel, sampler, guest.order)
    cache = PageCache(cached, guest.order, cached.pages)
    services = [
        Processes(
            guest.rng(f"service {number}"),
            pool,
            guest.order,
            size=guest.pages_of(options.process_size),
            rewrites=2.0,
            most=pool.region.pages // (4 * _SERVICES),
        )
        for number in range(_SERVICES)
    ]
    starting = Mix(
        guest.rng("starting"),
        [*((0.5 / _SERVICES, s) for s in services), (0.3, cache), (0.2, base)],
    )
    settled = Mix(guest.rng("settled"), [(0.2, services[0]), (0.1, cache), (0.7, base)])
    ends = [int(sum(writes for _, writes in PACE[: i + 1]) * guest.writes) for i in range(4)]
    stages = Stages(
        [
            Stage(Sweep(kernel), ends[0]),
            Stage(Sweep(unpacked), ends[1], unpacked.all_freed),
            Stage(starting, ends[2]),
            Stage(settled, ends[3]),
        ]
    )
    block = min(1 << 12, pool.region.pages // 8)
    return Plan(Settled(stages, pool), free, layout.regions, PACE, block)
