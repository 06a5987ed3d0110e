"""Planted races: a replay must find exactly those pages, at those times, and no others."""

from __future__ import annotations

import pytest

from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import registered
from tests.synth.guests import MS, make_order, order
from tracer import Trace, UsageError
from tracer.synth.recording import Recording

#: Pages, seconds and options of guests in which races are planted.
CASES = {
    "defaults": (1 << 19, 2, {}),
    "uncleared": (1 << 19, 2, {"plant": "uncleared"}),
    "one alone": (1 << 18, 2, {"races": 1, "decoys": 0}),
    "many": (1 << 18, 2, {"races": 500, "decoys": 100}),
    "no noise": (1 << 18, 2, {"rate": 0}),
    "slow link": (
        1 << 17,
        20,
        {"bandwidth": 80_000_000, "report_delay": 50 * MS, "handle_delay": 3 * MS},
    ),
    "at once": (1 << 18, 2, {"request_delay": 0, "hint_interval": 7 * MS}),
    "fast link": (1 << 20, 2, {"bandwidth": 3_125_000_000, "downtime_limit": 50 * MS}),
    "no queue": (1 << 18, 2, {"report_delay": 0, "handle_delay": 20 * MS}),
    "no downtime": (1 << 18, 2, {"downtime_limit": 0}),
    "small chunks": (
        1 << 18,
        20,
        {"plant": "uncleared", "clear_chunk": 1 << 16, "downtime_limit": 0},
    ),
    "ticks between": (1 << 18, 20, {"plant": "uncleared", "hint_interval": 5 * MS}),
}
CASES["ticks between"][2]["clear_chunk"] = 1 << 17


@pytest.fixture(params=CASES)
def planted(request, tmp_path):
    pages, seconds, options = CASES[request.param]
    wanted = order("race", **{"rate": 1000, "pages": pages, "seconds": seconds, **options})
    made = make_order(wanted, tmp_path / "race.trace")
    trace = Trace.open(made.path)
    trace.validate()
    assert trace.meta.source["planted"] == made.planted
    return trace, made.planted


def test_every_strategy_loses_what_it_must_and_nothing_else(planted):
    trace, told = planted
    pages = [race["page"] for race in told["planted"]]
    parameters = Parameters(**told["parameters"])
    assert pages
    assert len(set(pages)) == len(pages)
    for chosen in registered().values():
        (run,) = replay(trace, chosen, parameters)
        assert run.result.completed
        if chosen.name not in told["lost_under"]:
            assert run.unsafe == ()
            assert run.result.verdict == "safe"
            continue
        assert run.result.verdict == "unsafe"
        assert [witness.page for witness in run.unsafe] == pages
        for witness, race in zip(run.unsafe, told["planted"], strict=True):
            assert witness.t_written == race["t_written"] > race["t_taken"]
            assert witness.t_snapshot == told["t_snapshot"]
            assert witness.t_harvested == told["t_harvested"]
            assert witness.t_skipped == told["t_skipped"][chosen.name]


def test_uncleared_races_need_the_log_mode(tmp_path):
    wanted = order("race", pages=1 << 19, seconds=2, rate=0, plant="uncleared")
    trace = Trace.open(make_order(wanted, tmp_path / "x.trace").path)
    for chosen in registered().values():
        (run,) = replay(trace, chosen, Parameters(guest_hold="none"))
        assert run.unsafe == ()


def test_healed_decoys_are_near_misses(tmp_path):
    wanted = order("race", pages=1 << 18, seconds=2, rate=0, races=3, decoys=5)
    made = make_order(wanted, tmp_path / "x.trace")
    (run,) = replay(Trace.open(made.path), registered()["hint-async"], Parameters())
    # Those freed before the handling were never lost.
    assert run.result.near_misses == len(made.planted["decoys"]["healed"]["pages"]) == 5
    assert run.result.stale_free >= len(made.planted["decoys"]["freed"]["pages"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"pages": 1 << 22}, "must end"),
        ({"pages": 1 << 12}, "make it larger"),
        ({"seconds": 0.1}, "--duration"),
        ({"report_delay": 0, "handle_delay": 0}, "must end"),
        ({"plant": "uncleared", "clear_chunk": 100}, "--clear-chunk"),
        ({"plant": "uncleared", "report_delay": 0, "handle_delay": 0}, "at least 10 us"),
        ({"races": 0}, "races"),
        ({"recording": Recording(freelist="sampled")}, "instants"),
        ({"recording": Recording(quantum_ns=1000)}, "instants"),
        ({"recording": Recording(resolution="epoch")}, "instants"),
        ({"recording": Recording(resolution="first-write")}, "instants"),
    ],
)
def test_where_no_race_can_be_planted(tmp_path, options, word):
    with pytest.raises(UsageError, match=word):
        make_order(
            order("race", **{"pages": 1 << 19, "seconds": 2, "rate": 10, **options}),
            tmp_path / "x.trace",
        )
    assert not list(tmp_path.iterdir())
