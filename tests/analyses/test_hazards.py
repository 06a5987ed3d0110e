"""Hazard windows are what a replay at every value says."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from analyses import history
from analyses.commands import run
from analyses.handling import applies, windows
from analyses.hazards import Hazards, default_budget, hazards
from analyses.history import Checked
from analyses.render import hazards as drawn
from analyses.render.terminal import Page
from analyses.stepping import Stepper
from replay.parameters import Parameters
from replay.policies import Accept, Always, Fate, Once, Request
from replay.policies.guard import guarded_accept, guarded_request
from replay.strategies import Strategy, registered, strategy
from tests.analyses import brute
from tests.analyses.traces import MS, endless, hidden, meta, race, unlisted, write
from tracer import Trace
from tracer.errors import UsageError

NAMES = list(registered())
HINTED = [name for name in NAMES if name != "precopy"]
VARIED = list(brute.FIELDS)


def found_in(case: brute.Case, budget: int = 10**6) -> Hazards:
    return hazards(
        case.trace, case.strategy, case.parameters, case.varied,
        lo=case.lo, hi=case.hi, budget=budget,
    )  # fmt: skip


def wrong(case: brute.Case, found: Hazards, values) -> list[tuple]:
    """Values at which a replay says something else."""
    ends = [one.hi for one in found.intervals]
    differences = []
    for value in values:
        one = found.intervals[int(np.searchsorted(ends, value))]
        lost, near, missed = case.lost(value)
        if one.state == "unknown":
            same = one.missed is None or one.missed == missed
        elif found.by_handling and one.state == "safe":
            same = (lost or 0, near or 0, missed) == (0, 0, 0)
        else:
            same = (one.lost, one.near_misses, one.missed) == (lost, near, missed)
        if not same:
            differences.append((value, one, lost, near, missed))
    return differences


def covers(found: Hazards) -> bool:
    """Whether the intervals follow one another from end to end."""
    edges = [found.lo, *(one.hi + 1 for one in found.intervals)]
    return edges[:-1] == [one.lo for one in found.intervals] and edges[-1] == found.hi + 1


@pytest.mark.parametrize("varied", VARIED)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_brute_force_at_every_value(name, varied):
    rng = random.Random(f"{name} {varied}")
    for number in range(4):
        make = brute.lively_case if number % 2 else brute.case
        case = make(rng, name, varied, 60)
        found = found_in(case)
        assert found.complete
        assert covers(found)
        assert wrong(case, found, range(case.lo, case.hi + 1)) == [], number


@pytest.mark.parametrize("varied", ["report-delay", "request-delay", "handle-delay"])
@pytest.mark.parametrize("name", HINTED)
def test_a_handling_loses_what_its_windows_say(name, varied):
    """Over wide ranges, in both profiles, at chosen values: the ends of windows and others."""
    rng = random.Random(f"{name} {varied}")
    for number in range(6):
        make = brute.qemu_case if number == 5 else brute.case
        case = make(rng, name, varied, *([3000] if number < 5 else []), once=True)
        clears = replace(case.parameters, hint_clears_log=True, min_order=0, at_end="stop")
        case = case._replace(parameters=clears, strategy=case.strategy.with_request("once"))
        assert applies(case.strategy, case.parameters, varied)
        missed = windows(
            case.trace, case.strategy, case.parameters, varied, case.lo, case.hi
        )  # fmt: skip
        values = {rng.randint(case.lo, case.hi) for _ in range(30)}
        for window in missed[:20]:
            values |= {window.lo - 1, window.lo, window.hi, window.hi + 1}
        for value in sorted(value for value in values if case.lo <= value <= case.hi):
            said = next((w.pages for w in missed if w.lo <= value <= w.hi), 0)
            lost, _, happened = case.lost(value)
            assert said == happened, (number, value)
            assert (lost or 0) <= happened, "what is lost for good was lost at the handling"


@pytest.mark.parametrize("varied", VARIED)
def test_profile_qemu(varied):
    rng = random.Random(varied)
    for name in ("hint-async", "hint-periodic", "hint-drain", "hint-flush-before"):
        case = brute.qemu_case(rng, name, varied)
        found = found_in(case, budget=150)
        assert covers(found)
        known = [one for one in found.intervals if one.state != "unknown"]
        values = {value for one in known for value in (one.lo, (one.lo + one.hi) // 2, one.hi)}
        assert wrong(case, found, rng.sample(sorted(values), min(len(values), 60))) == []


def test_windows_that_come_and_go_are_not_bisected_over(monkeypatch):
    """With outcomes for digests, as a binary search has them, brute force finds mistakes."""
    monkeypatch.setattr(
        Stepper,
        "same",
        lambda self, lo, hi: bool(self.checked[lo].lost) == bool(self.checked[hi].lost),
    )
    rng = random.Random(4)
    cases = (brute.lively_case(rng, "hint-periodic", "report-delay", 400) for _ in range(30))
    assert any(wrong(case, found_in(case), range(case.lo, case.hi + 1)) for case in cases)


def test_an_order_that_forgets_what_happened_is_caught(monkeypatch):
    """A digest of how much was sent is not enough."""
    for name in ("_note_event", "_note_report"):
        monkeypatch.setattr(history._Noted, name, lambda *_: None)
    rng = random.Random(4)
    cases = (brute.lively_case(rng, "hint-periodic", "report-delay", 400) for _ in range(30))
    assert any(wrong(case, found_in(case), range(case.lo, case.hi + 1)) for case in cases)


def opened(path) -> Trace:
    trace = Trace.open(path)
    trace.validate()
    return trace


def test_the_race_to_the_nanosecond(tmp_path):
    """Lost from the sync that harvests the write, at 6.711347 ms, to the last handling of all."""
    trace = opened(race(tmp_path / "race.trace"))
    found = hazards(trace, strategy("hint-async"), Parameters(), "report-delay")
    (danger,) = found.dangers
    assert (danger.lo, danger.hi, danger.lost, danger.whole) == (4_711_347, 340_255_986, 1, True)
    assert found.complete
    assert found.scenario == "exact"
    case = brute.Case(trace, found.strategy, Parameters(), "report-delay", 0, 0)
    lost = [case.lost(danger.lo - 1), case.lost(danger.lo), case.lost(danger.hi)]
    assert [one[0] for one in lost] == [0, 1, 1]
    assert case.lost(danger.hi + 1)[0] == 0
    assert found.replays < 200, "stepping, not brute force"


def test_stepping_finds_the_same_as_the_windows(tmp_path, monkeypatch):
    trace = opened(race(tmp_path / "race.trace"))
    chosen = strategy("hint-async"), Parameters(), "report-delay"
    by_handling = hazards(trace, *chosen)
    monkeypatch.setattr("analyses.hazards.applies", lambda *_: False)
    stepped = hazards(trace, *chosen)
    assert not stepped.by_handling
    assert stepped.dangers == by_handling.dangers


def test_what_the_budget_leaves_open_is_unknown(tmp_path):
    trace = opened(race(tmp_path / "race.trace"))
    found = hazards(trace, strategy("hint-periodic"), Parameters(), "report-delay", budget=20)
    assert found.replays == 20
    assert not found.complete
    assert covers(found)
    assert found.smallest_open is not None
    whole = hazards(trace, strategy("hint-periodic"), Parameters(), "report-delay")
    assert whole.complete
    assert whole.smallest_open is None
    assert whole.smallest == 5_711_347
    for one in found.unsafe:
        assert any(w.lo <= one.lo and one.hi <= w.hi for w in whole.unsafe)


def test_what_is_drawn_is_known(tmp_path, capsys):
    """A whole column stands for values that are all known, a window for as much as was settled."""
    trace = opened(race(tmp_path / "race.trace"))
    found = hazards(trace, strategy("hint-periodic"), Parameters(), "report-delay", budget=20)
    open_ones = [one for one in found.intervals if one.state == "unknown"]
    width = found.hi + 1
    signs = [column.sign for column in drawn._columns(found.intervals, 0, found.hi, 1_000)]
    for i, sign in enumerate(signs):
        first, last = width * i // 1_000, width * (i + 1) // 1_000 - 1
        unknown = any(one.lo <= last and one.hi >= first for one in open_ones)
        lost = any(one.lo <= last and one.hi >= first for one in found.unsafe)
        assert (sign in ("unknown", "lost-in-part")) == unknown
        assert (sign in ("lost", "lost-in-part")) == lost
    assert {"lost", "lost-in-part", "unknown", "safe"} == set(signs)
    assert found.settled + sum(one.hi - one.lo + 1 for one in open_ones) == width
    (danger,) = found.dangers
    assert danger.settled == sum(one.hi - one.lo + 1 for one in found.unsafe) < danger.values
    drawn.show(found, Page())
    said = " ".join(capsys.readouterr().out.split())
    assert "in at least 1 window" in said
    assert "34 % of it" in said
    assert "20 replays settle 87 % of the range" in said


def test_a_curve_has_dots_where_values_were_checked_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(history, "MOST_ROWS", 0)
    path = write(
        tmp_path / "two.trace",
        meta(),
        dirty=[(MS // 2, 0, 50), (4 * MS, 59, 2)],
        freelist=[(0, 59, 2, True), (3 * MS, 59, 2, False)],
        zero=[(0, 0, 63)],
    )
    trace = opened(path)
    chosen = strategy("hint-periodic"), Parameters(), "report-delay"
    found = hazards(trace, *chosen, budget=12)
    assert found.worst == 2
    drawn.show(found, Page())
    picture = capsys.readouterr().out
    assert "\u2022" in picture
    assert "\u2588" not in picture


def test_a_policy_that_looks_at_the_clock_is_never_spoken_for(tmp_path):
    """Between two values at which it was replayed nothing is claimed."""

    class Odd(Accept):
        name = "odd"

        def when_due(self, report):
            return Fate.DROP if report.requested_ns % 2 else Fate.HANDLE

    trace = opened(race(tmp_path / "race.trace"))
    for accept in (Odd(), guarded_accept(Odd())):
        mine = Strategy("mine", "a test", request=Once(), accept=accept, sync="after")
        # Fast enough links have stopped before the report comes, and then nobody looks.
        chosen = mine, Parameters(), "bandwidth"
        found = hazards(trace, *chosen, hi=1_400_000_000, budget=15)
        assert found.unsafe
        assert all(one.lo == one.hi or one.state == "unknown" for one in found.intervals)


def test_a_users_policy_that_looks_at_no_clock_is_settled(tmp_path):
    """Its guard, which copies what it may know and keeps its answers, is not taken for a look."""

    class Fresh(Accept):
        def when_due(self, report):
            return Fate.DROP if report.syncs_since_request > 1 else Fate.HANDLE

    trace = opened(race(tmp_path / "race.trace"))
    accept = guarded_accept(Fresh())
    mine = Strategy("mine", "a test", request=Once(), accept=accept, sync="after")
    found = hazards(trace, mine, Parameters(), "report-delay")
    assert found.complete
    assert found.replays < 200
    assert found.smallest == 4_711_347


class PutsOff(Request):
    """A policy of a user's own: what is due after the first millisecond waits 5 ms more."""

    def handling_time(self, due, interval_ns):
        return due if due < MS else due + 5 * MS


