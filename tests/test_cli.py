from __future__ import annotations

import gzip
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from analyses.commands import choices, command_line, main, run
from replay.parameters import Parameters
from replay.policies import REQUESTS
from replay.profiles import PROFILES
from replay.result import Result, schema
from replay.strategies import registered
from tests.analyses.traces import MS, endless, hidden, meta, race, unlisted, write
from tracer import Trace

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "analyses.commands"]


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """What the commands compile when they are first called; the tests look at all they print."""
    path = str(race(tmp_path_factory.mktemp("compiled") / "a.trace"))
    for command in ("info", "replay"):
        assert run([command, path]) == 0


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "DIRTYLOG_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(capsys):
    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def refused(result, code, *parts):
    """Check one clear line on stderr, nothing on stdout, and the exit code."""
    found, out, err = result
    assert out == ""
    assert err.startswith("dirtylog: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    for part in parts:
        assert part in err, err
    assert found == code, err


def leaves(command, path=()):
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


COMMANDS = list(leaves(typer.main.get_command(command_line())))


# -- help ---------------------------------------------------------------------------------------


def test_the_commands_are_there():
    names = {" ".join(path) for path, _ in COMMANDS}
    assert {"replay", "info", "strategies", "import qemu"} <= names


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=str)
def test_every_command_and_option_has_help(cli, path, command):
    code, out, err = cli(*path, "--help")
    assert (code, err) == (0, "")
    assert command.help
    for parameter in command.params:
        assert parameter.help, parameter.name
        assert parameter.opts[-1] in out or parameter.metavar in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_commands_stand_in_help_and_help_in_two_forms(cli):
    _, out, _ = cli("--help")
    assert cli("-h") == (0, out, "")
    for path, _ in COMMANDS:
        assert path[0] in out


def test_no_command_gets_help_and_exit_code_2(cli):
    code, out, err = cli()
    assert (code, out) == (2, "")
    assert "Usage: dirtylog" in err


