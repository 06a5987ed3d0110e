from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from analyses.compare import compare, plan
from analyses.info import describe
from analyses.render import bars, facts, report, text
from analyses.render.grid import Column, Span, grid, wrap
from analyses.render.terminal import Bar, Page
from analyses.safety import findings
from analyses.waste import SHARES
from replay.parameters import Parameters
from replay.strategies import registered
from tests.analyses.traces import MS, endless, hidden, meta, race, write
from tracer import Trace

SLOW = Parameters(bandwidth=64 << 20)


class Pipe(io.TextIOWrapper):
    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def page(width, encoding="utf-8"):
    made = Page()
    made.file, made.width = Pipe(encoding), width
    return made


def shown(path, width, *, parameters=None, encoding="utf-8"):
    out = page(width, encoding)
    report.show([compared(path, parameters)], out)
    return out.file.text()


def compared(path, parameters=None):
    return compare(plan([path], [], parameters or Parameters()))[0]


@pytest.mark.parametrize("make", [race, hidden, endless])
@pytest.mark.parametrize("width", [80, 100, 132, 160, 200])
def test_nothing_is_wider_than_the_page(tmp_path, make, width):
    said = shown(make(tmp_path / "a.trace"), width, parameters=SLOW)
    assert max(map(len, said.splitlines())) <= width
    out = page(width)
    facts.show(describe(Trace.open(tmp_path / "a.trace")), out)
    assert max(map(len, out.file.text().splitlines())) <= width


@pytest.mark.parametrize("width", [40, 80, 160])
def test_every_strategy_and_figure_is_there(tmp_path, width):
    said = shown(race(tmp_path / "race.trace"), width)
    tables = said[said.index("strategy") :]
    for name in registered():
        assert name in tables
    for figure in ("unsafe", "349 ms", "+100 %", "102", "49 %"):
        assert figure in tables
    assert "\u2026" not in said


def test_the_report_answers_at_a_glance(tmp_path):
    said = " ".join(shown(race(tmp_path / "race.trace"), 80).split())
    assert "unsafe hint-async, hint-flush-before, hint-flush, hint-periodic" in said
    assert "(1 page lost each)" in said
    assert "guest hold none" in said
    assert "page 60: free in the snapshot at 1.000 ms, written at 4.000 ms" in said
    assert "harvested by the sync at 6.711 ms, skipped at 12.000 ms in round 2" in said


def test_scenarios_are_told_apart(tmp_path):
    said = shown(hidden(tmp_path / "a.trace"), 80)
    assert said.count("saturated  ") >= len(registered())
    said = " ".join(said.split())
    assert (
        "recorded, expected and saturated are scenarios of what the trace cannot say, not bounds"
        in said
    )


def test_no_switchover_is_said_plainly(tmp_path):
    said = shown(endless(tmp_path / "a.trace"), 80, parameters=SLOW)
    assert re.search(r"no switchover in [\d.]+ s: trace is over\n", said)
    assert "unknown" in said
    assert "\u2265" in said


def test_a_verdict_is_no_better_than_that_of_a_scenario(tmp_path):
    """With every hidden write there is no switchover before the trace ends."""
    header = meta(resolution="first-write", freelist_resolution=None)
    path = write(tmp_path / "a.trace", header, dirty=[(200 * MS, 0, 46)], epochs=[(2_000 * MS,)])
    parameters = Parameters(scenarios=("saturated",))
    comparison = compared(path, parameters)
    assert [one.verdict for one in comparison.results] == ["safe", "unknown"]
    assert [one.verdict for one in findings(comparison)] == ["unknown"]
    said = " ".join(shown(path, 80, parameters=parameters).split())
    assert (
        "unknown precopy no page is lost in recorded; saturated does not switch over, so nothing "
        "is known there"
    ) in said
    assert [one.verdict for one in findings(compared(path, Parameters(scenarios=())))] == ["safe"]


