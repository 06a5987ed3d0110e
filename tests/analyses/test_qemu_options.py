"""Options of profile `qemu`: what they become, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analyses.commands import run
from analyses.commands.choices import AtEnd, Profile
from analyses.commands.options import ReplayOptions
from analyses.render.invocation import replay_command
from replay.dirty_limit import DirtyLimit
from replay.parameters import Parameters
from replay.strategies import strategy
from replay.throttle import AutoConverge
from tests.analyses.traces import meta, write

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
        (["--auto-converge"], "--profile qemu"),
        (["--dirty-limit", "1MiB/s"], "--profile qemu"),
        (["--profile", "qemu", "--throttle-initial", "5"], "--auto-converge"),
        (["--profile", "qemu", "--dirty-limit", "1MiB/s", "--throttle-maximum", "5"], "--auto-c"),
        (["--profile", "qemu", "--auto-converge", "--vcpus", "2"], "--dirty-limit RATE"),
        (["--profile", "qemu", "--guest-load", "50"], "--auto-converge or --dirty-limit"),
        (["--profile", "qemu", "--dirty-limit", "1MB/s"], "whole number of MiB/s"),
        (["--profile", "qemu", "--dirty-limit", "1MiB/s", "--dirty-ring", "100"], "power of two"),
        (["--profile", "qemu", "--dirty-limit", "1MiB/s", "--auto-converge"], "one of them"),
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
