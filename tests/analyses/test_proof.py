"""`prove`: what it must find by itself, and that replays agree with it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from analyses.commands import run
from analyses.commands.proofs import CELLS, cell
from analyses.interleavings import Bounds, Search, Setting
from analyses.proof import prove, setting_of
from analyses.render.proof import command, show
from analyses.render.terminal import Page
from replay.policies import Accept, Always, Fate, FirstPass, Once, Request
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
    assert bound.verdict == "undecided"
    assert not bound.complete
    assert bound.switchovers > 0
    assert _proof("hint-async", steps=lengths[0], pages=2).verdict == "refuted"


def test_a_bound_on_steps_proves_nothing(capsys, monkeypatch):
    """The shortest migration takes two steps, the longest course 20."""
    monkeypatch.setenv("COLUMNS", "80")
    for steps, over in ((1, "none ends a migration"), (12, "2,492 end a migration")):
        assert run(["prove", "hint-first-pass", "--steps", str(steps)]) == 5
        shown = capsys.readouterr()
        said = " ".join(shown.out.split())
        assert "undecided nothing is proved" in said
        assert f"of which {over}), but courses go on: allow more --steps" in said
        assert "\n  proved" not in shown.out
        assert "was not decided" in shown.err
    assert run(["prove", "hint-first-pass", "--steps", "99"]) == 0
    capsys.readouterr()
    assert run(["prove", "hint-first-pass", "--steps", "1", "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["complete"], found["switchovers"]) == ("undecided", False, 0)


def test_a_bound_too_large_is_refused():
    for bounds in ({"pages": 0}, {"pages": 99}, {"reports": 0}, {"steps": 0}, {"memory": 1 << 60}):
        with pytest.raises(UsageError, match="wanted"):
            Bounds(**bounds)


class _Late(Accept):
    def when_due(self, report):
        return Fate.DROP if report.requested_ns > 5 else Fate.HANDLE


class _FarBack(Accept):
    def when_due(self, report):
        return Fate.DROP if report.syncs_since_request > 8 else Fate.HANDLE


@pytest.mark.parametrize(("accept", "why"), [(_Late(), "no times"), (_FarBack(), "more than 8")])
def test_a_policy_that_sees_more_than_the_search_is_refused(accept, why):
    strategy = Strategy("mine", "a test", request=Once(), accept=accept)
    with pytest.raises(UsageError, match=f"mine.*{accept.name}.*{why}"):
        prove(Setting(strategy), Bounds())


class _Older(Accept):
    """Drops a report that is more than so many syncs old."""

    def __init__(self, syncs):
        self.syncs = syncs

    def when_due(self, report):
        return Fate.DROP if report.syncs_since_request > self.syncs else Fate.HANDLE


def test_a_policy_may_count_syncs():
    """Looking for a sync is hint-first-pass; from one sync too many on, a page is lost."""
    verdicts, states = [], []
    for syncs in (0, 1, 2, 7):
        strategy = Strategy("mine", "a test", request=Once(), accept=_Older(syncs))
        proof = prove(Setting(strategy), Bounds(pages=2))
        verdicts.append(proof.verdict)
        states.append(proof.states)
        assert (proof.enactment is None) == (syncs == 0), "confirmed by a replay"
    assert verdicts == ["proved", "refuted", "refuted", "refuted"]
    like_first_pass = replace(strategy, accept=FirstPass())
    assert states[0] == prove(Setting(like_first_pass), Bounds(pages=2)).states


class _Ripe(Accept):
    """Handles a report only when so many syncs have come since its request."""

    def __init__(self, syncs):
        self.syncs = syncs

    def when_due(self, report):
        return Fate.HANDLE if report.syncs_since_request >= self.syncs else Fate.DROP


@pytest.mark.parametrize("syncs", [1, 2, 3])
def test_as_many_syncs_are_told_apart_as_the_policy_does(syncs):
    strategy = Strategy("mine", "a test", request=Once(), accept=_Ripe(syncs))
    proof = prove(Setting(strategy), Bounds(pages=2))
    assert proof.verdict == "refuted"
    kinds = [kind for kind, _ in proof.course.labels]
    assert kinds[: kinds.index("consume")].count("sync") == syncs
    assert proof.enactment is not None


class _Spread(Request):
    """Asks at every second multiple of the interval."""

    def next_tick(self, now, interval_ns):
        return (now // (2 * interval_ns) + 1) * 2 * interval_ns


def test_ticks_of_ones_own_are_put_on_the_clock():
    strategy = Strategy("mine", "a test", request=_Spread(), accept=Always(), start="wait")
    proof = prove(Setting(strategy), Bounds(pages=2))
    assert proof.verdict == "refuted"
    assert "request" in {kind for kind, _ in proof.course.labels}, "it takes a tick"
    assert proof.enactment is not None


class _Backwards(Request):
    """Puts every second handling off, beyond the next."""

    def handling_time(self, due, interval_ns):
        return due + (10_000_000 if due // 1_000_000 % 2 else 0)


class _Late(Request):
    """Puts all of them off alike."""

    def handling_time(self, due, interval_ns):
        return due + interval_ns


def test_reports_that_overtake_each_other_are_not_spoken_for():
    strategies = [Strategy("mine", "a test", request=one(), accept=FirstPass(), sync="after")
                  for one in (_Backwards, _Late)]  # fmt: skip
    with pytest.raises(UsageError, match="let handling_time ascend"):
        prove(Setting(strategies[0]), Bounds(pages=1))
    assert prove(Setting(strategies[1]), Bounds(pages=1)).verdict == "proved"


def test_it_stops_where_the_memory_is_full():
    said, told = [], []
    setting = setting_of("hint-first-pass")
    with pytest.raises(UsageError) as caught:
        prove(
            setting,
            Bounds(memory=1 << 20),
            watch=lambda *far: told.append(far),
            remark=said.append,
        )
    assert re.search(r"1 MiB are full with 2,62\d states of guests of 3 pages", str(caught.value))
    known = sum(prove(setting, Bounds(pages=n)).states for n in (2,))
    assert f"in guests of 1 to 2 pages no write is lost in any of {known:,} states" in str(
        caught.value
    )
    (estimate,) = said
    whole = prove(setting, Bounds()).states - known
    expected = int(re.search(r"about ([\d,]+) states", estimate)[1].replace(",", ""))
    assert 0.5 < expected / whole < 1.5
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert {total for _, _, total in told} == {expected}


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
