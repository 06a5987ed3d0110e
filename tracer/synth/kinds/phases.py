"""A program in phases: each works in memory of its own and frees it at its end."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from tracer.synth.distributions import HotCold
from tracer.synth.guest import Amount, Guest, Layout, Plan
from tracer.synth.kinds.base import Common, with_kernel
from tracer.synth.stages import Stage, Stages
from tracer.synth.streams import Resident, WorkingSet, free_at_start, kernel, whole


@dataclass(frozen=True)
class Options(Common):
    """phases: how many, of equal length. working_set, hot_share, hot_size: of each."""

    working_set: Amount = Fraction(1, 5)
    phases: int = 6
    hot_share: Fraction = Fraction(9, 10)
    hot_size: Fraction = Fraction(1, 10)


def build(guest: Guest, options: Options) -> Plan:
    """Return the guest. Phase after phase takes the next of as many areas as there is room for."""
    layout = Layout(guest)
    base = kernel(guest, layout)
    areas = [
        Resident(layout.take("area 1", guest.pages_of(options.working_set)), guest.order, False)
    ]
    size = areas[0].region.pages
    while len(areas) < options.phases and layout.room >= size:
        region = layout.take(f"area {len(areas) + 1}", size)
        areas.append(Resident(region, guest.order, False))
    rest = whole(layout.rest("never used"))
    free = free_at_start(float(options.stale), *(area.free_runs() for area in areas), rest)
    hot = max(int(size * options.hot_size), 1)
    stages, pace = [], []
    for phase in range(options.phases):
        area = areas[phase % len(areas)]
        sampler = HotCold(guest.rng(f"phase {phase}"), size, hot, float(options.hot_share))
        stream = WorkingSet(guest.rng(f"places {phase}"), area, sampler, guest.order)
        until = guest.writes * (phase + 1) // options.phases
        stages.append(Stage(with_kernel(guest, options, stream, base), until, area.all_freed))
        pace.append((Fraction(1, options.phases), Fraction(1, options.phases)))
    return Plan(Stages(stages), free, layout.regions, tuple(pace))
