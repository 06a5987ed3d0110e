"""Which strategies lose writes at all: the table that ends the model's section 6.

The shares mean nothing, zero or not zero does. Where a loss is possible the search stops at the
first; where none is, all cases are tried.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from replay.strategies import registered, strategy
from tests.bridge import as_parameters, as_trace
from tests.random_traces import random_case
from tests.reference import ReferenceParameters, ReferenceTrace

NEVER = {
    "legacy": {
        "precopy",
        "hint-stop-vcpu",
        "hint-wait",
        "hint-first-pass",
        "hint-drain",
        "hint-tagged",
    },
    "manual": {"precopy", "hint-stop-vcpu"},
}
CASES_WHERE_NONE = 1000
CASES_AT_MOST = 8000


def _lost(trace, name, parameters, **changes) -> int:
    from replay.replay import replay

    chosen = as_parameters(replace(parameters, **changes))
    result = replay(as_trace(trace), strategy(name), chosen)[0].result
    assert result.verdict == (
        "unknown" if not result.completed else "unsafe" if result.lost else "safe"
    )
    return result.lost or 0


def _cases(count: int):
    rng = random.Random(6)
    return (random_case(rng) for _ in range(count))


@pytest.mark.parametrize("mode", ["legacy", "manual"])
@pytest.mark.parametrize("name", list(registered()))
def test_without_a_hold(name, mode):
    changes = {"log_mode": mode, "guest_hold": "none", "hint_clears_log": True}
    if name in NEVER[mode]:
        assert not any(_lost(*_at(case, name), **changes) for case in _cases(CASES_WHERE_NONE))
    else:
        assert any(_lost(*_at(case, name), **changes) for case in _cases(CASES_AT_MOST))


def _at(case: tuple[ReferenceTrace, ReferenceParameters], name: str):
    return case[0], name, case[1]


def test_asked_with_every_sync_hint_wait_loses_in_legacy_mode_too():
    """Only the first report is waited for."""
    changes = {"log_mode": "legacy", "guest_hold": "none", "request": "every-sync"}
    assert any(_lost(*_at(case, "hint-wait"), **changes) for case in _cases(CASES_AT_MOST))


@pytest.mark.parametrize("mode", ["legacy", "manual"])
@pytest.mark.parametrize("hold", ["ack", "done"])
@pytest.mark.parametrize("name", list(registered()))
def test_a_hold_loses_nothing(name, hold, mode):
    changes = {"log_mode": mode, "guest_hold": hold, "hint_clears_log": True}
    assert not any(_lost(*_at(case, name), **changes) for case in _cases(250))


def test_an_ack_is_not_enough_where_handling_leaves_the_log():
    """Manual mode before QEMU 6.1: a held page taken after the handling leaves no record."""
    changes = {"log_mode": "manual", "guest_hold": "ack", "hint_clears_log": False}
    assert any(_lost(*_at(case, "hint-wait"), **changes) for case in _cases(CASES_AT_MOST))


def test_stopping_the_guest_is_not_enough_where_handling_leaves_the_log():
    trace = ReferenceTrace(
        page_size=64,
        pages=3,
        duration_ns=1000,
        dirty=[(50, 2, 1)],
        freelist=[(0, 2, 1, True), (50, 2, 1, False)],
        zero=[],
        epochs=[],
        blocks=[(0, 1), (1, 2)],
    )
    parameters = ReferenceParameters(720_000_000, 0, log_mode="manual", hint_clears_log=False)
    assert _lost(trace, "hint-stop-vcpu", parameters) == 1
    assert _lost(trace, "hint-stop-vcpu", parameters, hint_clears_log=True) == 0
