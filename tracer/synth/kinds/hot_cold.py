"""A working set of two temperatures: most writes fall on a few of its pages."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from tracer.synth.distributions import HotCold
from tracer.synth.guest import Guest, Plan
from tracer.synth.kinds.base import WithWorkingSet, working_set


@dataclass(frozen=True)
class Options(WithWorkingSet):
    """hot_share: of the writes, on the hot_size of the working set (a share of it)."""

    hot_share: Fraction = Fraction(9, 10)
    hot_size: Fraction = Fraction(1, 10)


def build(guest: Guest, options: Options) -> Plan:
    """Return the guest. Its hot pages are extents all over the working set, evenly written."""

    def sampler(pages: int) -> HotCold:
        hot = max(int(pages * options.hot_size), 1)
        return HotCold(guest.rng("pages"), pages, hot, float(options.hot_share))

    return working_set(guest, options, sampler, kept=options.hot_size)
