"""The conformance suite: what it finds, and that each of its checks can fail."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from analyses.commands import run
from analyses.conformance import PROPERTIES, conformance, conforms
from analyses.properties import CHECKS
from analyses.random_guests import random_case
from replay.policies import Accept, Always, Fate, Once, Request, Tagged
from replay.replay import replay
from replay.strategies import Strategy, registered, strategy
from tracer import UsageError
from tracer.errors import CheckError


class Raises(Accept):
    def when_due(self, report):
        raise ValueError("no luck")


class Counts(Accept):
    def __init__(self):
        self.asked = 0

    def when_due(self, report):
        self.asked += 1
        return Fate.HANDLE


class Dice(Accept):
    def before_sync(self, report):
        return random.choice((Fate.KEEP, Fate.DROP))  # without a seed


class Again(Request):
    def when_done(self):
        return True


def found_with(request=None, accept=None, **how):
    own = Strategy("mine", "a test", request or Once(), accept or Always())
    return conformance(own, **{"cases": 40, **how})


def failing(found):
    return {finding.name for finding in found.findings if finding.failed}


def case_of(found, name):
    return next(finding for finding in found.findings if finding.name == name)


@pytest.mark.parametrize(
    ("how", "name", "said"),
    [
        ({"accept": Raises()}, "answers", "ValueError: no luck"),
        ({"accept": Counts()}, "is pure", "changed an attribute"),
        ({"accept": Dice()}, "is pure", "to the same question again"),
        ({"request": Again()}, "ends", "floods the guest"),
    ],
)
def test_what_misbehaves_is_found(how, name, said):
    found = found_with(**how)
    assert failing(found) == {name}
    finding = case_of(found, name)
    assert said in finding.reason
    assert not found.holds
    assert 1 <= finding.failed <= finding.tried <= 40


def test_the_smallest_guest_comes_back_and_fails_again():
    found = found_with(accept=Raises())
    finding, case = found.case
    assert finding.name == "answers"
    own = Strategy("mine", "a test", Once(), Raises())
    with pytest.raises(ValueError, match="no luck"):
        replay(case.trace(), own, case.parameters)
    more = found_with(accept=Raises(), cases=80)
    assert more.case[1].rows <= case.rows


def test_what_was_not_tried_did_not_pass():
    found = found_with(request=Again(), accept=Always(), cases=200)
    assert found.cases < 200
    assert case_of(found, "adds up").tried < case_of(found, "ends").tried


def test_a_property_is_tried_on_the_guests_that_can_show_it(capsys):
    found = conformance(strategy("hint-tagged"), cases=40)
    rng = random.Random(5)
    holding = sum(
        random_case(rng).parameters.hold(strategy("hint-tagged")) == "done" for _ in range(40)
    )
    assert 0 < holding < 40
    assert case_of(found, "held").tried == holding
    assert case_of(found, "fits").tried == 40
    assert run(["conform", "hint-tagged", "--guests", "40"]) == 0
    assert f"loses nothing ({holding} guests)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["precopy", "hint-drain", "hint-stop-vcpu"])
def test_it_is_the_same_each_time(name):
    first = conformance(strategy(name), cases=15)
    assert first.to_dict() == conformance(strategy(name), cases=15).to_dict()
    assert first.to_dict()["conforms"] is True
    assert json.dumps(first.to_dict())


def test_its_guests_are_dense_with_races():
    """Enough that a strategy known to lose writes does, and one known not to does not."""
    losing = conformance(strategy("hint-wait"), cases=100).losing
    assert sum(losing.values()) >= 3
    assert conformance(strategy("precopy"), cases=60).losing == {"legacy": 0, "manual": 0}
    rng = random.Random(1)
    cases = [random_case(rng) for _ in range(60)]
    assert {case.meta.resolution for case in cases} == {"write", "first-write", "epoch"}
    assert {case.parameters.profile for case in cases} == {"rounds", "qemu"}
    results = [
        one.result
        for case in cases
        for one in replay(case.trace(), strategy("hint-async"), case.parameters)
    ]
    assert sum(row.completed for row in results) > len(results) // 2
    assert {row.log_mode for row in results} == {"legacy", "manual"}
    assert max(row.rounds for row in results) > 3


def test_no_guests_are_refused():
    with pytest.raises(UsageError, match="at least 1"):
        conformance(strategy("precopy"), cases=0)


def test_for_a_test_of_ones_own():
    conforms(Strategy("mine", "a test", Once(), Tagged()), cases=5)
    with pytest.raises(CheckError, match=r"mine does not conform: answers: .*no luck"):
        conforms(Strategy("mine", "a test", Once(), Raises()), cases=5)


def test_the_properties_are_told_in_order():
    found = conformance(strategy("precopy"), cases=1)
    assert [finding.name for finding in found.findings] == list(PROPERTIES)
    assert set(CHECKS) < set(PROPERTIES)


# -- the checks can fail ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lossy():
    """A case on which a page is lost, with its replays."""
    rng = random.Random(5)
    chosen = registered()["hint-async"]
    for _ in range(2000):
        case = random_case(rng)
        plain = replace(case.parameters, profile="rounds", guest_hold="none", request=None)
        case = replace(case, parameters=plain)
        runs = replay(case.trace(), chosen, case.parameters)
        if len(runs) == 1 and runs[0].result.lost and len(runs[0].rounds) > 1:
            return case, chosen, runs[0]
    raise AssertionError("no race found")


def wrong(name, case, chosen, run):
    return list(CHECKS[name](case, chosen, [run]))


def test_a_sound_replay_passes(lossy):
    assert [wrong(name, *lossy) for name in CHECKS] == [[]] * len(CHECKS)


@pytest.mark.parametrize(
    ("name", "field", "change"),
    [
        ("adds up", "pages_sent", 1),
        ("adds up", "zero_pages_sent", 1),
        ("adds up", "redundant", 1),
        ("adds up", "wasted", 1),
        ("adds up", "wire_bytes", 1),
        ("adds up", "reports_requested", 1),
        ("adds up", "reports_handled", 1),
        ("adds up", "reports_dropped", 1),
        ("adds up", "skipped_pages", 1),
        ("adds up", "hold_conflicts", 1),
        ("ascends", "total_ns", 1),
        ("fits", "lost", 1),
        ("fits", "lost", -1),
    ],
)
def test_a_wrong_count_is_noticed(lossy, name, field, change):
    case, chosen, run = lossy
    result = replace(run.result, **{field: getattr(run.result, field) + change})
    assert wrong(name, case, chosen, replace(run, result=result))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("fits", {"verdict": "safe"}),
        ("fits", {"reason": "livelock"}),
        ("fits", {"completed": False}),
        ("adds up", {"completed": False}),
    ],
)
def test_a_wrong_verdict_is_noticed(lossy, name, fields):
    case, chosen, run = lossy
    assert wrong(name, case, chosen, replace(run, result=replace(run.result, **fields)))


def test_a_wrong_order_is_noticed(lossy):
    case, chosen, run = lossy
    (report, *others), (witness, *rest) = run.reports, run.unsafe
    first, second = run.rounds[:2]
    for broken in (
        replace(run, reports=(replace(report, done_ns=-1), *others)),
        replace(run, rounds=(replace(first, end_ns=second.start_ns + 1), *run.rounds[1:])),
        replace(run, unsafe=(replace(witness, t_harvested=witness.t_skipped + 1), *rest)),
        replace(run, unsafe=(replace(witness, t_snapshot=witness.t_skipped + 1), *rest)),
    ):
        assert wrong("ascends", case, chosen, broken)


def test_a_loss_in_spite_of_a_hold_is_noticed(lossy):
    case, chosen, run = lossy
    held = replace(case, parameters=replace(case.parameters, guest_hold="done"))
    assert wrong("held", held, chosen, run)