def test_version(cli):
    code, out, err = cli("--version")
    assert (code, err) == (0, "")
    assert out.startswith("dirtylog ")


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [(["--help"], set()), (["replay", "--help"], {"analyses.commands.sweep"})],
)
def test_help_imports_nothing_heavy(arguments, unwanted):
    unwanted = unwanted | {"numba", "numpy", "pyarrow", "polars", "rich.console"}
    script = (
        f"import sys; from analyses.commands import run; run({arguments});"
        f"found = {unwanted} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_choices_and_defaults_are_those_of_the_parameters():
    assert set(choices.RequestAxis) == set(REQUESTS)
    assert set(choices.Profile) == set(PROFILES)
    options = {p.name: p for p in dict(COMMANDS)[("replay",)].params}
    assert options["hint_clears_log"].default is Parameters().hint_clears_log
    for name in ("profile", "log_mode", "guest_hold", "at_end", "clear_chunk", "min_order"):
        assert options[name].default == getattr(Parameters(), name)
    for kind in ("LogMode", "GuestHold", "AtEnd", "Profile", "RequestAxis"):
        metavars = [option.metavar for option in options.values()]
        assert choices.metavar(getattr(choices, kind)) in metavars


def test_default_units_are_those_of_the_parameters(cli, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "analyses.compare.plan", lambda *a, **k: seen.append(a) or pytest.fail("stop")
    )
    with pytest.raises(pytest.fail.Exception):
        cli("replay", race(tmp_path / "a.trace"))
    assert seen[0][2] == Parameters()


# -- replay -------------------------------------------------------------------------------------


def test_replay_reports_every_strategy(cli, tmp_path):
    code, out, err = cli("replay", race(tmp_path / "race.trace"))
    assert (code, err) == (0, "")
    for name in registered():
        assert name in out
    assert max(map(len, out.splitlines())) <= 80


def test_json_is_one_list_of_the_models_rows(cli, tmp_path):
    code, out, err = cli("replay", race(tmp_path / "race.trace"), "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["strategy"] for row in rows] == list(registered())
    for row in rows:
        assert list(row) == schema(Result).names
        assert pa.Table.from_pylist([row], schema=schema(Result)).to_pylist() == [row]
        assert row["scenario"] == "exact"
    lost = {row["strategy"]: row["lost"] for row in rows}
    assert (lost["hint-async"], lost["hint-first-pass"]) == (1, 0)


def test_json_of_an_inexact_trace_has_a_row_a_scenario(cli, tmp_path):
    _, out, _ = cli("replay", hidden(tmp_path / "a.trace"), "-s", "precopy", "--json")
    assert [row["scenario"] for row in json.loads(out)] == ["recorded", "expected", "saturated"]


def test_options_reach_the_replay(cli, tmp_path):
    path = race(tmp_path / "race.trace")
    slow = ("--bandwidth", "64MiB/s", "--downtime-limit", "1ms", "--json", "-s", "precopy")
    assert not json.loads(cli("replay", path, *slow)[1])[0]["completed"]
    looped = json.loads(cli("replay", path, *slow, "--at-end", "loop", "--max-rounds", "3")[1])
    assert (looped[0]["rounds"], looped[0]["reason"]) != (0, "trace-exhausted")
    manual = json.loads(cli("replay", path, "--log-mode", "manual", "--json")[1])
    assert {row["log_mode"] for row in manual} == {"manual"}
    held = cli("replay", path, "--guest-hold", "done", "--json")[1]
    assert {row["lost"] for row in json.loads(held)} == {0}
    late = cli("replay", path, "-s", "hint-async", "--report-delay", "2s", "--json")[1]
    assert json.loads(late)[0]["reports_handled"] == 0


def test_without_a_free_list_precopy_alone_and_a_word_about_it(cli, tmp_path):
    code, out, err = cli("replay", unlisted(tmp_path / "bare.trace"), "--json")
    assert code == 0
    assert [row["strategy"] for row in json.loads(out)] == ["precopy"]
    assert err == "dirtylog: bare: no free list, so precopy is all that can be replayed\n"


def test_output_is_four_tables_with_their_provenance(cli, tmp_path):
    trace = race(tmp_path / "race.trace")
    code, out, err = cli("replay", trace, "-o", "out", "--json", "--bandwidth", "1GB/s")
    assert code == 0
    assert json.loads(out) == pq.read_table("out/results.parquet").to_pylist()
    assert str(tmp_path / "out") in err
    names = {"results.parquet", "rounds.parquet", "reports.parquet", "unsafe.parquet"}
    assert {file.name for file in Path("out").iterdir()} == names
    for name in names:
        told = json.loads(pq.read_schema(f"out/{name}").metadata[b"dirtylog"])
        assert told["traces"] == {"race": Trace.open(trace).digest}
        assert told["parameters"]["bandwidth"] == 10**9


def test_an_existing_output_is_kept_unless_forced(cli, tmp_path):
    trace = race(tmp_path / "race.trace")
    call = ("replay", trace, "-s", "precopy", "--output", "out")
    assert cli(*call)[0] == 0
    before = Path("out/results.parquet").read_bytes()
    refused(cli(*call, "--max-rounds", "1"), 2, "out", "--force")
    assert Path("out/results.parquet").read_bytes() == before
    assert cli("replay", trace, "-o", "out", "--force")[0] == 0
    assert Path("out/results.parquet").read_bytes() != before


def test_force_never_empties_a_directory_of_something_else(cli, tmp_path):
    trace = race(tmp_path / "race.trace")
    for other in (trace, tmp_path):
        refused(cli("replay", trace, "-o", other, "--force"), 2, "something else")
    assert Trace.open(trace)


def test_nothing_is_left_of_an_output_that_failed(cli, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("analyses.outputs.pq.write_table", fail)
    refused(cli("replay", race(tmp_path / "a.trace"), "-o", "out"), 1, "No space left")
    assert [path.name for path in tmp_path.iterdir()] == ["a.trace"]


# -- what is refused ----------------------------------------------------------------------------


def test_unknown_strategy(cli, tmp_path):
    refused(
        cli("replay", race(tmp_path / "a.trace"), "-s", "hint-asynk"),
        2,
        "did you mean 'hint-async'",
    )


def test_hints_without_a_free_list(cli, tmp_path):
    refused(
        cli("replay", unlisted(tmp_path / "a.trace"), "-s", "hint-drain"),
        2,
        "hint-drain",
        "freelist.arrow",
    )


def test_hinting_on(cli, tmp_path):
    path = race(tmp_path / "a.trace", hinting=True)
    refused(cli("replay", path), 2, "--anyway")
    assert cli("replay", path, "--anyway")[0] == 0


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--bandwidth", "fast", "10Gbit/s"),
        ("--bandwidth", "0B/s", "10Gbit/s"),
        ("--bandwidth", "99999999TiB/s", "wanted"),
        ("--downtime-limit", "5", "300ms"),
        ("--report-delay", "-1ms", "300ms"),
        ("--hint-interval", "0", "wanted"),
        ("--clear-chunk", "0", "wanted"),
        ("--clear-chunk", "many", "--clear-chunk"),
        ("--min-order", "-1", "wanted"),
        ("--max-rounds", "0", "wanted"),
        ("--log-mode", "ring", "legacy"),
        ("--guest-hold", "ok", "ack"),
        ("--request", "often", "every-sync"),
        ("--profile", "fast", "rounds"),
        ("--at-end", "wait", "loop"),
    ],
)
def test_nonsense_parameters(cli, tmp_path, option, value, part):
    refused(cli("replay", race(tmp_path / "a.trace"), option, value), 2, part)


def test_unknown_options_and_commands(cli):
    refused(cli("replay", "x", "--bandwith", "1GB/s"), 2, "--bandwidth", "replay --help")
    refused(cli("reply"), 2, "reply")
    refused(cli("replay"), 2, "TRACE")
    refused(cli("import", "qemu", "x"), 2, "--output")


def bent(file, change):
    data = bytearray(file.read_bytes())
    file.write_bytes(change(data))


def header(path, **changes):
    file = path / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rows(path, **columns):
    """Put rows into dirty.arrow that a writer would have refused."""
    table = pa.table(
        [pa.array(columns["t"], "int64"), pa.array(columns["page"], "uint64"),
         pa.array(columns["count"], "uint32")], names=["t_ns", "page", "count"],
    )  # fmt: skip
    header(path, digests={})
    sink = pa.OSFile(str(path / "dirty.arrow"), "wb")
    with sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


DAMAGE = {
    "missing dirty": (lambda p: (p / "dirty.arrow").unlink(), 3, "dirty.arrow"),
    "missing meta": (lambda p: (p / "meta.json").unlink(), 3, "meta.json"),
    "missing freelist": (lambda p: (p / "freelist.arrow").unlink(), 3, "freelist.arrow"),
    "truncated": (lambda p: bent(p / "dirty.arrow", lambda d: d[:-40]), 3, "dirty.arrow"),
    "empty": (lambda p: bent(p / "dirty.arrow", lambda d: b""), 3, "dirty.arrow"),
    "foreign": (lambda p: bent(p / "dirty.arrow", gzip.compress), 3, "dirty.arrow"),
    "flipped": (
        lambda p: bent(p / "dirty.arrow", lambda d: d[:200] + bytes([d[200] ^ 1]) + d[201:]),
        3,
        "dirty.arrow",
    ),
    "no json": (lambda p: bent(p / "meta.json", lambda d: b"\x00\xff"), 3, "meta.json"),
    "foreign json": (lambda p: (p / "meta.json").write_text("{}"), 3, "meta.json"),
    "version": (lambda p: header(p, version=2), 4, "version 2"),
    "page": (lambda p: rows(p, t=[1, 2], page=[0, 64], count=[1, 1]), 3, "dirty.arrow, row 1"),
    "huge page": (lambda p: rows(p, t=[1], page=[2**64 - 1], count=[2]), 3, "dirty.arrow, row 0"),
    "back": (lambda p: rows(p, t=[2, 1], page=[0, 0], count=[1, 1]), 3, "dirty.arrow, row 1"),
    "late": (lambda p: rows(p, t=[9 * 10**9], page=[0], count=[1]), 3, "dirty.arrow, row 0"),
}


@pytest.mark.parametrize("command", [("replay", "-o", "out"), ("info",)], ids=["replay", "info"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_traces(cli, tmp_path, command, damage):
    spoil, code, part = DAMAGE[damage]
    path = race(tmp_path / "a.trace")
    spoil(path)
    refused(cli(command[0], path, *command[1:]), code, str(path), part)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.trace"]


@pytest.mark.parametrize("command", ["replay", "info"])
def test_no_trace_at_all(cli, tmp_path, command):
    refused(cli(command, "nowhere.trace"), 3, "nowhere.trace", "does not exist")
    refused(cli(command, tmp_path), 3, "meta.json")
    Path("file\nname").write_text("x")
    refused(cli(command, "file\nname"), 3, "is a file")


def test_our_own_errors_ask_for_a_report(cli, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("by zero")

    path = race(tmp_path / "a.trace")
    monkeypatch.setattr("analyses.compare.plan", fail)
    refused(cli("replay", path), 1, "ZeroDivisionError", "report", "DIRTYLOG_TRACEBACK=1")
    monkeypatch.setenv("DIRTYLOG_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli("replay", path)


# -- info, strategies, import -------------------------------------------------------------------


def test_info_shows_what_there_is(cli, tmp_path):
    code, out, err = cli("info", race(tmp_path / "race.trace"))
    assert (code, err) == (0, "")
    for word in ("512 MiB", "2.00 s", "write", "working set", "pages/s", "a test", "distinct"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 80


def test_info_as_json(cli, tmp_path):
    _, out, _ = cli("info", hidden(tmp_path / "a.trace"), "--json")
    told = json.loads(out)
    assert (told["trace"], told["pages"], told["resolution"]) == ("a", 64, "first-write")
    assert told["working_set_pages"] == 51
    assert sum(window["pages_written"] for window in told["windows"]) == told["pages_written"]


def test_info_of_odd_traces(cli, tmp_path):
    bare = meta(duration_ns=0, freelist_resolution=None, source={})
    odd = {"status": 7, "ram": [], "downtime": "x", "total-time": True}
    path = write(tmp_path / "a.trace", bare, migration=odd, dirty=[])
    code, out, _ = cli("info", path)
    assert code == 0
    assert "lasts no time" in out


def test_strategies(cli):
    code, out, err = cli("strategies")
    assert (code, err) == (0, "")
    for name, strategy in registered().items():
        assert name in out
        assert strategy.origin.split()[-1] in out
    told = json.loads(cli("strategies", "--json")[1])
    assert [one["name"] for one in told] == list(registered())
    tagged = next(one for one in told if one["name"] == "hint-tagged")
    assert (tagged["request"], tagged["accept"], tagged["hold"]) == ("every-sync", "tagged", "done")


OWN = """\
from replay.policies import Accept, Fate

class Never(Accept):
    def when_due(self, report):
        return Fate.DROP

class Broken(Accept):
    def when_due(self, report):
        print("a word")
        raise ValueError("no luck\\nat all")

class Loses(Accept):
    \"\"\"Handles all.\"\"\"
"""


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "mine.py").write_text(OWN)
    return "my files/mine.py"


def test_strategies_of_ones_own_stand_beside_the_others(cli, tmp_path, own):
    path = race(tmp_path / "race.trace")
    names = ("-s", "precopy", "-s", f"{own}:Never", "-s", f"{own}:Loses")
    code, out, err = cli("replay", path, *names)
    assert (code, err) == (0, "")
    for part in ("Never", "Loses loses page 60", "precopy"):
        assert part in out
    code, out, err = cli("replay", path, *names, "--json", "-o", "out")
    assert code == 0
    assert [row["strategy"] for row in json.loads(out)] == ["precopy", "Never", "Loses"]
    results = pq.read_table("out/results.parquet")
    assert results["strategy"].to_pylist() == ["precopy", "Never", "Loses"]
    code, out, err = cli("strategies", "hint-wait", f"{own}:Loses", "--json")
    first, second = json.loads(out)
    assert (first["name"], second["name"]) == ("hint-wait", "Loses")
    assert second["origin"] == f"Handles all. ({own}:Loses)"
    assert (second["request"], second["accept"]) == ("once", "Loses")
    assert cli("strategies", f"{own}:Loses")[1].count("Loses") == 3


def test_one_strategy_given_twice_is_one_and_two_of_a_name_are_refused(cli, tmp_path, own):
    path = race(tmp_path / "race.trace")
    _, out, _ = cli("replay", path, "-s", f"{own}:Never", "-s", f"{own}:Never", "--json")
    assert len(json.loads(out)) == 1
    (tmp_path / "other.py").write_text(OWN)
    both = ("-s", f"{own}:Never", "-s", "other.py:Never")
    refused(cli("replay", path, *both), 2, f"{own}:Never and other.py:Never", "rename one")


@pytest.mark.parametrize("command", ["replay race.trace -s", "prove", "strategies", "conform"])
def test_a_strategy_file_that_is_none(cli, tmp_path, own, command):
    race(tmp_path / "race.trace")
    words = command.split()
    refused(cli(*words, "nowhere.py:X"), 2, "nowhere.py: no such file")
    refused(cli(*words, f"{own}:Nevr"), 2, f"{own} defines no Nevr", "Never")
    (tmp_path / "bad.py").write_text("x = 1\ny = x +\n")
    refused(cli(*words, "bad.py:X"), 2, "bad.py:2: SyntaxError", "`y = x +`")
    (tmp_path / "worse.py").write_text("def f():\n    return {}['x']\nX = f()\n")
    refused(cli(*words, "worse.py:X"), 2, "worse.py:2 in f: KeyError: 'x'", "return {}['x']")


def test_a_policy_that_raises_is_named_with_its_line(cli, tmp_path, own):
    path = race(tmp_path / "race.trace")
    for words in (("replay", path, "-s"), ("prove",)):
        code, out, err = cli(*words, f"{own}:Broken")
        assert (code, out) == (2, "")
        *printed, said = err.splitlines()
        assert set(printed) == {"a word"}
        assert said == (
            f"dirtylog: error: {own}:10 in when_due: ValueError: no luck at all; the line reads "
            '`raise ValueError("no luck\\nat all")`'
        )


def test_prove_a_strategy_of_ones_own(cli, own):
    code, out, err = cli("prove", f"{own}:Never", "--pages", "2")
    assert (code, err) == (0, "")
    code, out, err = cli("prove", f"{own}:Loses", "--trace", "lost.trace")
    assert code == 5
    assert err == f"dirtylog: error: {own}:Loses can lose a write\n"
    (line,) = [line for line in out.splitlines() if line.startswith("  dirtylog replay")]
    code, out, _ = cli(*shlex.split(line)[1:], "--json")
    assert (code, json.loads(out)[0]["lost"]) == (0, 1)


def test_prove_stops_where_the_memory_is_full(cli):
    code, out, err = cli("prove", "hint-first-pass", "--memory", "1MiB")
    assert (code, out) == (2, "")
    estimate, stop = err.splitlines()
    assert "guests of 3 pages take about 3" in estimate
    assert "1 MiB are full" in stop
    assert "in guests of 1 to 2 pages no write is lost in any of" in stop
    refused(cli("prove", "precopy", "--memory", "lots"), 2, "--memory: 'lots' is no size")
    refused(cli("prove", "precopy", "--memory", "1B"), 2, "memory 1 B: wanted 1 MiB")
    refused(cli("prove", "precopy", "--memory", "1000TiB"), 2, "that this machine has")


def test_conform(cli, tmp_path, own):
    code, out, err = cli("conform", f"{own}:Never", "--guests", "5", "--trace", "a.trace")
    assert code == 0
    assert err == "dirtylog: a.trace: not written, as there is no guest on which it fails\n"
    assert out.count("  pass  ") == 8
    assert max(map(len, out.splitlines())) <= 80
    code, out, err = cli("conform", f"{own}:Broken", "--guests", "9", "--trace", "a.trace")
    assert code == 5
    assert f"{own}:10 in when_due: ValueError" in " ".join(out.split())
    assert err.endswith(f"error: {own}:Broken does not hold to what every strategy must\n")
    (line,) = [line for line in out.splitlines() if line.startswith("  dirtylog replay")]
    code, _, err = cli(*shlex.split(line)[1:])
    assert (code, f"{own}:10 in when_due" in err) == (2, True)
    code, out, _ = cli("conform", f"{own}:Broken", "--guests", "3", "--json")
    told = json.loads(out)
    assert (code, told["conforms"], told["guests"]) == (5, False, 3)
    assert [one["property"] for one in told["properties"] if one["failed"]] == ["answers"]
    refused(cli("conform", "precopy", "--guests", "0"), 2, "at least 1")


LOG = """\
7@100.000000:migration_bitmap_sync_start
7@100.000100:migration_bitmap_sync_end dirty_pages 0
7@100.100000:migration_bitmap_sync_start
"""


def test_import_refuses_what_is_no_recording(cli, tmp_path):
    refused(cli("import", "qemu", "nowhere", "-o", "x.trace"), 3, "nowhere")
    refused(cli("import", "qemu", tmp_path, "-o", "x.trace"), 3, "qemu.log")
    refused(cli("import", "qemu", "-o", "x.trace"), 2, "nothing to import")
    Path("qemu.log").write_text(LOG)
    refused(cli("import", "qemu", tmp_path, "-o", "x"), 2, ".trace")
    existing = race(tmp_path / "y.trace")
    refused(cli("import", "qemu", tmp_path, "-o", existing), 2, "--force")
    assert Trace.open(existing)
    Path("z.log").write_bytes(b"\x00\x01nothing\n" * 9)
    code, out, err = cli("import", "qemu", "--log", "z.log", "-o", "z.trace")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert not Path("z.trace").exists()


def test_import_says_the_path_on_stdout_and_the_rest_on_stderr(cli, tmp_path, monkeypatch):
    from tracer.readers import ImportReport

    report = ImportReport(
        out=tmp_path / "x.trace", pages=64, duration_ns=MS, resolution="first-write",
        rows={"dirty": 3}, lines=9, bytes_read=99, unknown_events={"kvm_exit": 2},
        cut=("a.log: line 9",), notes=("one thing is unknown",), samples=3, samples_used=2,
        alignment_spread_us=5, copies=7, copies_reported=8, throttle_percents=(20, 30),
        late_lines=1, latest_us=4, other_text_lines=1, writes_left_out=6,
    )  # fmt: skip
    asked = {}
    monkeypatch.setattr(
        "tracer.readers.import_qemu", lambda *a, **k: asked.update(k, directory=a[0]) or report
    )
    code, out, err = cli("import", "qemu", "DIR", "-o", "x.trace", "--compression", "lz4")
    assert (code, out) == (0, f"{tmp_path / 'x.trace'}\n")
    for part in ("one thing is unknown", "kvm_exit (2)", "QEMU counted 8", "cut short", "20 %"):
        assert part in err
    assert (asked["directory"], asked["compression"]) == (Path("DIR"), "lz4")


# -- processes ----------------------------------------------------------------------------------


def process(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env=environment, text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )  # fmt: skip


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_closed_pipe_is_quiet(tmp_path, json_too):
    read, written = os.pipe()
    os.close(read)
    child = process("replay", race(tmp_path / "a.trace"), *json_too, stdout=written)
    os.close(written)
    _, err = child.communicate()
    assert (child.returncode, err) == (128 + signal.SIGPIPE, "")


def test_a_full_disk_is_one_line(tmp_path):
    with Path("/dev/full").open("w") as full:
        child = process("replay", race(tmp_path / "a.trace"), stdout=full)
        _, err = child.communicate()
    assert child.returncode == 1
    assert err.startswith("dirtylog: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_work_leaves_nothing(tmp_path, number, code):
    trace = race(tmp_path / "a.trace")
    (trace / "zero.arrow").unlink()
    header(trace, digests={})
    child = process("replay", trace, "--at-end", "loop", "--bandwidth", "1B/s", "-o", "out")
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".out-*")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(number)
    _, err = child.communicate()
    assert (child.returncode, err) == (code, "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.trace"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_that_a_destructor_swallows_comes_again(number, code):
    program = (
        "import os, signal, sys, time\n"
        "from analyses.commands.interrupts import end_by_signals\n"
        "class Half:\n"
        "    def __del__(self):\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        raise AttributeError('half made')\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "end_by_signals()\n"
        "try:\n"
        "    Half()\n"
        "    time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=300,
        cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, "")


def test_the_exit_code_is_that_of_the_error(tmp_path):
    child = process("replay", "nowhere.trace")
    _, err = child.communicate()
    assert child.returncode == 3
    assert "Traceback" not in err


def test_main_exits(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dirtylog", "--version"])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("dirtylog ")


def test_the_first_run_says_that_it_compiles(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("tracer.compiled.is_kept", lambda _: False)
    _, out, err = cli("replay", endless(tmp_path / "a.trace"), "--json", "--bandwidth", "1GB/s")
    assert json.loads(out)
    assert "first run only" in err


RACE = Path(__file__).parent.parent / "sample_traces" / "race.trace"


@pytest.mark.parametrize("version", ["7.1", "12.0", "eleven"])
def test_a_version_of_qemu_whose_loop_is_not_known(cli, version):
    refused(cli("replay", RACE, "--profile", "qemu", "--qemu", version), 2, "--qemu")


def test_a_guest_that_stands_still_is_told(cli):
    code, out, _ = cli("replay", RACE, "-s", "hint-stop-vcpu")
    assert code == 0
    said = " ".join(out.split())
    assert "the guest stands still for 11.0 ms before the switchover begins" in said