def test_why_a_replay_ended_without_a_switchover(tmp_path):
    slow = replace(SLOW, at_end="loop")
    said = " ".join(shown(endless(tmp_path / "a.trace"), 80, parameters=slow).split())
    assert "100 x trace" in said
    assert "the replay stops at 100 times the trace's length" in said
    assert "trace is over" not in said
    assert "trace ends" not in said


def test_a_terminal_without_unicode_gets_ascii(tmp_path):
    said = shown(race(tmp_path / "a.trace"), 80, encoding="ascii")
    assert "####" in said


def test_colour_is_never_the_only_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    path = race(tmp_path / "a.trace")
    coloured = shown(path, 80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" in coloured
    assert "\x1b[3" not in shown(path, 80)
    monkeypatch.delenv("FORCE_COLOR")
    assert Text.from_ansi(coloured).plain.split() == shown(path, 80).split()


def test_names_can_do_a_terminal_no_harm(tmp_path):
    said = shown(race(tmp_path / "a\x1b[2Jb\n.trace"), 80)
    assert "\x1b" not in said
    assert said.startswith("a?[2Jb")


@given(st.lists(st.integers(0, 10**9), min_size=6, max_size=6), st.integers(12, 60))
def test_bars_show_what_is_there_in_proportion(parts, width):
    whole = sum(parts)
    bar = bars.partition(parts, max(whole, 1), width, blocks=False).plain
    for sign, part in zip("#slfr?", parts, strict=True):
        assert (sign in bar) == (part > 0)
    if whole:
        assert abs(len(bar) - width) <= len(SHARES)


@given(st.lists(st.lists(st.text("ab", max_size=9), min_size=3, max_size=3), max_size=5))
def test_a_grid_keeps_all_cells_and_one_width(rows):
    spans = [[*row[:1], Span(Text("x" * 40))] for row in rows]
    lines = grid([Column("one"), Column("two", right=False), Column("three")], [*rows, *spans])
    assert len({line.cell_len for line in lines}) == 1
    for line, row in zip(lines[1:], rows, strict=False):
        assert line.plain.split() == [cell for cell in row if cell]


@given(st.text("ab ", max_size=200), st.integers(20, 60), st.integers(0, 10))
def test_wrapping_loses_no_word(body, width, indent):
    assert " ".join(wrap(body, width, first=indent, others=indent)).split() == body.split()


@pytest.mark.parametrize(
    ("ns", "said"),
    [(None, "-"), (0, "0 s"), (999, "999 ns"), (1_000, "1.00 us"), (999_600, "1.00 ms"),
     (45_600_000, "45.6 ms"), (1_234_567_890, "1.23 s"), (10**13, "10,000 s")],
)  # fmt: skip
def test_durations(ns, said):
    assert text.duration(ns) == said


@pytest.mark.parametrize(
    ("rate", "said"),
    [(1_250_000_000, "10 Gbit/s"), (64 << 20, "64 MiB/s"), (1, "1 B/s"), (125_000, "1 Mbit/s"),
     (187_500_000, "1.5 Gbit/s"), (123_456_789, "117.74 MiB/s")],
)  # fmt: skip
def test_rates(rate, said):
    assert text.rate(rate) == said


def test_shares_and_changes():
    assert text.percent(1, 10_000) == "<1 %"
    assert text.percent(9_999, 10_000) == ">99 %"
    assert text.percent(0, 0) == "0 %"
    assert text.change(150, 100) == "+50 %"
    assert text.change(999, 1_000) == "-0.1 %"
    assert text.change(1, None) == ""
    assert text.setting(300_000_000) == "300 ms"
    assert text.setting(1_500_000_000) == "1.5 s"


def test_a_pipe_gets_no_progress_bar(capsys):
    with Bar() as bar:
        bar._begin -= 10
        bar("replaying", 1, 2)
    assert capsys.readouterr() == ("", "")
