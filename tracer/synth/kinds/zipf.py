"""A working set in which the k-th page is written in proportion to k^-exponent."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from tracer.synth.distributions import Zipf
from tracer.synth.guest import Guest, Plan
from tracer.synth.kinds.base import WithWorkingSet, working_set


@dataclass(frozen=True)
class Options(WithWorkingSet):
    """exponent: 0 writes all pages evenly, 1 is the classic law."""

    exponent: Fraction = Fraction(1)


def build(guest: Guest, options: Options) -> Plan:
    """Return the guest. Pages of neighbouring rank lie in the same extent."""

    def sampler(pages: int) -> Zipf:
        return Zipf(guest.rng("pages"), pages, float(options.exponent))

    return working_set(guest, options, sampler, kept=Fraction(1, 2))
