"""The strategies: one conformance suite for all, and the registry."""

from __future__ import annotations

import pytest

from analyses.conformance import conforms
from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import registered, strategy
from tests.bridge import as_trace
from tests.reference import COMPOSITIONS, ReferenceTrace
from tracer import UsageError


@pytest.mark.parametrize("name", list(registered()))
def test_conformance(name):
    conforms(strategy(name), cases=60)


def test_the_named_strategies_are_the_models():
    """Their compositions, written down twice, are the same."""
    for name, composition in COMPOSITIONS.items():
        found = strategy(name)
        assert found.start == composition.start
        assert (found.request and found.request.name) == composition.request
        assert (found.accept and found.accept.name) == composition.accept
        assert found.sync == composition.sync
        assert found.drain == composition.drain
        assert found.stop_guest == composition.stop_guest
        assert found.hold == ("done" if name == "hint-tagged" else "none")


def test_a_near_name_is_suggested():
    with pytest.raises(UsageError, match="did you mean 'hint-async'"):
        strategy("hint-asnyc")


def test_a_composition_that_cannot_end_is_refused():
    with pytest.raises(UsageError, match="cannot end"):
        strategy("hint-drain").with_request("resubmit")


def test_an_unknown_request_axis_is_refused():
    with pytest.raises(UsageError, match="every-sync"):
        strategy("hint-async").with_request("twice")


def test_hints_need_a_free_list():
    trace = as_trace(ReferenceTrace(64, 2, 1000, [], [], [], [], [(0, 2)]))
    without = type(trace)("bare", trace.meta, None, {"dirty": trace._tables["dirty"]})
    with pytest.raises(UsageError, match="needs a free list"):
        replay(without, strategy("hint-async"), Parameters())
    assert replay(without, strategy("precopy"), Parameters())[0].result.completed
