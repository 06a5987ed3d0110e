"""`dirtylog synth`, as a user meets it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

from analyses.commands import guests, units
from analyses.commands.choices import FreeList, Kind, Plant, Resolution
from tests.test_cli import COMMANDS, _eighty_columns, cli, refused  # noqa: F401 - fixtures
from tracer import Trace, UsageError
from tracer.format import FreelistResolution
from tracer.format import Resolution as Known
from tracer.synth import KINDS, options_of
from tracer.synth.kinds.race import Plant as Planting

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ("--memory", "64MiB", "--duration", "2s", "--rate", "5k")
(SYNTH,) = [command for path, command in COMMANDS if path == ("synth",)]


def test_the_command_line_offers_what_there_is():
    from typing import get_args

    assert tuple(Kind) == KINDS
    assert tuple(Resolution) == get_args(Known)
    assert tuple(FreeList) == get_args(FreelistResolution)
    assert tuple(Plant) == get_args(Planting)
    assert set(guests.PARSERS) == {name for kind in KINDS for name in options_of(kind).names()}


def test_the_help_says_which_kinds_have_an_option():
    for parameter in SYNTH.params:
        if parameter.name not in guests.PARSERS:
            continue
        having = [kind for kind in KINDS if parameter.name in options_of(kind).names()]
        lacking = [kind for kind in KINDS if kind not in having]
        told = parameter.help.partition(": ")[0]
        if told.startswith("All"):
            named = re.split(", | and ", told.removeprefix("All").removeprefix(" but "))
            assert [name for name in named if name] == lacking
        else:
            assert told.split(", ") == having, parameter.name


def test_the_readme_tells_every_kind_and_its_defaults():
    table = dict(re.findall(r"^\| `([a-z-]+)` \| .* \| (.*) \|$", README, re.MULTILINE))
    for kind in KINDS:
        told = dict(re.findall(r"`--([a-z-]+) ([^`]+)`", table[kind]))
        options = options_of(kind)
        assert {name.replace("-", "_") for name in told} == set(options.names())
        for name, text in told.items():
            key = name.replace("-", "_")
            assert guests.PARSERS[key](text, name) == getattr(options(), key), (kind, name)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "race"])
def test_every_kind_by_its_command(cli, kind):  # noqa: F811
    code, out, err = cli("synth", kind, "-o", "x.trace", *SMALL)
    assert (code, out) == (0, "x.trace\n")
    assert "dirty rows" in err
    assert max(map(len, err.splitlines())) <= 80
    trace = Trace.open("x.trace")
    trace.validate()
    assert trace.meta.source["kind"] == kind
    assert trace.meta.pages == 1 << 14


def test_every_common_option(cli):  # noqa: F811
    code, _, _ = cli(
        "synth", "sweep", "-o", "x.trace", "--pages", "20000", "--page-size", "64KiB",
        "--duration", "1500ms", "--rate", "2.5k", "--seed", "7", "--resolution", "first-write",
        "--epoch", "100ms", "--free-list", "sampled", "--sample-every", "50ms", "--quantum", "1ms",
        "--no-init-on-alloc", "--alloc-order", "3", "--stale", "10%", "--background", "0.25",
        "--working-set", "256MiB", "--resident", "0", "--compression", "lz4",
    )  # fmt: skip
    assert code == 0
    trace = Trace.open("x.trace")
    meta = trace.meta
    assert (meta.pages, meta.page_size, meta.duration_ns) == (20000, 1 << 16, 1_500_000_000)
    assert (meta.resolution, meta.freelist_resolution) == ("first-write", "sampled")
    assert meta.quantum_ns == 1_000_000
    assert len(trace.epochs) == 15
    assert meta.source["seed"] == 7
    assert meta.source["init_on_alloc"] is False
    assert meta.source["options"] == {
        "rate": 2500, "alloc_order": 3, "background": "1/4", "stale": "1/10",
        "working_set": 256 << 20, "resident": "0",
    }  # fmt: skip
    (area,) = [r for r in meta.source["regions"] if r["name"] == "working set"]
    assert area["pages"] == 4096


def test_a_planted_race_and_the_command_that_shows_it(cli):  # noqa: F811
    code, _, err = cli(
        "synth", "race", "-o", "x.trace", "--races", "3", "--report-delay", "20ms",
        "--planted", "x.json",
    )  # fmt: skip
    assert code == 0
    assert "planted: in meta.json" in " ".join(cli("info", "x.trace")[1].split())
    told = json.loads(Path("x.json").read_text())
    assert told.pop("trace") == "x.trace"
    assert told == Trace.open("x.trace").meta.source["planted"]
    (line,) = [line for line in err.splitlines() if "dirtylog replay" in line]
    words = shlex.split(line.partition("dirtylog replay")[2])
    code, out, _ = cli("replay", *words, "--json")
    assert code == 0
    lost = {row["strategy"]: row["lost"] for row in json.loads(out)}
    assert {name for name, number in lost.items() if number} == set(told["lost_under"])
    assert {number for number in lost.values() if number} == {3}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("zipf", "--hot-share", "10%"), "hot-cold, phases"),
        (("boot", "--background", "1%"), "--background"),
        (("race", "--no-init-on-alloc"), "--no-init-on-alloc"),
        (("zipf", "--planted", "x.json"), "--planted"),
        (("zipf", "--memory", "1GiB", "--pages", "3"), "one of them"),
        (("zipf", "--memory", "5000B"), "whole number"),
        (("zipf", "--memory", "4MB"), "whole number"),
        (("zipf", "--memory", "lots"), "is no size"),
        (("zipf", "--pages", "3"), "too small"),
        (("zipf", "--page-size", "0B"), "--page-size"),
        (("zipf", "--rate", "-1"), "is no whole number"),
        (("zipf", "--rate", "1000M", "--duration", "1ms"), "do not fit"),
        (("zipf", "--duration", "0"), "lasts"),
        (("zipf", "--exponent", "30"), "wanted 0 to 20"),
        (("zipf", "--exponent", "x"), "is no number"),
        (("zipf", "--reclaim", "101%"), "is no share"),
        (("zipf", "--working-set", "110%"), "is no share"),
        (("zipf", "--working-set", "12"), "amount of memory"),
        (("zipf", "--working-set", "1TiB"), "do not fit"),
        (("churn", "--kept", "0"), "wanted 1"),
        (("kernel-build", "--jobs", "9999"), "more memory"),
        (("zipf", "--quantum", "0"), "quantum"),
        (("zipf", "--duration", "1000min", "--rate", "2G"), "writes"),
        (("zipf", "--duration", "1000min", "--rate", "1.6M"), "free"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(cli, arguments, word):  # noqa: F811
    refused(cli("synth", *arguments, "-o", "x.trace"), 2, word)
    assert not list(Path().iterdir())


def test_an_existing_trace_is_kept_unless_forced(cli):  # noqa: F811
    assert cli("synth", "idle", "-o", "x.trace", *SMALL)[0] == 0
    before = Trace.open("x.trace").digest
    refused(cli("synth", "idle", "-o", "x.trace", *SMALL, "--seed", "2"), 2, "--force")
    assert Trace.open("x.trace").digest == before
    assert cli("synth", "idle", "-o", "x.trace", *SMALL, "--seed", "2", "--force")[0] == 0
    assert Trace.open("x.trace").digest != before


LONG = [
    sys.executable, "-m", "analyses.commands", "synth", "zipf", "-o", "x.trace",
    "--memory", "64MiB", "--duration", "60s", "--rate", "1M",
]  # fmt: skip


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_an_interrupt_leaves_nothing(tmp_path):
    running = subprocess.Popen(
        LONG, cwd=tmp_path, env=_environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".x.trace*/dirty.arrow")):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files, which the system reports like a disk that is full."""
    # In blocks of 512 bytes. By a shell: what runs between a fork and a start may not have threads.
    limited = ["sh", "-c", 'ulimit -f 16384 && exec "$@"', "sh", *LONG]
    done = subprocess.run(
        limited, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dirtylog: error: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_units():
    assert units.size("1.5GiB", "x") == 3 << 29
    assert units.size("64 MB", "x") == 64_000_000
    assert units.count("2.5M", "x") == 2_500_000
    assert units.share("12.5%", "x") == units.share("0.125", "x") == Fraction(1, 8)
    assert units.amount("25%", "x") == Fraction(1, 4)
    assert units.amount("4096B", "x") == 4096
    assert units.number("1.2", "x") == Fraction(6, 5)
    for read, text in (
        (units.size, "1.5B"), (units.size, "12"), (units.count, "1.5"), (units.count, "1Ki"),
        (units.share, "2"), (units.share, "x"), (units.amount, "0.5"), (units.number, "1e3"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=re.escape(repr(text))):
            read(text, "--x")
