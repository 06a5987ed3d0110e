"""Repairs are what the search proves, nearest first, and cost what a replay says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from analyses import repair as module
from analyses.commands import run
from analyses.interleavings import Bounds
from analyses.price import prices
from analyses.proof import prove, setting_of
from analyses.render.repair import words
from analyses.repair import repairs
from analyses.safety import VERDICTS
from replay.parameters import Parameters
from replay.replay import replay
from tests.analyses.traces import MS, endless, hidden, race
from tracer import Trace

SMALL = Bounds(pages=2)


def changed(found):
    return {tuple((c.axis, c.after) for c in one.changes) for one in found.found}


def opened(path) -> Trace:
    trace = Trace.open(path)
    trace.validate()
    return trace


def test_of_hint_async():
    """What the thread of 2016 came to: drop what is late, wait, drain, stop, or have it held."""
    found = repairs(setting_of("hint-async"), SMALL)
    assert changed(found) == {
        (("accept", "first-pass"),),
        (("accept", "tagged"),),
        (("drain", "yes"),),
        (("start", "wait"),),
        (("guest", "stopped"),),
        (("hold", "ack"),),
        (("hold", "done"),),
    }
    assert (found.distance, found.undecided) == (1, 0)


@pytest.mark.parametrize("name", ["hint-flush-before", "hint-resubmit"])
@pytest.mark.parametrize("mode", ["legacy", "manual"])
def test_a_repair_is_proved_and_one_change_away(name, mode):
    setting = replace(setting_of(name), log_mode=mode)
    found = repairs(setting, SMALL)
    assert found.found
    for one in found.found:
        proof = prove(one.setting, SMALL)
        assert (proof.verdict, proof.states) == ("proved", one.states)
        (change,) = one.changes
        assert change.before != change.after
        assert words(change)
    safe = changed(found)
    tried = 0
    for (change, _), fitting in ((chosen, module._changed(setting, (chosen,))) for chosen in
                                 module._changes(setting)):  # fmt: skip
        if fitting is not None and ((change.axis, change.after),) not in safe:
            tried += 1
            assert prove(fitting, SMALL).verdict == "refuted"
    assert tried > 3


def test_an_endless_composition_is_no_repair():
    """`drain` would be one for hint-flush, but not where each report asks for the next."""
    assert (("drain", "yes"),) in changed(repairs(setting_of("hint-flush"), SMALL))
    assert (("drain", "yes"),) not in changed(repairs(setting_of("hint-resubmit"), SMALL))


def test_where_one_change_is_not_enough_two_are_tried(monkeypatch):
    """A log that handling leaves alone, and a guest that cannot be asked to hold."""
    every = module._changes
    kept = ("sync", "guest", "log")
    monkeypatch.setattr(
        module, "_changes", lambda s: (one for one in every(s) if one[0].axis in kept)
    )
    setting = replace(setting_of("hint-flush"), log_mode="manual", hint_clears_log=False)
    found = repairs(setting, Bounds())
    assert found.distance == 2
    assert found.found
    for one in found.found:
        assert len({change.axis for change in one.changes}) == 2
        assert prove(one.setting, Bounds()).verdict == "proved"
    monkeypatch.setattr(
        module, "_changes", lambda s: (one for one in every(s) if one[0].axis == "request")
    )
    none = repairs(setting, Bounds())
    assert (none.found, none.distance) == ((), 2)


def test_what_takes_too_much_memory_is_undecided():
    whole, cut = (repairs(setting_of("hint-periodic"), replace(SMALL, memory=most))
                  for most in (1 << 30, 1_200_000))  # fmt: skip
    assert whole.undecided == 0
    assert cut.undecided >= len(whole.found) - len(cut.found) > 0
    assert changed(cut) < changed(whole)


def test_the_price_is_a_replays(tmp_path):
    trace = opened(race(tmp_path / "race.trace"))
    parameters = Parameters(request="once")
    setting = setting_of("hint-async")
    found = repairs(setting, SMALL)
    spent = prices(trace, setting.strategy, parameters, found.found)
    assert [one.result.strategy for one in spent[:2]] == ["precopy", "hint-async"]
    assert [one.result.lost for one in spent] == [0, 1] + [0] * len(found.found)
    keys = [(one.result.pages_sent, one.result.total_ns) for one in spent[2:]]
    assert keys == sorted(keys)
    for one in spent[2:]:
        assert one.repair is not None
        (again, *_) = replay(
            trace,
            one.repair.setting.strategy,
            Parameters(guest_hold=one.repair.setting.hold),
        )
        assert again.result == one.result


def test_another_request_axis_is_replayed(tmp_path):
    """A repair that changes the request axis is not overruled by the one asked for."""
    trace = opened(race(tmp_path / "race.trace"))
    setting = setting_of("hint-wait", "every-sync")
    found = repairs(setting, SMALL)
    assert (("request", "once"),) in changed(found)
    spent = prices(trace, setting.strategy, Parameters(request="every-sync"), found.found)
    asked = {
        one.repair.changes[0].after: one.result.reports_requested
        for one in spent
        if one.repair is not None and one.repair.changes[0].axis == "request"
    }
    assert asked["once"] == 1
    assert spent[1].result.reports_requested > 1


# -- the commands ---------------------------------------------------------------------------------


def test_repair(tmp_path, capsys, monkeypatch):
    path = str(race(tmp_path / "race.trace"))
    assert run(["repair", path, "-s", "hint-async", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["proved"], row["undecided"], len(row["repairs"])) == (False, 0, 7)
    assert row["as_it_is"]["lost"] == 1
    assert {one["lost"] for one in row["repairs"]} == {0}
    assert all(one["states"] > 0 and len(one["changes"]) == 1 for one in row["repairs"])
    for columns in (80, 160):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert run(["repair", path, "-s", "hint-flush"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        assert any(line.startswith("drain before each sync") for line in lines)
    assert run(["repair", path, "-s", "hint-drain"]) == 0
    assert "nothing to repair" in capsys.readouterr().out


def test_repair_where_replays_do_not_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = str(race(tmp_path / "short.trace", duration_ns=20 * MS))
    command = ["repair", path, "-s", "hint-flush", "--bandwidth", "100MiB/s"]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert ": trace is over" in said
    assert max(map(len, said.splitlines())) <= 80


def test_repair_refuses(tmp_path, capsys):
    assert run(["repair", str(endless(tmp_path / "e.trace")), "-s", "hint-flush"]) == 2
    assert "free list" in capsys.readouterr().err


def test_prove_offers_repairs(capsys):
    assert run(["prove", "hint-flush", "--pages", "2"]) == 5
    said = capsys.readouterr().out
    assert "one policy changed" in said
    assert "accept first-pass (" in said
    assert run(["prove", "hint-flush", "--pages", "2", "--no-repairs"]) == 5
    assert "one policy changed" not in capsys.readouterr().out
    assert run(["prove", "hint-flush", "--pages", "2", "--json"]) == 5
    rows = json.loads(capsys.readouterr().out)["repairs"]
    # Searched as far as by default: two pages alone do not show every race.
    assert all(row["states"] > 4_000 for row in rows)
    assert {"axis": "drain", "from": "no", "to": "yes"} in [row["changes"][0] for row in rows]
    assert run(["prove", "hint-wait", "--pages", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repairs"] == []


def test_repair_and_replay_agree(tmp_path, capsys, monkeypatch):
    """Saturated never switches over: what is not known there is no "safe" either."""
    path = str(hidden(tmp_path / "hidden.trace", duration_ns=500 * MS))
    options = ["--bandwidth", "10Gbit/s", "--downtime-limit", "200ms"]
    assert run(["repair", path, "-s", "hint-async", *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = ["--strategy", "precopy", "--strategy", "hint-async", "--strategy", "hint-first-pass"]
    assert run(["replay", path, *names, *options, "--json"]) == 0
    verdicts = {}
    for row in json.loads(capsys.readouterr().out):
        verdicts.setdefault(row["strategy"], {})[row["scenario"]] = row["verdict"]
    gravest = {name: min(found.values(), key=VERDICTS.index) for name, found in verdicts.items()}
    assert verdicts["precopy"]["recorded"] == "safe"
    assert told["precopy"]["verdict"] == gravest["precopy"] == "unknown"
    assert told["precopy"]["no_switchover"] == ["saturated"]
    assert told["as_it_is"]["verdict"] == gravest["hint-async"]
    (repaired,) = (
        one for one in told["repairs"] if one["changes"][0]["to"] == "first-pass"
    )  # fmt: skip
    assert repaired["verdict"] == gravest["hint-first-pass"]
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["repair", path, "-s", "hint-async", *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the gravest of scenarios recorded, expected and saturated" in said
    assert "saturated does not switch over" in said


def test_repair_tells_who_stands_still(tmp_path, capsys):
    path = str(race(tmp_path / "race.trace"))
    assert run(["repair", path, "-s", "hint-async", "--handle-delay", "90ms", "--json"]) == 0
    still = {
        one["changes"][0]["to"]: one["vcpu_stopped_ns"]
        for one in json.loads(capsys.readouterr().out)["repairs"]
    }
    assert still.pop("stopped") == 100 * MS
    assert set(still.values()) == {0}
    assert run(["repair", path, "-s", "hint-async", "--handle-delay", "90ms"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "- guest stopped till handled: the guest stands still for 100 ms" in said
