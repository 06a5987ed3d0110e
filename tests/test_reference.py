"""Engine and reference agree, number for number, on random traces and every strategy."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay import kernels
from replay.memory import Memory
from replay.policies import REQUESTS
from replay.strategies import registered
from tests import reference
from tests.bridge import differences, run_engine
from tests.random_traces import cases, messy_case, random_case, wide_case

NAMES = list(registered())


def compare(
    trace: reference.ReferenceTrace,
    name: str,
    parameters: reference.ReferenceParameters,
    scenario: str,
    batch: int | None = None,
) -> list[str]:
    try:
        wanted = reference.replay(trace, name, parameters, scenario)
    except ValueError:  # a composition that cannot end is refused by both, see test_strategies
        return []
    return differences(run_engine(trace, name, parameters, scenario, batch), wanted)


@settings(
    max_examples=1200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(cases(), st.sampled_from(NAMES), st.booleans(), st.sampled_from([None, 1, 2, 5]))
def test_agrees_on_anything(case, name, saturated, batch):
    trace, parameters = case
    scenario = "saturated" if saturated and trace.resolution != "write" else "recorded"
    assert compare(trace, name, parameters, scenario, batch) == []


@pytest.mark.parametrize("mode", ["legacy", "manual"])
@pytest.mark.parametrize("hold", ["auto", "none", "ack", "done"])
@pytest.mark.parametrize("request_axis", [None, *REQUESTS])
def test_agrees_on_hint_races(mode, hold, request_axis):
    """Every log mode, hold and request axis, with every strategy, on traces made for races."""
    rng = random.Random(f"{mode} {hold} {request_axis}")
    for number in range(12):
        trace, parameters = random_case(rng)
        parameters = replace(
            parameters,
            log_mode=mode,
            guest_hold=hold,
            request=request_axis,
            hint_clears_log=rng.random() < 0.5,
        )
        for name in NAMES:
            assert compare(trace, name, parameters, "recorded") == [], (number, name)


def test_agrees_on_messy_traces():
    rng = random.Random(11)
    for number in range(25):
        trace, parameters = messy_case(rng)
        name = rng.choice(NAMES)
        for scenario in ("recorded", "saturated"):
            if scenario == "recorded" or trace.resolution != "write":
                assert compare(trace, name, parameters, scenario, 3) == [], (number, name)


def test_agrees_on_wide_guests():
    """Where stretches of pages that are copied together go over many words, and are cut."""
    rng = random.Random(5)
    for number in range(60):
        trace, parameters = wide_case(rng)
        name = rng.choice(NAMES)
        assert compare(trace, name, parameters, "recorded", 50) == [], (number, name)
        if number % 6 == 0 and trace.resolution != "write":
            assert compare(trace, name, parameters, "saturated", 50) == [], (number, name)


def _forgets_a_harvested_page(self: Memory) -> int:
    """A sync that clears the log before it has harvested the lowest page in it."""
    self.settle()
    logged = np.flatnonzero(self.state[:, kernels.LOG])
    if len(logged):
        word = self.state[logged[0], kernels.LOG]
        self.state[logged[0], kernels.LOG] &= word - np.uint64(1)
    return int(kernels.sync_legacy(self.state, self.written)[0])


def test_a_planted_error_is_caught(monkeypatch):
    """An engine whose sync loses one page differs from the reference or fails loudly."""
    monkeypatch.setattr(Memory, "sync", _forgets_a_harvested_page)
    rng = random.Random(3)
    caught = 0
    for _ in range(20):
        trace, parameters = random_case(rng)
        try:
            caught += bool(compare(trace, "precopy", parameters, "recorded"))
        except AssertionError as error:
            assert "a bug of the replayer" in str(error)  # noqa: PT017
            caught += 1
    assert caught >= 10
