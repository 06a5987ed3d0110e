"""The scenarios of a recording that cannot know everything (the model, section 7), as traces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from replay.contained import contained_reports
from replay.parameters import LONGEST, Parameters
from replay.result import Scenario
from replay.rewrites import Rewrites, in_words
from tracer.trace import Trace
from tracer.words import duration

#: Measured peaks while drawing, for each page that a row names and for each page of the guest.
_BYTES_A_WRITE, _BYTES_A_PAGE = 120, 40


def scenarios(trace: Trace, parameters: Parameters | None = None) -> tuple[Scenario, ...]:
    """Return the scenarios that a trace calls for, the leading one first, less those left out.

    Where all writes are known but not all moments, the others would be the same replay again.
    """
    if trace.exact:
        return ("exact",)
    if trace.meta.resolution == "write":
        return ("recorded",)
    kept = None if parameters is None else parameters.scenarios
    more: tuple[Scenario, ...] = ("expected", "saturated")
    return ("recorded", *(name for name in more if kept is None or name in kept))


def memory_to_draw(trace: Trace) -> int:
    """Return about how many bytes drawing hidden writes takes."""
    return trace.pages_written * _BYTES_A_WRITE + trace.meta.pages * _BYTES_A_PAGE


class Readings:
    """One trace as each scenario reads it; what is drawn is drawn once for all strategies.

    trace: validated. drawn: what was drawn of the same trace before, by seed; it is added to.
    """

    def __init__(
        self, trace: Trace, parameters: Parameters, drawn: dict[int, Rewrites] | None = None
    ):
        self.trace = trace
        self.given = parameters
        self._drawn = {} if drawn is None else drawn

    @cached_property
    def rewrites(self) -> Rewrites:
        """The working-set model, fitted to the trace."""
        seed = self.given.seed
        if seed not in self._drawn:
            self._drawn[seed] = Rewrites(self.trace, seed, contained_reports(self.trace).page)
        return self._drawn[seed]

    def parameters(self, scenario: Scenario) -> Parameters:
        """Return how a reading is replayed: what is not continued is repeated instead."""
        if self.given.at_end != "continue":
            return self.given
        return replace(self.given, at_end="stop" if self._continues(scenario) else "loop")

    def draw(self) -> None:
        """Draw now what scenarios need, before several threads ask for it."""
        if "expected" in scenarios(self.trace, self.given):
            _ = self.rewrites.expected

    def of(self, scenario: Scenario) -> Iterator[Trace]:
        """Yield the trace as the scenario reads it, then the same continued, ever longer.

        More than one comes only where the user asked for it to be continued.
        """
        yield self.rewrites.expected if scenario == "expected" else self.trace
        if not self._continues(scenario):
            return
        duration, times = self.trace.meta.duration_ns, 2
        while duration and times < LONGEST:
            yield self.rewrites.until(times * duration)
            times *= 2
        if duration:
            yield self.rewrites.until(LONGEST * duration)

    def drawn(self, scenario: Scenario, reading: Trace) -> Iterator[str]:
        """Say what of a reading was drawn, and from what."""
        seed, continued = (
            self.given.seed,
            reading.meta.duration_ns > self.trace.meta.duration_ns,
        )
        if scenario == "expected":
            yield f"hidden writes are drawn (seed {seed}) from the trace's working set"
        if continued:
            yield (
                f"from {duration(self.trace.meta.duration_ns)} of guest time on, where the trace "
                f"ends, it is continued as its working set was (drawn, seed {seed}); nothing is "
                "freed there"
            )
        if scenario == "expected" or continued:
            yield in_words(self.rewrites.fits)

    def _continues(self, scenario: Scenario) -> bool:
        return self.given.at_end == "continue" and scenario in ("expected", "exact")
