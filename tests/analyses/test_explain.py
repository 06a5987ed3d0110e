"""`explain`: the stories of lost pages, their causes, and what is said where there is none."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from analyses.commands import run
from analyses.explain import _kinds, explain
from analyses.narrative import STEPS, kind_of
from analyses.story import CAUSES
from replay.engine import Migration
from replay.life import life
from replay.observe import observe
from replay.parameters import Parameters
from replay.profiles import profile
from replay.replay import replay
from replay.strategies import registered, strategy
from replay.witness import own_syncs, trails
from tests.analyses.traces import MS, endless, hidden, meta, race, unlisted, write
from tests.bridge import as_parameters, as_trace
from tests.random_traces import _epoch_ends, random_case
from tracer import Block, Trace
from tracer.errors import UsageError
from tracer.format import SCHEMAS

#: Those that lose pages most, and the one that does if its guest is not stopped after all.
LOSING = (
    "hint-async",
    "hint-periodic",
    "hint-resubmit",
    "hint-flush-before",
    "hint-wait",
    "guest runs",
)


def _strategy(name):
    if name == "guest runs":
        return replace(strategy("hint-stop-vcpu"), stop_guest=False)
    return strategy(name)


def _cases(seed, number):
    """Yield traces made for races, a losing strategy for each, and parameters of either profile."""
    rng = random.Random(seed)
    for _ in range(number):
        trace, parameters = random_case(rng)
        parameters = replace(
            parameters,
            log_mode=rng.choice(("legacy", "manual", "manual")),
            guest_hold=rng.choice(("none", "none", "none", "ack")),
            request=rng.choice((None, "every-sync", "periodic", "periodic", "resubmit")),
            hint_clears_log=rng.random() < 0.7,
            clear_chunk=rng.choice((2, 4, 2**18)),
        )
        chosen = _strategy(rng.choice(LOSING)).with_request(parameters.request)
        made = replace(as_parameters(parameters), profile=rng.choice(("rounds", "rounds", "qemu")))
        yield as_trace(trace), chosen, made


def test_it_agrees_with_the_replay_and_its_witnesses():
    lost = near = 0
    for trace, chosen, parameters in _cases(1, 300):
        wanted = replay(trace, chosen, parameters)[0]
        found = explain(trace, chosen, parameters)
        result = wanted.result
        assert (found.verdict, found.reason, found.lost) == (
            result.verdict, result.reason, result.lost,
        )  # fmt: skip
        if found.lost is not None:
            assert found.near_misses == result.near_misses
        counted = Counter()
        for group in found.groups:
            counted[group.fate] += group.pages
            assert group.kind in CAUSES
            assert len(group.story.events) <= STEPS + 8
            assert explain(trace, chosen, parameters, group.page).groups[0].story == group.story
        assert (counted["lost"], counted["near-miss"]) == (found.lost or 0, found.near_misses)
        for row in wanted.unsafe:
            lost += 1
            (group,) = explain(trace, chosen, parameters, row.page).groups
            times = {e.moment.host_ns for e in group.story.events if e.decisive}
            told = {row.t_snapshot, row.t_written, row.t_skipped} | {
                row.t_harvested or row.t_skipped
            }
            assert told <= times
            last = group.story.events[-1].pages[0]
            assert (last.free, last.pending) == (False, False)
            assert last.destination != "current"
        near += found.near_misses
    assert lost >= 10
    assert near >= 10


def test_causes_in_bulk_are_those_of_the_stories():
    """The vectorised causes against those found step by step."""
    seen = Counter()
    for trace, chosen, parameters in _cases(3, 300):
        pages = np.arange(trace.meta.pages)

        def migration(looks=None, of=(trace, chosen, parameters), watch=pages):
            return Migration(*of, watch=watch, looks=looks)

        first = migration()
        outcome = profile(parameters.profile)(first)
        lost = set() if outcome.stop_ns is None else set(first.memory.judge().lost_pages.tolist())
        observation = observe(migration(np.empty(0, np.int64)))
        own = own_syncs(observation)
        end, missed = trails(observation)
        near = np.flatnonzero(missed.skipped_at >= 0)
        for trail, who in ((end, np.array(sorted(lost), np.int64)), (missed, near)):
            for kind, members in _kinds(observation, trail, who).items():
                for page in members.tolist():
                    skip = int(trail.skipped_at[page])
                    told = kind_of(life(observation, page), own, None if trail is end else skip)
                    assert told == kind
                    seen[kind] += 1
    assert set(seen) >= set(CAUSES) - {"log-cleared-by-other-report"}, seen  # which is rare


def test_the_race(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["explain", str(race(tmp_path / "r.trace")), "-s", "hint-async"]) == 0
    said = capsys.readouterr().out
    assert "hint-async: 1 page is lost, if the guest may reuse reported pages" in " ".join(
        said.split()
    )
    assert "12.000     2       1  report 0 is handled and skips it          u-- zeros" in said
    assert "page 60 was free in the snapshot of report 0 (1.000 ms)" in said
    assert max(map(len, said.splitlines())) <= 80


def test_json_has_these_names(tmp_path, capsys):
    path = str(race(tmp_path / "r.trace"))
    assert run(["explain", path, "-s", "hint-async", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == [
        "trace", "strategy", "profile", "log_mode", "guest_hold", "scenario", "verdict", "reason",
        "lost", "near_misses", "answer", "premise", "groups",
    ]  # fmt: skip
    (group,) = told["groups"]
    assert list(group) == [
        "fate", "kind", "meaning", "pages", "runs", "page", "cause", "events",
    ]  # fmt: skip
    assert (group["fate"], group["kind"], group["runs"]) == ("lost", "straddled-sync", [[60, 1]])
    event = next(event for event in group["events"] if event["what"].startswith("sync 1"))
    assert event == {
        "step": event["step"],
        "host_ns": 6711346,
        "guest_ns": 6711346,
        "pass": 1,
        "cursor": 64,
        "decisive": True,
        "left_out": 0,
        "what": "sync 1: its log bit is harvested",
        "pages": [
            {"free": False, "pending": True, "logged": False, "awaiting": False,
             "destination": "zeros"}
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("page", "name", "said"),
    [
        (
            60,
            "hint-first-pass",
            "page 60 was not lost: the destination has what was sent in pass 2",
        ),
        (60, "precopy", "page 60 was not lost: the destination has what was sent in pass 2"),
        (3, "hint-async", "was sent at the switchover"),
        (63, "hint-async", "page 63 was not lost"),
        (59, "hint-async", "page 59 was not lost"),
    ],
)
def test_a_page_that_was_never_lost(tmp_path, page, name, said):
    trace = Trace.open(race(tmp_path / "r.trace"))
    found = explain(trace, strategy(name), Parameters(), page)
    (group,) = found.groups
    assert (group.fate, group.kind) == ("not-lost", None)
    assert said in group.story.cause or page == 3
    assert group.story.events[-1].what.endswith("switchover")


def test_a_dropped_report_is_told(tmp_path):
    trace = Trace.open(race(tmp_path / "r.trace"))
    (group,) = explain(trace, strategy("hint-first-pass"), Parameters(), 60).groups
    assert "report 0 is dropped" in [event.what for event in group.story.events]


def test_a_page_left_out_by_a_hold(tmp_path):
    trace = Trace.open(race(tmp_path / "r.trace"))
    parameters = Parameters(guest_hold="ack")
    found = explain(trace, strategy("hint-async"), parameters, 60)
    assert any("without it" in event.what for event in found.groups[0].story.events)
    assert "(by guest hold ack)" in found.answer


def test_a_near_miss_heals(tmp_path):
    path = write(
        tmp_path / "n.trace",
        meta(),
        dirty=[(MS // 2, 0, 50), (4 * MS, 60, 1), (20 * MS, 60, 1)],
        freelist=[(0, 59, 2, True), (3 * MS, 60, 1, False)],
        zero=[(0, 0, 63)],
    )
    found = explain(Trace.open(path), strategy("hint-async"), Parameters())
    assert (found.verdict, found.lost, found.near_misses) == ("safe", 0, 1)
    (group,) = found.groups
    assert (group.fate, group.kind) == ("near-miss", "straddled-sync")
    assert (
        "until the guest wrote the page again (20.000 ms), and that was sent" in group.story.cause
    )


def test_what_cannot_be_asked(tmp_path, capsys):
    path = str(race(tmp_path / "r.trace"))
    for page in ("64", "-1"):
        assert run(["explain", path, "-s", "hint-async", "--page", page]) == 2
        assert "the guest has the pages 0 to 63" in capsys.readouterr().err
    assert run(["explain", path, "-s", "hint-nothing"]) == 2
    assert run(["explain", str(unlisted(tmp_path / "u.trace")), "-s", "hint-async"]) == 2
    assert "needs a free list" in capsys.readouterr().err
    assert run(["explain", path]) == 2


def test_no_switchover(tmp_path, capsys):
    path = str(endless(tmp_path / "e.trace"))
    assert run(["explain", path, "-s", "precopy", "--bandwidth", "64MiB/s", "--page", "3"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no switchover (trace-exhausted), so that no page is lost or saved" in said
    assert "page 3 was neither lost nor saved" in said


def test_what_could_have_been(tmp_path, capsys, monkeypatch):
    """A recorded take of 13 ms may have been as early as 2 ms; then the write of 14 ms too."""
    monkeypatch.setenv("COLUMNS", "80")
    path = hidden(tmp_path / "h.trace")
    found = explain(Trace.open(path), strategy("hint-async"), Parameters())
    assert (
        found.verdict
        == replay(Trace.open(path), strategy("hint-async"), Parameters())[0].result.verdict
    )
    path = write(
        tmp_path / "p.trace",
        meta(resolution="epoch", freelist_resolution="sampled"),
        dirty=[(1 * MS, 0, 50), (100 * MS, 60, 1)],
        freelist=[(0, 59, 2, True, 0), (13 * MS, 60, 1, False, 2 * MS)],
        zero=[(0, 0, 63)],
        epochs=[(MS,), (100 * MS,)],
    )
    for page in ([], ["--page", "60"]):
        assert run(["explain", str(path), "-s", "hint-async", *page]) == 0
        said = capsys.readouterr().out
        assert "page 60 could have been lost" in said
        assert "it could have come so: page 60 was free in" in " ".join(said.split())
        assert "the guest takes it" in said


@pytest.mark.parametrize(
    ("seed", "name", "scenario"),
    [(1158, "hint-async", "expected"), (1719, "hint-periodic", "expected")],
)
def test_a_loss_in_a_scenario_of_hidden_writes_alone_is_told(seed, name, scenario):
    """The verdict is that of a replay, wherever it comes from."""
    rng = random.Random(seed)
    trace, parameters = random_case(rng)
    ends = sorted({*(rng.randint(1, trace.duration_ns) for _ in range(4)), trace.duration_ns})
    dirty = _epoch_ends(trace.dirty, ends)
    opened = as_trace(replace(trace, dirty=dirty, epochs=ends, resolution="epoch"))
    chosen = strategy(name), as_parameters(parameters)
    rows = [one.result for one in replay(opened, *chosen)]
    assert [row.lost for row in rows if row.scenario != scenario] == [0, 0]
    found = explain(opened, *chosen)
    assert (found.verdict, rows[0].verdict) == ("possible", "possible")
    assert f"(scenario {scenario})" in found.answer
    assert "guest hold none" in found.premise


def test_hundreds_of_thousands_of_lost_pages():
    """One story, whatever the number; and what is told of one page stays short."""
    pages, half = 1 << 20, 1 << 19
    header = replace(
        meta(), pages=pages, page_size=4096, blocks=(Block("ram", 0, pages),), duration_ns=9000 * MS
    )
    busy = [(4 * 10**9 + t * 100, 3, 1) for t in range(50_000)]
    rows = {
        "dirty": [(MS // 2, 0, half // 2), (3400 * MS, half, 400_000), *busy],
        "freelist": [(0, half, half, True), (3300 * MS, half, half, False)],
    }  # fmt: skip
    tables = {
        name: pa.table([pa.array(c, f.type) for c, f in zip(zip(*rows[name], strict=True),
                       SCHEMAS[name], strict=True)], schema=SCHEMAS[name])
        for name in rows
    }  # fmt: skip
    trace = Trace.from_tables(header, **tables)
    trace.validate()
    parameters = Parameters(report_delay_ns=3600 * MS, downtime_limit_ns=0, max_rounds=3)
    found = explain(trace, strategy("hint-async"), parameters)
    assert (
        found.lost == sum(group.pages for group in found.groups if group.fate == "lost") > 200_000
    )
    assert len(found.groups) <= 2
    assert all(len(group.story.events) < 20 for group in found.groups)
    (hot,) = explain(trace, strategy("hint-async"), parameters, 3).groups
    assert any("times, last at" in event.what for event in hot.story.events)
    assert len(hot.story.events) <= STEPS


def test_every_strategy_has_an_answer(tmp_path):
    trace = Trace.open(race(tmp_path / "r.trace"))
    for name, one in registered().items():
        found = explain(trace, one, Parameters())
        assert (found.verdict == "unsafe") == (len(found.groups) > 0), name
        assert found.answer


def test_a_page_that_the_guest_does_not_have(tmp_path):
    trace = Trace.open(race(tmp_path / "r.trace"))
    with pytest.raises(UsageError, match="no page 64"):
        explain(trace, strategy("hint-async"), Parameters(), 64)


def test_another_report_may_clear_the_log(tmp_path):
    """Page 63 is named by report 1 alone, and report 0 clears the log of the only chunk."""
    path = write(
        tmp_path / "o.trace",
        meta(),
        dirty=[(5 * MS, 63, 1)],
        freelist=[(0, 0, 1, True), (2 * MS, 63, 1, True), (4 * MS, 63, 1, False)],
    )
    chosen = strategy("hint-wait").with_request("periodic")
    parameters = Parameters(log_mode="manual", request="periodic", hint_interval_ns=2 * MS)
    (group,) = explain(Trace.open(path), chosen, parameters).groups
    assert (group.fate, group.kind) == ("lost", "log-cleared-by-other-report")
    assert "the handling of report 0 (12.000 ms) cleared that bit" in group.story.cause
    assert "the handling of report 1 (14.000 ms) the pending bit" in group.story.cause


def test_a_long_life_is_told_in_short(tmp_path):
    """Hundreds of reports name page 59 to no effect, page 60 moves all the time."""
    moves = [(t * MS, 60, 1, t % 2 == 0) for t in range(3, 330)]
    path = write(
        tmp_path / "l.trace",
        meta(),
        dirty=[(MS // 2, 0, 50), *((t * MS, 60, 1) for t in range(3, 330, 2))],
        freelist=[(0, 59, 2, True), *moves],
    )
    parameters = Parameters(hint_interval_ns=MS)
    for page in (59, 60):
        (group,) = explain(Trace.open(path), strategy("hint-periodic"), parameters, page).groups
        events = group.story.events
        assert 5 < len(events) <= STEPS
        assert events[0].what.startswith("the start")
        assert events[-1].what.endswith("switchover")
        assert len(events) + sum(event.left_out for event in events) == events[-1].number + 1
        assert any(event.left_out > 100 for event in events)
