from __future__ import annotations

import pytest

from analyses.compare import compare, plan
from analyses.safety import conditions, findings, premise
from analyses.waste import SHARES, cost, costs
from replay.parameters import Parameters
from replay.strategies import registered
from tests.analyses.traces import endless, hidden, race, unlisted
from tracer import TraceError, UsageError

SLOW = Parameters(bandwidth=64 << 20)


def run(path, *names, parameters=None):
    return compare(plan([path], names, parameters or Parameters()))[0]


def test_without_names_all_that_the_trace_has_data_for(tmp_path):
    listed, bare = race(tmp_path / "listed.trace"), unlisted(tmp_path / "bare.trace")
    work = plan([listed, bare], [], Parameters())
    names = [[strategy.name for strategy in strategies] for _, strategies in work.traces]
    assert names == [list(registered()), ["precopy"]]
    assert work.remarks == ("bare: no free list, so precopy is all that can be replayed",)


def test_a_named_strategy_without_its_data_is_refused(tmp_path):
    bare = unlisted(tmp_path / "bare.trace")
    with pytest.raises(UsageError, match="hint-async needs a free list"):
        plan([bare], ["precopy", "hint-async"], Parameters())


def test_an_axis_that_cannot_end_is_left_out_unless_named(tmp_path):
    path, parameters = race(tmp_path / "a.trace"), Parameters(request="resubmit")
    work = plan([path], [], parameters)
    assert "hint-drain" not in [strategy.name for strategy in work.traces[0][1]]
    assert len(work.traces[0][1]) == len(registered()) - 1
    assert "hint-drain" in work.remarks[0]
    with pytest.raises(UsageError, match="cannot end"):
        plan([path], ["hint-drain"], parameters)


def test_an_unknown_axis_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'often' is unknown"):
        plan([race(tmp_path / "a.trace")], [], Parameters(request="often"))


def test_a_strategy_named_twice_is_replayed_once(tmp_path):
    assert len(run(race(tmp_path / "a.trace"), "precopy", "precopy").replays) == 1


def test_two_traces_of_one_name_are_refused(tmp_path):
    paths = [race(tmp_path / "a" / "x.trace"), race(tmp_path / "b" / "x.trace")]
    with pytest.raises(UsageError, match="rename one"):
        plan(paths, [], Parameters())


def test_hinting_is_refused_but_for_anyway(tmp_path):
    path = race(tmp_path / "a.trace", hinting=True)
    with pytest.raises(UsageError, match="--anyway"):
        plan([path], [], Parameters())
    assert plan([path], [], Parameters(), anyway=True).traces


def test_bad_rows_are_found_before_anything_is_replayed(tmp_path):
    path = race(tmp_path / "a.trace")
    file = path / "dirty.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(TraceError, match=r"dirty\.arrow"):
        run(path, "precopy")


def test_progress_never_falls_and_ends_at_the_last_strategy(tmp_path):
    told = []
    work = plan([race(tmp_path / "a.trace")], ["precopy", "hint-async"], Parameters())
    compare(work, lambda *step: told.append(step))
    replaying = [step for step in told if not step[0].endswith("checking")]
    assert [step[1] for step in replaying] == sorted(step[1] for step in replaying)
    assert all(done <= total for _, done, total in told)
    assert {step[0] for step in replaying} == {"a: precopy", "a: hint-async"}


def test_findings_tell_the_race(tmp_path):
    comparison = run(race(tmp_path / "race.trace"))
    found = {one.strategy: one for one in findings(comparison)}
    assert found["hint-async"].verdict == "unsafe"
    assert found["hint-async"].lost == 1
    assert found["hint-async"].witness.page == 60
    assert found["hint-first-pass"].verdict == "safe"
    assert found["hint-first-pass"].witness is None
    assert found["hint-tagged"].hold == "done"
    assert "guest hold none" in premise(list(found.values()), comparison)
    assert premise([found["precopy"]], comparison) == ""


def test_a_loss_in_manual_mode_is_never_told_without_its_condition(tmp_path):
    comparison = run(race(tmp_path / "race.trace"), parameters=Parameters(log_mode="manual"))
    assert "only under memory pressure" in premise(findings(comparison), comparison)


def test_conditions_name_those_concerned_only_where_it_is_not_all(tmp_path):
    comparison = run(hidden(tmp_path / "a.trace"), "hint-async", "hint-tagged")
    told = {condition.text: condition for condition in conditions(comparison)}
    assert len(told) == len(conditions(comparison))
    held = next(c for text, c in told.items() if "safe by construction" in text)
    assert held.strategies == ("hint-tagged",)
    recorded = next(c for text, c in told.items() if "recorded instants" in text)
    assert (recorded.strategies, recorded.scenario) == ((), "recorded")


def test_no_switchover_is_a_condition_of_its_own(tmp_path):
    comparison = run(endless(tmp_path / "a.trace"), parameters=SLOW)
    assert [one.verdict for one in findings(comparison)] == ["unknown"]
    assert any("trace-exhausted" in condition.text for condition in conditions(comparison))


def test_costs_add_up_and_are_against_precopy(tmp_path):
    comparison = run(race(tmp_path / "race.trace"))
    for result, spent in zip(comparison.results, costs(comparison), strict=True):
        assert sum(spent.parts) == spent.sent == result.pages_sent
        assert len(spent.parts) == len(SHARES)
        assert spent.wasted == result.wasted
        against = None if result.strategy == "precopy" else comparison.results[0].pages_sent
        assert spent.precopy_sent == against


def test_without_a_switchover_waste_is_a_lower_bound(tmp_path):
    (result,) = run(endless(tmp_path / "a.trace"), parameters=SLOW).results
    spent = cost(result, None)
    assert spent.at_least
    assert sum(spent.parts) == result.pages_sent
    assert spent.wasted == result.redundant + result.free + result.superseded
