"""`prove`: what it must find by itself, and that replays agree with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analyses.commands import run
from analyses.commands.proofs import CELLS, cell
from analyses.interleavings import Bounds, Search, Setting
from analyses.proof import prove, setting_of
from analyses.render.proof import command, show
from analyses.render.terminal import Page
from replay.policies import Accept, Fate, Once
from replay.strategies import Strategy, registered
from tests.test_hint_races import NEVER
from tracer.errors import UsageError

HINTS = [name for name, strategy in registered().items() if strategy.hints]
TABLE = (
    (Path(__file__).parents[2] / "ARCHITECTURE.md")
    .read_text(encoding="utf-8")
    .partition("<!-- proofs -->\n")[2]
    .partition("<!-- /proofs -->")[0]
)


def _proof(name, mode="legacy", hold="none", *, clears=True, request=None, **bounds):
    setting = setting_of(name, request)
    setting = replace(setting, log_mode=mode, hold=hold, hint_clears_log=clears)
    return prove(setting, Bounds(**bounds))


@pytest.mark.parametrize("mode", ["legacy", "manual"])
@pytest.mark.parametrize("name", list(registered()))
def test_without_a_hold_it_agrees_with_random_search(name, mode):
    proof = _proof(name, mode)
    assert (proof.verdict == "proved") == (name in NEVER[mode])
    assert (proof.course is None) == (proof.enactment is None), "confirmed by a replay"


@pytest.mark.parametrize("mode", ["legacy", "manual"])
@pytest.mark.parametrize("name", HINTS)
def test_an_ack_closes_all_races(name, mode):
    assert _proof(name, mode, "ack", pages=2).verdict == "proved"


@pytest.mark.parametrize("name", ["hint-wait", "hint-drain", "hint-stop-vcpu", "hint-tagged"])
def test_an_ack_is_not_enough_where_handling_leaves_the_log(name):
    proof = _proof(name, "manual", "ack", clears=False)
    assert proof.verdict == "refuted"
    assert proof.enactment is not None
    assert "no record of its own" in proof.story.cause


@pytest.mark.parametrize(
    "name", ["hint-async", "hint-flush", "hint-flush-before", "hint-periodic", "hint-resubmit"]
)
def test_the_straddling_report(name):
    proof = _proof(name)
    kinds = [kind for kind, _ in proof.course.labels]
    sync = kinds.index("sync")
    assert kinds.index("snapshot") < sync < kinds.index("consume")
    assert "moved the only record" in proof.story.cause
    assert proof.enactment.lost == proof.course.lost_pages


def test_stopping_the_guest_is_what_makes_hint_stop_vcpu_safe():
    assert _proof("hint-stop-vcpu").verdict == "proved"
    proof = prove(setting_of("hint-stop-vcpu", guest_runs=True), Bounds(), guest_runs=True)
    assert proof.verdict == "refuted"
    assert proof.enactment is not None
    with pytest.raises(UsageError, match="guest run anyway"):
        setting_of("hint-wait", guest_runs=True)


@pytest.mark.parametrize("request_axis", ["every-sync", "periodic", "resubmit"])
def test_asked_more_than_once_hint_wait_loses_in_legacy_mode_too(request_axis):
    proof = _proof("hint-wait", request=request_axis, pages=2)
    assert proof.verdict == "refuted"
    assert proof.enactment is not None


def test_the_shortest_course_comes_first():
    setting = setting_of("hint-async")
    lengths = [len(course.labels) for course in Search(setting, Bounds(), 2).losses()]
    assert lengths == sorted(lengths)
    assert lengths[0] == 11
    bound = _proof("hint-async", steps=lengths[0] - 1, pages=2)
    assert bound.verdict == "proved"
    assert not bound.complete
    assert _proof("hint-async", steps=lengths[0], pages=2).verdict == "refuted"


def test_a_bound_too_large_is_refused():
    with pytest.raises(UsageError, match=r"more than 100 states .* nothing proved"):
        _proof("hint-tagged", max_states=100)
    for bounds in ({"pages": 0}, {"pages": 99}, {"reports": 0}, {"steps": 0}):
        with pytest.raises(UsageError, match="wanted"):
            Bounds(**bounds)


class _Late(Accept):
    name = "late"

    def when_due(self, report):
        return Fate.DROP if report.requested_ns > 5 else Fate.HANDLE


class _Lazy(Accept):
    name = "lazy"

    def when_due(self, report):
        return Fate.DROP if report.syncs_since_request > 1 else Fate.HANDLE


@pytest.mark.parametrize("accept", [_Late(), _Lazy()])
def test_a_policy_that_sees_more_than_the_search_is_refused(accept):
    strategy = Strategy("mine", "a test", request=Once(), accept=accept)
    with pytest.raises(UsageError, match=f"mine.*{accept.name}.*prove knows only"):
        prove(Setting(strategy), Bounds())


def test_a_strategy_of_ones_own():
    """Handling every report is refuted, dropping every report proved."""

    class Never(Accept):
        name = "never"

        def when_due(self, report):
            return Fate.DROP

    strategy = Strategy("mine", "a test", request=Once(), accept=Never())
    assert prove(Setting(strategy), Bounds(pages=2)).verdict == "proved"


def test_the_trace_that_is_written_loses_the_page(tmp_path, capsys):
    path = tmp_path / "x.trace"
    assert run(["prove", "hint-flush", "--trace", str(path)]) == 5
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("  dirtylog replay")]
    assert run([*line.split()[1:], "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["verdict"], row["lost"]) == ("unsafe", 1)
    assert run(["prove", "hint-flush", "--trace", str(path)]) == 2, "it exists"
    assert run(["prove", "hint-wait", "--pages", "1", "--trace", str(path)]) == 0
    assert "not written" in capsys.readouterr().err
    assert run(["prove", "hint-nothing"]) == 2


def test_the_story(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    proof = _proof("hint-async")
    show(proof, Page(), "x.trace")
    said = capsys.readouterr().out
    assert "refuted" in said
    assert "snapshot of report 0: it names page 1" in said
    assert command(proof, proof.enactment, "x.trace") in said
    last = proof.story.events[-1].pages
    assert [view.destination for view in last] == ["current", "outdated"]
    assert not any(view.pending for view in last)
    assert json.loads(json.dumps(proof.to_dict()))["lost"] == [1]


def test_the_same_search_gives_the_same_story():
    assert _proof("hint-flush").to_dict() == _proof("hint-flush").to_dict()


@pytest.mark.parametrize("row", TABLE.splitlines()[2:])
def test_the_table_in_the_docs(row):
    """But for the longest proofs, those of log mode manual with a hold that is enough."""
    title, *cells = [part.strip() for part in row.strip("|").split("|")]
    name, _, other = title.partition(", ")
    setting = setting_of(name, guest_runs=other == "guest runs")
    for which in (0, 1, 2, 3, 6, 7):
        assert cell(setting, *CELLS[which]) == cells[which]


def test_the_table_has_every_strategy():
    titles = {row.split("|")[1].strip() for row in TABLE.splitlines()[2:]}
    assert titles == {*registered(), "hint-stop-vcpu, guest runs"}
