"""Options of profile `qemu`: what they become, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analyses.commands import run
from analyses.commands.choices import AtEnd, Profile
from analyses.commands.options import ReplayOptions
from analyses.load import as_worked
from analyses.recording import Recording
from analyses.render.invocation import replay_command
from replay.dirty_limit import DirtyLimit
from replay.pacing import at_work
from replay.parameters import Parameters
from replay.qemu_version import QemuVersion
from replay.replay import replay
from replay.strategies import strategy
from replay.throttle import AutoConverge
from tests.analyses.traces import meta, write
from tracer import Trace

MS = 1_000_000


def options(**given) -> Parameters:
    return ReplayOptions(profile=Profile.qemu, **given).parameters()


def bare(path: Path) -> str:
    return str(write(path, meta(freelist_resolution=None), dirty=[(MS, 3, 2)]))


def test_what_they_become():
    found = options(
        line_rate="1GB/s", zero_page_time="250ns", wake_up="1ms", guest_load=60,
        stop_time="5ms", device_state="0",
        auto_converge=True, throttle_trigger=10, throttle_initial=30, throttle_increment=20,
        throttle_maximum=80, seed=4, scenarios="recorded, saturated", at_end=AtEnd.continue_,
    )  # fmt: skip
    assert found == Parameters(
        profile="qemu", line_rate=10**9, zero_page_ns=250, wake_ns=MS, guest_load=60,
        stop_ns=5 * MS, device_bytes=0,
        auto_converge=AutoConverge(10, 30, 20, 80), seed=4, scenarios=("recorded", "saturated"),
        at_end="continue",
    )  # fmt: skip
    found = options(dirty_limit="60MiB/s", vcpus=2, dirty_ring=1024, throttle_trigger=40)
    assert found.dirty_limit == DirtyLimit(60, 1000, 40, 2, 1024)
    assert options() == Parameters(profile="qemu")


@pytest.mark.parametrize(
    "given",
    [
        {"auto_converge": AutoConverge(10, 30, 20, 80), "guest_load": 60},
        {"dirty_limit": DirtyLimit(60, 1000, 40, 2, 1024)},
        {"line_rate": 10**9, "zero_page_ns": 250, "wake_ns": MS, "seed": 4},
        {"stop_ns": 0, "device_bytes": 3 << 30},
        {"stop_ns": MS, "device_bytes": 0},
        {"qemu": QemuVersion(8, 2), "switchover_bandwidth": 12_345_678},
    ],
)
def test_the_command_line_of_a_replay_says_them(given):
    """What is told in a story can be run again, and means the same."""
    wanted = Parameters(profile="qemu", **given)
    words = replay_command("a.trace", strategy("precopy"), wanted).split()[5:]
    named = {}
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        flag = not words or words[0].startswith("--")
        named[name] = True if flag else words.pop(0)
    whole = {"guest_load", "seed", "vcpus", "dirty_ring"}
    for name, text in named.items():
        if name in whole or name.startswith("throttle_"):
            named[name] = int(text)
    assert named.pop("profile") == "qemu"
    assert options(**named) == wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--line-rate", "1GB/s"], "--profile qemu"),
        (["--zero-page-time", "1us"], "--profile qemu"),
        (["--wake-up", "0"], "--profile qemu"),
        (["--stop-time", "1ms"], "--profile qemu"),
        (["--device-state", "1MiB"], "--profile qemu"),
        (["--profile", "qemu", "--device-state", "10"], "is no size"),
        (
            ["--profile", "qemu", "--device-state", "3GB", "--line-rate", "8bit/s"],
            "device state at this line rate",
        ),
        (["--avail-switchover-bandwidth", "1MB/s"], "--profile qemu"),
        (
            ["--profile", "qemu", "--qemu", "8.1", "--avail-switchover-bandwidth", "1MB/s"],
            "it came with 8.2",
        ),
        (["--profile", "qemu", "--avail-switchover-bandwidth", "0B/s"], "would never end"),
        (["--auto-converge"], "--profile qemu"),
        (["--dirty-limit", "1MiB/s"], "--profile qemu"),
        (["--profile", "qemu", "--throttle-initial", "5"], "--auto-converge"),
        (["--profile", "qemu", "--dirty-limit", "1MiB/s", "--throttle-maximum", "5"], "--auto-c"),
        (["--profile", "qemu", "--auto-converge", "--vcpus", "2"], "--dirty-limit RATE"),
        (["--profile", "qemu", "--guest-load", "50"], "--auto-converge or --dirty-limit"),
        (["--profile", "qemu", "--dirty-limit", "1MB/s"], "whole number of MiB/s"),
        (["--profile", "qemu", "--dirty-limit", "1MiB/s", "--dirty-ring", "100"], "power of two"),
        (["--profile", "qemu", "--dirty-limit", "1MiB/s", "--auto-converge"], "one of them"),
        (["--profile", "qemu", "--dirty-limit", "1MiB/s", "--qemu", "7.2"], "it came with 8.1"),
        (["--profile", "qemu", "--dirty-limit", "1MiB/s", "--qemu", "8.0"], "it came with 8.1"),
        (["--scenarios", "recorded,foo"], "'foo'"),
    ],
)
def test_what_is_refused(words, said, tmp_path, capsys):
    assert run(["replay", bare(tmp_path / "a.trace"), *words]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("command", ["explain", "hazards"])
@pytest.mark.parametrize(
    "words", [["--at-end", "continue"], ["--seed", "1"], ["--scenarios", "recorded"]]
)
def test_what_draws_nothing_refuses_to_draw(command, words, tmp_path, capsys):
    path = bare(tmp_path / "a.trace")
    assert run([command, path, "-s", "precopy", *words]) == 2
    assert "that is for dirtylog replay" in capsys.readouterr().err


def test_scenarios_are_those_asked_for(tmp_path, capsys):
    path = str(
        write(
            tmp_path / "a.trace",
            meta(freelist_resolution=None, resolution="first-write"),
            dirty=[(MS, 3, 2), (3 * MS, 3, 2)],
            epochs=[(2 * MS,)],
        )
    )
    for asked, wanted in (
        ([], ["recorded", "expected", "saturated"]),
        (["--scenarios", "saturated"], ["recorded", "saturated"]),
        (["--scenarios", "recorded"], ["recorded"]),
    ):
        assert run(["replay", path, "-s", "precopy", "--json", *asked]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [row["scenario"] for row in found] == wanted


def recorded_by(path: Path, version: str | None) -> str:
    source = {"recorder": "a test"} | ({} if version is None else {"qemu": version})
    header = meta(freelist_resolution=None, source=source)
    return str(write(path, header, dirty=[(MS, 3, 2)]))


@pytest.mark.parametrize(
    ("version", "given", "said"),
    [
        ("10.0.2", [], "profile qemu of QEMU 10.0 (as recorded)"),
        ("10.0.2", ["--qemu", "8.2"], "profile qemu of QEMU 8.2, "),
        (None, [], "profile qemu of QEMU 7.2 (none is recorded)"),
        ("6.2.0", [], "profile qemu of QEMU 7.2 (recorded: 6.2)"),
        ("12.1.0", [], "profile qemu of QEMU 11.1 (recorded: 12.1)"),
        ("7.2.22", ["--dirty-limit", "1MiB/s"], "QEMU 8.1 (the first with dirty-limit)"),
        ("9.0.0", ["--dirty-limit", "1MiB/s"], "profile qemu of QEMU 9.0 (as recorded)"),
        (None, ["--avail-switchover-bandwidth", "1MiB/s"], "QEMU 8.2 (the first with avail-swit"),
        ("9.0.0", ["--avail-switchover-bandwidth", "1MiB/s"], "of QEMU 9.0 (as recorded)"),
    ],
)
def test_the_loop_is_that_of_the_recording(version, given, said, tmp_path, capsys):
    path = recorded_by(tmp_path / "a.trace", version)
    assert run(["replay", path, "-s", "precopy", "--profile", "qemu", *given]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    taken = said.partition("QEMU ")[2].partition(" ")[0].rstrip(",")
    assert f"the loop is that of QEMU {taken};" in shown


def test_each_trace_has_its_own_loop_in_a_sweep(tmp_path):
    """And what a trace says is no other task than the same said by the user."""
    for version in ("10.0.2", "7.2.22"):
        recorded_by(tmp_path / f"by-{version}.trace", version)
    out = tmp_path / "out"
    words = ["sweep", str(tmp_path), "-s", "precopy", "--profile", "rounds,qemu", "--workers", "1"]
    assert run([*words, "-o", str(out)]) == 0
    rows = pl.read_parquet(out / "results.parquet").select("trace", "profile", "qemu").rows()
    assert sorted(rows, key=str) == [
        ("by-10.0.2", "qemu", "10.0"),
        ("by-10.0.2", "rounds", None),
        ("by-7.2.22", "qemu", "7.2"),
        ("by-7.2.22", "rounds", None),
    ]
    words[5:6] = ["qemu"]
    assert run([*words, "--qemu", "default,7.2", "-o", str(out)]) == 0
    found = pl.read_parquet(out / "results.parquet").select("trace", "qemu").rows()
    assert sorted(found) == [("by-10.0.2", "10.0"), ("by-10.0.2", "7.2"), ("by-7.2.22", "7.2")]


def test_a_load_undoes_the_recorded_throttle(tmp_path, capsys):
    """For every command that replays: by guest time that guest wrote ten times too fast."""
    path = "sample_traces/uniform.autoconverge.trace"
    trace = Trace.open(path)
    words = ["--profile", "qemu", "--auto-converge", "--bandwidth", "24MiB/s", "--guest-load", "6"]
    limit = ["--downtime-limit", "30ms"]
    assert run(["replay", path, "-s", "precopy", *words, *limit, "--json",
                "--scenarios", "recorded"]) == 0  # fmt: skip
    (row,) = json.loads(capsys.readouterr().out)
    parameters = Parameters(
        profile="qemu", bandwidth=24 << 20, downtime_limit_ns=30 * MS, guest_load=6,
        auto_converge=AutoConverge(), scenarios=("recorded",),
    )  # fmt: skip
    worked = at_work(trace, Recording.of(trace).throttles, 6)
    (wanted,) = replay(worked, strategy("precopy"), parameters)
    (other,) = replay(trace, strategy("precopy"), parameters)
    assert (row["completed"], row["total_ns"]) == (True, wanted.result.total_ns)
    assert other.result.total_ns != row["total_ns"]
    assert run(["sweep", path, "-s", "precopy", *[w if w != "--auto-converge" else
                "--auto-converge=yes" for w in words], *limit, "--scenarios", "recorded",
                "--workers", "1", "-o", str(tmp_path / "out")]) == 0  # fmt: skip
    swept = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert swept["total_ns"].to_list() == [row["total_ns"]]
    capsys.readouterr()
    assert run(["repair", path, "-s", "hint-tagged", *words, *limit, "--json",
                "--scenarios", "recorded"]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["precopy"]["total_ns"] == row["total_ns"]
    assert as_worked(trace, replace(parameters, guest_load=100)) is trace


@pytest.mark.parametrize(
    ("trace", "given", "said"),
    [
        ("uniform.autoconverge", [], "shows a guest load of 6 % (--guest-load)"),
        (
            "uniform.autoconverge",
            ["--guest-load", "6"],
            "while it was recorded throttled; as the recording shows",
        ),
        ("seq.40", [], "as fast as it may (guest load 100 %); the recording does not show how"),
    ],
)
def test_a_guest_that_is_held_back_is_told(trace, given, said, capsys):
    words = ["-s", "precopy", "--profile", "qemu", "--scenarios", "recorded"]
    held = ["--auto-converge", "--bandwidth", "40MiB/s"]
    assert run(["replay", f"sample_traces/{trace}.trace", *words, *held, *given]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert run(["replay", f"sample_traces/{trace}.trace", *words]) == 0
    assert "guest load" not in capsys.readouterr().out
