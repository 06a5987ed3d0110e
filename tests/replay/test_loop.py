"""A trace that loops is the same as the trace written out again and again."""

from __future__ import annotations

import random
from dataclasses import replace

from replay.parameters import LONGEST, Parameters
from replay.replay import replay
from replay.strategies import registered, strategy
from tests import reference
from tests.bridge import as_parameters, as_trace, differences
from tests.random_traces import random_case
from tests.reference import ReferenceTrace

PASSES = 6


def _unrolled(trace: ReferenceTrace) -> ReferenceTrace:
    """Write `PASSES` passes out; at each seam the free list goes back to where it began."""
    length = trace.duration_ns
    begin, end = set(), set()
    for t, page, count, free in trace.freelist:
        for one in range(page, page + count):
            (end.add if free else end.discard)(one)
            if t <= 0:
                (begin.add if free else begin.discard)(one)
    seam = [(page, 1, False) for page in sorted(end - begin)]
    seam += [(page, 1, True) for page in sorted(begin - end)]
    dirty, freelist, zero = list(trace.dirty), list(trace.freelist), list(trace.zero)
    epochs = [t for t in trace.epochs if t > 0]
    for turn in range(1, PASSES):
        shift = turn * length
        freelist += [(shift, *rest) for rest in seam]
        freelist += [(t + shift, *rest) for t, *rest in trace.freelist if t > 0]
        dirty += [(t + shift, *rest) for t, *rest in trace.dirty if t > 0]
        zero += [(t + shift, *rest) for t, *rest in trace.zero if t > 0]
    ends = sorted({*epochs, length})
    return replace(
        trace,
        duration_ns=length * PASSES,
        dirty=dirty,
        freelist=freelist,
        zero=zero,
        epochs=[t + turn * length for turn in range(PASSES) for t in ends],
    )


def test_a_loop_is_the_trace_written_out():
    rng = random.Random(12)
    compared = beyond = 0
    for _ in range(60):
        trace, parameters = random_case(rng)
        if rng.random() < 0.5:
            epochs = sorted(rng.sample(range(1, trace.duration_ns), 3))
            trace = replace(trace, resolution="first-write", epochs=epochs)
        # A hold looks ahead to the end of the trace, which a loop does not have.
        parameters = replace(
            parameters, guest_hold=rng.choice(["none", "ack"]), max_rounds=rng.choice([4, 8, 16])
        )
        for name in registered():
            chosen = replace(as_parameters(parameters), at_end="loop")
            for run in replay(as_trace(trace, batch=7), strategy(name), chosen):
                if run.result.total_ns > trace.duration_ns * (PASSES - 1):
                    continue
                wanted = reference.replay(
                    _unrolled(trace),
                    name,
                    parameters,
                    "saturated" if run.result.scenario == "saturated" else "recorded",
                )
                assert differences(run, wanted) == []
                compared += 1
                beyond += run.result.total_ns > trace.duration_ns
    assert compared > 300
    assert beyond > 20


def test_a_loop_that_never_converges_ends():
    trace = as_trace(ReferenceTrace(64, 1, 100, [(50, 0, 1)], [], [], [], [(0, 1)]))
    parameters = Parameters(bandwidth=720_000_000, downtime_limit_ns=0, at_end="loop")
    (run,) = replay(trace, strategy("precopy"), parameters)
    if not run.result.completed:
        assert run.result.reason == "trace-exhausted"
        assert run.result.total_ns > 100 * LONGEST


def test_nothing_to_loop():
    """A trace without rows, or of no length, is not gone through for ever."""
    for duration in (0, 100):
        trace = as_trace(ReferenceTrace(64, 3, duration, [], [], [], [], [(0, 3)]))
        (run,) = replay(trace, strategy("precopy"), Parameters(at_end="loop"))
        assert run.result.completed == (duration > 0)
