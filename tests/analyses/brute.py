"""Random small traces for hazards, and the answer by brute force: a replay at every value."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

from analyses.hazards import Varied
from replay.engine import Migration
from replay.parameters import Parameters
from replay.profiles import profile
from replay.strategies import Strategy, strategy
from tests.bridge import as_parameters, as_trace
from tests.random_traces import random_case
from tests.reference import ReferenceTrace
from tracer import Trace
from tracer.errors import UsageError

FIELDS: dict[Varied, str] = {
    "report-delay": "report_delay_ns",
    "request-delay": "request_delay_ns",
    "handle-delay": "handle_delay_ns",
    "bandwidth": "bandwidth",
}


class Case(NamedTuple):
    trace: Trace
    strategy: Strategy
    parameters: Parameters
    varied: Varied
    lo: int
    hi: int

    def at(self, value: int) -> Parameters:
        fields: dict = {FIELDS[self.varied]: value}
        return replace(self.parameters, **fields)

    def lost(self, value: int) -> tuple[int | None, int | None, int]:
        """Lost pages, near misses, and pages lost right after a handling, from one replay."""
        parameters = self.at(value)
        migration = Migration(self.trace, self.strategy, parameters)
        outcome = profile(parameters.profile)(migration)
        missed = sum(report.missed for report in migration.hinting.reports)
        if outcome.stop_ns is None:
            return None, None, missed
        judged = migration.memory.judge()
        return judged.lost, judged.near_misses, missed


def stretched(trace: ReferenceTrace, factor: int) -> ReferenceTrace:
    """The same trace with all its times that many times longer."""
    return replace(
        trace,
        duration_ns=trace.duration_ns * factor,
        dirty=[(t * factor, *row) for t, *row in trace.dirty],
        freelist=[(t * factor, *row) for t, *row in trace.freelist],
        zero=[(t * factor, *row) for t, *row in trace.zero],
        epochs=[t * factor for t in trace.epochs],
    )


def case(rng: random.Random, name: str, varied: Varied, width: int, *, once: bool = False) -> Case:
    """One case: log mode, hold, request axis, loop's end and range by chance.

    A bandwidth is a few hundred bytes/s and times are long, so that each byte/s moves every copy.
    """
    while True:
        trace, parameters = random_case(rng)
        chosen = as_parameters(
            replace(
                parameters,
                log_mode=rng.choice(("legacy", "manual")),
                guest_hold=rng.choice(("none", "none", "none", "auto", "ack", "done")),
                hint_clears_log=rng.random() < 0.6,
                request=rng.choice(
                    (None, "once") if once else (None, "once", "every-sync", "periodic", "resubmit")
                ),
                hint_interval_ns=max(parameters.hint_interval_ns, 150),
            )
        )
        try:
            composed = strategy(name).with_request(chosen.request)
        except UsageError:  # it cannot end
            continue
        if rng.random() < 0.1 and chosen.request in (None, "once", "every-sync"):
            chosen = replace(chosen, at_end="loop", max_rounds=5)
        if varied == "bandwidth":
            factor = 10**7
            bandwidth = rng.randint(60, 200)
            chosen = _slower(chosen, factor, bandwidth)
            return Case(
                as_trace(stretched(trace, factor)), composed, chosen, varied,
                max(bandwidth - width // 2, 1), bandwidth + width // 2,
            )  # fmt: skip
        lo = rng.choice((0, 0, rng.randint(0, 1500)))
        return Case(as_trace(trace), composed, chosen, varied, lo, lo + width)


def lively_case(rng: random.Random, name: str, varied: Varied, width: int) -> Case:
    """A case that loses pages somewhere in its range, where one is soon found."""
    for _ in range(25):
        found = case(rng, name, varied, width)
        if any(any(found.lost(rng.randint(found.lo, found.hi))[:2]) for _ in range(4)):
            break
    return found


def qemu_case(rng: random.Random, name: str, varied: Varied, *, once: bool = False) -> Case:
    """One case of profile qemu, whose windows last 100 ms: the range is wide."""
    while True:
        found = case(rng, name, "bandwidth", 2, once=once)
        if found.parameters.at_end == "stop":
            break
    parameters = _slower(replace(found.parameters, bandwidth=720), 1, 7200)
    parameters = replace(
        parameters, profile="qemu", line_rate=14400, zero_page_ns=200_000, max_rounds=6
    )
    lo, hi = (1800, 14400) if varied == "bandwidth" else (0, 10**9)
    return found._replace(parameters=parameters, varied=varied, lo=lo, hi=hi)


def _slower(parameters: Parameters, factor: int, bandwidth: int) -> Parameters:
    return replace(
        parameters,
        bandwidth=bandwidth,
        **{
            name: getattr(parameters, name) * factor
            for name in (
                "request_delay_ns",
                "report_delay_ns",
                "handle_delay_ns",
                "hint_interval_ns",
                "downtime_limit_ns",
            )
        },
    )