class Ticks(Request):
    """Asks on ticks, where they are some time apart."""

    def next_tick(self, now, interval_ns):
        return None if interval_ns < 10 else (now // interval_ns + 1) * interval_ns


@pytest.mark.parametrize("request_policy", [PutsOff(), guarded_request(PutsOff()), Ticks()])
def test_a_users_request_policy_is_not_taken_for_once(tmp_path, request_policy):
    """Whatever it answers to a few questions: at the delays that matter it may answer otherwise."""
    trace = opened(race(tmp_path / "race.trace"))
    mine = Strategy("mine", "a test", request=request_policy, accept=Always(), sync="after")
    assert not applies(mine, Parameters(), "report-delay")
    found = hazards(trace, mine, Parameters(), "report-delay", hi=6 * MS, budget=40)
    case = brute.Case(trace, mine, Parameters(), "report-delay", 0, 6 * MS)
    assert wrong(case, found, range(0, 6 * MS, MS // 4)) == []


def test_between_values_at_which_a_handling_is_not_put_off_nothing_is_claimed(tmp_path):
    class Some(Request):
        def handling_time(self, due, interval_ns):
            return due + 20 * MS if 3 * MS <= due <= 4 * MS else due

    trace = opened(race(tmp_path / "race.trace"))
    for policy in (Some(), guarded_request(Some())):
        mine = Strategy("mine", "a test", request=policy, accept=Always(), sync="after")
        found = hazards(trace, mine, Parameters(), "report-delay", hi=4 * MS + 1, budget=3)
        assert all(one.lo == one.hi or one.state == "unknown" for one in found.intervals)


def test_a_users_request_policy_that_asks_on_ticks_is_settled(tmp_path):
    """Ticks are fixed times, so that equal orders still speak for what lies between."""
    trace = opened(race(tmp_path / "race.trace"))
    mine = Strategy("mine", "", request=guarded_request(Ticks()), accept=Always(), sync="after")
    found = hazards(trace, mine, Parameters(), "report-delay", hi=6 * MS)
    assert found.complete
    assert found.replays < 400


def test_a_trace_too_large_for_an_order_is_checked_value_by_value(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "MOST_ROWS", 0)
    trace = opened(race(tmp_path / "race.trace"))
    found = hazards(trace, strategy("hint-periodic"), Parameters(), "report-delay", budget=12)
    assert found.replays == 12
    assert all(one.lo == one.hi or one.state == "unknown" for one in found.intervals)
    assert found.unsafe


def test_what_cannot_be(tmp_path):
    trace = opened(race(tmp_path / "race.trace"))
    with pytest.raises(UsageError, match="nothing between"):
        hazards(trace, strategy("hint-async"), Parameters(), "report-delay", lo=5, hi=4)
    with pytest.raises(UsageError, match="bandwidth 0"):
        hazards(trace, strategy("hint-async"), Parameters(), "bandwidth", lo=0)
    assert default_budget(trace) > 1000


def test_pieces_without_a_gap():
    """Digests that are equal far apart speak for what lies between; equal losses do not."""
    calls = []

    def check(value):
        calls.append(value)
        lost = 1 if 40 <= value < 50 else 0
        digest = bytes([value >= 40, value >= 50])
        return Checked(lost, 0, lost, digest, np.array([abs(40 - value), abs(50 - value)]))

    stepper = Stepper(check, 1000)
    stepper.add(0, 1000)
    stepper.run()
    known = {}
    for piece in stepper.pieces(0, 1000):
        assert piece.outcome is not None
        known.update(dict.fromkeys(range(piece.lo, piece.hi + 1), piece.outcome.lost))
    assert sorted(known) == list(range(1001))
    assert [value for value, lost in known.items() if lost] == list(range(40, 50))
    assert len(calls) < 60


# -- the command ----------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = str(race(tmp_path / "race.trace"))
    assert run(["hazards", path, "-s", "hint-async", "--json", "--up-to", "400ms"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["vary"], row["from"], row["up_to"]) == ("report-delay", 0, 400 * MS)
    assert (row["unsafe"], row["smallest_unsafe"], row["worst_lost"]) == (True, 4_711_347, 1)
    assert row["complete"]
    states = [(one["from"], one["to"], one["state"]) for one in row["intervals"]]
    assert states == [
        (0, 4_711_346, "safe"),
        (4_711_347, 340_255_986, "lost"),
        (340_255_987, 400 * MS, "safe"),
    ]
    assert run(["hazards", path, "-s", "hint-async", "--check"]) == 5
    out, err = capsys.readouterr()
    assert "4.711 ms (4,711,347 ns)" in " ".join(out.split())
    assert "loses a page at report delay 4.711 ms" in err
    assert run(["hazards", path, "-s", "hint-async", "--check", "--up-to", "4.7ms"]) == 0
    assert "no report delay in the range loses a page" in capsys.readouterr().out
    common = ["hazards", path, "-s", "hint-flush", "--vary", "bandwidth", "--check"]
    assert run([*common, "--from", "1Gbit/s", "--up-to", "2Gbit/s"]) == 0
    assert run(common) == 5
    assert "762,653,001 B/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vary", "bandwidth", "--from", "3ms"], "no bandwidth"),
        (["--up-to", "3Gbit/s"], "no duration"),
        (["--from", "3ms", "--up-to", "1ms"], "nothing between"),
        (["--budget", "1"], "budget"),
        (["-s", "hint-asinc"], "did you mean"),
    ],
)
def test_what_the_command_refuses(tmp_path, capsys, arguments, said):
    path = str(race(tmp_path / "race.trace"))
    assert run(["hazards", path, "-s", "hint-async", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


def test_traces_it_cannot_tell_all_of(tmp_path, capsys):
    assert run(["hazards", str(unlisted(tmp_path / "u.trace")), "-s", "hint-async"]) == 2
    assert "free list" in capsys.readouterr().err
    path = str(hidden(tmp_path / "h.trace"))
    assert run(["hazards", path, "-s", "hint-async", "--up-to", "20ms"]) == 0
    assert "what it hides is taken not to happen" in " ".join(capsys.readouterr().out.split())
    path = str(endless(tmp_path / "e.trace"))
    assert run(["hazards", path, "-s", "precopy", "--vary", "bandwidth", "--from", "64MiB/s",
                "--up-to", "80MiB/s", "--budget", "20"]) == 0  # fmt: skip
    assert "no switchover" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_picture_fits(tmp_path, capsys, monkeypatch, columns, encoding):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(Page, "blocks", property(lambda _: encoding == "utf-8"))
    trace = opened(race(tmp_path / "race.trace"))
    found = hazards(trace, strategy("hint-periodic"), Parameters(), "report-delay", budget=20)
    drawn.show(found, Page())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    sign = "\u2588" if encoding == "utf-8" else "#"
    assert any(line.count(sign) > 3 for line in lines)
    assert any("unknown, but for values checked" in line for line in lines)
