"""A sequential writer: the working set page after page, lap after lap."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tracer.synth.guest import Amount, Guest, Layout, Plan
from tracer.synth.kinds.base import Common, with_kernel
from tracer.synth.streams import Resident, Sweep, free_at_start, kernel, whole


@dataclass(frozen=True)
class Options(Common):
    """resident: the share of the working set in use at the start, its first pages."""

    working_set: Amount = Fraction(1, 2)
    resident: Fraction = Fraction(1, 2)


def build(guest: Guest, options: Options) -> Plan:
    """Return the guest. The first lap takes what is not in use yet."""
    layout = Layout(guest)
    base = kernel(guest, layout)
    region = layout.take("working set", guest.pages_of(options.working_set))
    extents = region.pages >> guest.order
    in_use = np.arange(extents) < int(extents * options.resident)
    resident = Resident(region, guest.order, in_use)
    rest = whole(layout.rest("never used"))
    free = free_at_start(float(options.stale), resident.free_runs(), rest)
    return Plan(with_kernel(guest, options, Sweep(resident), base), free, layout.regions)
