from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import dask
import distributed
import polars as pl
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from analyses.commands import run
from analyses.commands.lists import Lists, options
from analyses.sweep.executors import cluster
from analyses.sweep.plan import plan
from analyses.sweep.results import Folder, columns
from analyses.sweep.run import sweep
from analyses.sweep.summary import Summary
from analyses.sweep.worker import work
from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import strategy
from tests.analyses.traces import hidden, race, unlisted
from tracer import Trace
from tracer.errors import TraceError, UsageError
from tracer.places import Cache, found, header, local, shown

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "analyses.commands"]
RATES = ("--bandwidth", "1Gbit/s,10Gbit/s", "--downtime-limit", "100ms,300ms")
NAMES = ("-s", "precopy", "-s", "hint-async")

#: Strategies that take their process down: the first time they are asked, or always.
DEADLY = """
import os, signal, time
from pathlib import Path
from replay.policies import Accept, Fate

class Once(Accept):
    "Dies the first time."

    def when_due(self, report):
        marker = Path(__file__).with_name("died")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Fate.HANDLE

class Always(Accept):
    "Dies whenever it is asked."

    def when_due(self, report):
        with Path(__file__).with_name("deaths").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

class Slowly(Always):
    "Dies, for the first time when another task waits at its worker."

    def when_due(self, report):
        from distributed import get_worker

        tasks = get_worker().state.tasks
        while len(tasks) < 2 and not Path(__file__).with_name("deaths").exists():
            time.sleep(0.01)
        return super().when_due(report)
"""


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def traces(tmp_path):
    race(tmp_path / "in" / "a.trace")
    hidden(tmp_path / "in" / "b.trace")
    race(tmp_path / "in" / "deeper" / "c.trace", duration_ns=3_000_000_000)
    return "in"


@pytest.fixture
def deadly(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    return tmp_path


@pytest.fixture
def cli(capsys):
    def call(*arguments):
        code = run(["sweep", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def results(folder):
    return pl.read_parquet(Path(folder) / "results.parquet")


def tasks(folder):
    return pl.read_parquet(Path(folder) / "tasks.parquet")


def same(one, other):
    """Check that two folders hold the same tables, byte for byte."""
    for name in ("results.parquet", "tasks.parquet"):
        assert (Path(one) / name).read_bytes() == (Path(other) / name).read_bytes(), name


def altered(file):
    """Return a table's bytes with another count in its first row: its digest alone tells."""
    data = bytearray(file.read_bytes())
    data[data.index(b"\x32\0\0\0", 300)] ^= 1
    return bytes(data)


# -- what comes out ---------------------------------------------------------------------------


def replayed(paths, rates, limits):
    """Replay one after the other what a sweep of NAMES has to give."""
    rows = []
    for path in paths:
        trace = Trace.open(path)
        trace.validate()
        for rate in rates:
            for limit in limits:
                parameters = Parameters(bandwidth=rate, downtime_limit_ns=limit)
                for name in ("precopy", "hint-async"):
                    for one in replay(trace, strategy(name), parameters):
                        place = {"path": path, "digest": trace.digest}
                        rows.append(one.result.to_dict() | place | columns(parameters))
    return rows


def planned(texts, names, *parameters):
    store = Cache(Path("cache"), 0)
    return plan(texts, names, parameters or [Parameters()], store, lambda *_: None)


def test_what_comes_to_the_same_is_replayed_once_and_said(tmp_path):
    race(tmp_path / "a.trace")
    left_open = Parameters(profile="qemu")
    named = left_open.resolved(Trace.open(tmp_path / "a.trace").meta)
    work = planned(["a.trace"], ["precopy", "hint-async"], left_open, named)
    assert [task.name for task in work.tasks] == ["precopy", "hint-async"]
    assert work.remarks == (
        "a.trace: what is left to the trace to say comes to what is named as well; replayed once",
    )
    assert planned(["a.trace"], ["precopy"], named).remarks == ()


def test_a_sweep_is_the_cross_product_of_replays(cli, traces):
    code, out, err = cli(traces, *NAMES, *RATES, "-o", "out", "--workers", "1")
    assert code == 0, err
    assert "3 traces, 4 sets of parameters, 24 tasks" in out
    assert "converged, total, downtime: of the recorded writes alone" in " ".join(out.split())
    paths = ("in/a.trace", "in/b.trace", "in/deeper/c.trace")
    found = pq.read_table("out/results.parquet").to_pylist()
    assert found == replayed(paths, (125_000_000, 1_250_000_000), (100_000_000, 300_000_000))
    assert {row["verdict"] for row in found} > {"unsafe", "safe"}
    assert tasks("out")["state"].to_list() == ["done"] * 24


def test_a_strategys_verdict_is_the_gravest_of_its_scenarios():
    """As on a terminal: one that does not end in every scenario is not counted as safe."""
    summary = Summary()
    result = {"converged": True, "total_ns": 2, "downtime_ns": 1}
    for name, scenario, verdict in (
        ("a", "recorded", "safe"), ("a", "expected", "safe"), ("a", "saturated", "unknown"),
        ("b", "recorded", "unsafe"), ("b", "expected", "unknown"),
        ("a", "recorded", "safe"), ("a", "expected", "safe"), ("a", "saturated", "safe"),
        ("a", "exact", "safe"),
    ):  # fmt: skip
        ended = verdict != "unknown"
        summary({"strategy": name, "scenario": scenario, "verdict": verdict,
                 "completed": ended, **result})  # fmt: skip
    found = {name: tally.to_dict() for name, tally in summary.strategies.items()}
    assert (found["a"]["safe"], found["a"]["unknown"], found["a"]["replays"]) == (2, 1, 3)
    assert (found["b"]["unsafe"], found["b"]["unknown"], found["b"]["converged"]) == (1, 0, 1)


def test_without_names_each_trace_gets_the_strategies_that_fit(tmp_path):
    race(tmp_path / "a.trace")
    unlisted(tmp_path / "b.trace")
    work = planned(["a.trace", "b.trace"], [])
    assert [task.name for task in work.tasks if task.trace.name == "b"] == ["precopy"]
    assert len(work.tasks) == 12
    assert "b.trace: no free list" in work.remarks[0]
    with pytest.raises(UsageError, match="needs a free list"):
        planned(["b.trace"], ["hint-async"])


def test_lists_of_every_kind_of_option():
    defaults = {name: one.default for name, one in options().items()}
    assert Lists(defaults).parameters() == [Parameters()]
    several = {
        "log_mode": "legacy, manual",
        "hint_clears_log": "yes,no",
        "max_rounds": "default,3",
        "guest_hold": "auto,ack",
        "request": "default,periodic,default",
        "min_order": "0,9",
    }
    given = Lists(defaults | several).parameters()
    assert len(set(given)) == len(given) == 64
    for name in several:
        assert len({getattr(one, name) for one in given}) == 2
    # The last option varies fastest.
    assert [one.max_rounds for one in given[:4]] == [None, 3, None, 3]


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--bandwidth", "1Gbit/s,fast", "'fast' is no bandwidth"),
        ("--profile", "rounds,square", "'square'"),
        ("--hint-clears-log", "maybe", "yes or no"),
        ("--min-order", "1,x", "whole number"),
        ("--min-order", "", "whole number"),
        ("--max-rounds", "0", "max rounds 0"),
        ("--cache-size", "much", "is no size"),
        ("--strategy", "hint-asyncc", "did you mean 'hint-async'"),
    ],
)
def test_values_that_make_no_sense(cli, traces, option, value, word):
    code, out, err = cli(traces, option, value, "-o", "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert word in err
    assert not Path("out").exists()


def test_folders_and_traces_that_are_refused(cli, tmp_path, traces):
    Path("other").mkdir()
    Path("other/precious").touch()
    assert cli(traces, "-o", "other")[0] == 2
    assert [p.name for p in Path("other").iterdir()] == ["precious"]
    assert cli("nowhere", "-o", "out")[0] == 3
    assert cli(traces, "-o", "out", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1")[0] == 2
    code, _, err = cli(traces, "-o", "empty", "--scheduler", "http://127.0.0.1:1")
    assert (code, "tcp://HOST:8786" in err) == (2, True)


def test_a_trace_with_hinting_is_refused_by_name_and_left_out_of_a_folder(cli, tmp_path, traces):
    hinted = tmp_path / "in" / "z.trace"
    race(hinted, hinting=True)
    code, _, err = cli(hinted, "-o", "out")
    assert (code, "z.trace" in err) == (2, True)
    assert not Path("out").exists()
    code, _, err = cli(traces, "-s", "precopy", "-o", "out")
    assert code == 0
    assert "z.trace: recorded with free page hinting on" in err
    found = pl.read_parquet("out/results.parquet")["path"].to_list()
    assert found
    assert not [path for path in found if "z.trace" in path]
    assert cli(traces, "-s", "precopy", "-o", "all", "--anyway")[0] == 0
    found = pl.read_parquet("all/results.parquet")["path"].to_list()
    assert [path for path in found if "z.trace" in path]


def test_the_same_trace_twice_is_replayed_once(tmp_path, traces):
    race(tmp_path / "in" / "d.trace")
    work = planned([traces, "in/a.trace"], ["precopy"])
    assert len(work.tasks) == len(work.traces) == 3
    assert work.remarks == ("in/d.trace: holds the same as in/a.trace; left out",)


# -- going on ---------------------------------------------------------------------------------


def test_it_goes_on_where_it_stopped_and_takes_more_values(cli, traces):
    assert cli(traces, *NAMES, *RATES, "-o", "whole", "--workers", "1")[0] == 0
    assert cli(traces, *NAMES, "-o", "out")[0] == 0
    stamps = {file: file.stat().st_mtime_ns for file in Path("out/parts").rglob("*.parquet")}
    kept = sorted(stamps)
    kept[0].write_bytes(b"PAR1 cut short")
    code, out, err = cli(traces, *NAMES, *RATES, "-o", "out", "--json", "--workers", "2")
    assert code == 0, err
    told = json.loads(out)
    assert told["before"] + told["done"] == told["tasks"] == 24
    assert 3 <= told["before"] < 6
    assert all(file.stat().st_mtime_ns == stamps[file] for file in kept[1:])
    same("out", "whole")


def test_a_changed_strategy_is_another_task(tmp_path):
    own = "from replay.strategies import Strategy, strategy\nfrom dataclasses import replace\n"
    own += "mine = replace(strategy('{}'), name='mine')\n"
    Path("mine.py").write_text(own.format("hint-async"))
    race(tmp_path / "a.trace")
    (first,) = planned(["a.trace"], ["mine.py:mine"]).tasks
    (same,) = planned(["a.trace"], ["mine.py:mine"]).tasks
    Path("mine.py").write_text(own.format("hint-first-pass"))
    (other,) = planned(["a.trace"], ["mine.py:mine"]).tasks
    assert first.key == same.key != other.key


def test_killed_it_goes_on_and_leaves_no_process_behind(cli, traces, tmp_path):
    Path("slow.py").write_text(
        "import os, time\nfrom pathlib import Path\nfrom replay.policies import Accept, Fate\n"
        "class Slow(Accept):\n    def when_due(self, report):\n"
        "        Path(__file__).with_name(f'pid-{os.getpid()}').touch()\n"
        "        while Path(__file__).with_name('wait').exists():\n            time.sleep(0.05)\n"
        "        return Fate.HANDLE\n"
    )
    Path("wait").touch()
    line = [traces, "-s", "precopy", "-s", "slow.py:Slow", "-o", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    progress = re.compile(rb"dirtylog: \d+ of \d+\b.*\n")  # told every 30 s
    for end in (signal.SIGKILL, signal.SIGINT):
        begun = subprocess.Popen(
            [*COMMAND, "sweep", *line, "--workers", "2"], env=environment, stderr=subprocess.PIPE
        )
        pids = []
        until = time.monotonic() + 300
        while len(pids) < 2 and begun.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
            pids = [int(file.name[4:]) for file in tmp_path.glob("pid-*")]
        assert len(pids) == 2
        begun.send_signal(end)
        said = begun.communicate(timeout=300)[1]
        assert begun.returncode == (130 if end == signal.SIGINT else -9)
        if end == signal.SIGINT:
            assert progress.sub(b"", said) == b""
        until = time.monotonic() + 300
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        for pid in pids:
            (tmp_path / f"pid-{pid}").unlink()
    Path("wait").unlink()
    assert not Path("out/results.parquet").exists()
    code, out, err = cli(*line, "--json")
    assert code == 0, err
    assert json.loads(out)["before"] > 0
    assert results("out")["path"].n_unique() == 3


# -- what goes wrong ---------------------------------------------------------------------------


def test_a_task_whose_process_dies_is_tried_again(cli, traces, deadly):
    code, out, err = cli(traces, *NAMES, "-s", "deadly.py:Once", "-o", "out", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["tried_again"] > 0
    assert told["failed"] == []
    assert (deadly / "died").exists()
    assert tasks("out")["state"].to_list() == ["done"] * 9
    assert set(results("out")["strategy"]) == {"precopy", "hint-async", "Once"}


def test_what_fails_for_good_is_listed_and_the_others_finish(cli, traces, deadly):
    bad = Path("in/b.trace/dirty.arrow")
    bad.write_bytes(altered(bad))
    Path("mute.py").write_text(
        "from replay.policies import Accept\n"
        "class Mute(Accept):\n    def when_due(self, report):\n        return 7\n"
    )
    line = ("-s", "precopy", "-s", "deadly.py:Always", "-s", "mute.py:Mute")
    code, out, err = cli("in/a.trace", "in/b.trace", *line, "-o", "out", "--json")
    assert code == 5
    told = json.loads(out)
    assert (told["done"], len(told["failed"])) == (1, 5)
    assert "in/a.trace under Always: its process died (3 tries)\n" in err
    assert "mute.py" in err
    assert "in/b.trace/dirty.arrow: its bytes have changed" in err
    assert err.splitlines()[-1].startswith("dirtylog: error: 5 of 6 tasks failed; ")
    assert (deadly / "deaths").read_text() == "xxx"
    assert results("out").select("trace", "strategy").rows() == [("a", "precopy")]
    assert tasks("out")["state"].to_list() == ["done", *["failed"] * 5]


def test_a_worker_of_another_version_is_refused(tmp_path):
    with pytest.raises(UsageError, match="install one version everywhere"):
        work((), "another", Cache(tmp_path, 1))


# -- a cluster ---------------------------------------------------------------------------------


@contextlib.contextmanager
def dask_cluster(workers, allowed_failures):
    """A Dask cluster of this machine, which begins a job again so often when its worker dies."""
    how = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures}),
        distributed.LocalCluster(**how, dashboard_address="127.0.0.1:0") as some,
    ):
        yield some


@pytest.fixture(scope="module")
def scheduler():
    with dask_cluster(2, 1) as some:
        yield some.scheduler_address


def test_a_cluster_that_loses_a_worker_gives_the_same_bytes(cli, traces, deadly, scheduler):
    line = (traces, *NAMES, *RATES, "-s", "deadly.py:Once")
    code, _, err = cli(*line, "-o", "out", "--scheduler", scheduler)
    assert code == 0, err
    assert (deadly / "died").exists()
    assert cli(*line, "-o", "calm", "--workers", "1")[0] == 0
    same("out", "calm")


def test_what_kills_every_worker_is_reported_and_the_others_finish(cli, deadly, scheduler):
    race(deadly / "a.trace")
    line = ("a.trace", *NAMES, "-s", "deadly.py:Always", "--scheduler", scheduler)
    code, _, err = cli(*line, "-o", "out")
    assert code == 5
    assert "a.trace under Always: its process died (2 tries)\n" in err
    assert results("out")["strategy"].to_list() == ["precopy", "hint-async"]
    assert len((deadly / "deaths").read_text()) >= 2


def test_what_waits_at_a_worker_that_dies_is_not_blamed(cli, deadly):
    race(deadly / "a.trace")
    line = ("a.trace", "-s", "deadly.py:Slowly", *NAMES)
    with dask_cluster(1, 0) as some:
        code, out, err = cli(*line, "--scheduler", some.scheduler_address, "-o", "out", "--json")
    assert code == 5
    assert "a.trace under Slowly: its process died (2 tries)\n" in err
    told = json.loads(out)
    assert told["tried_again"] >= 2  # one that waited was blamed too
    assert (told["done"], len(told["failed"])) == (2, 1)
    assert results("out")["strategy"].to_list() == ["precopy", "hint-async"]


def test_a_cluster_without_workers_is_told_and_waited_for(tmp_path):
    race(tmp_path / "a.trace")
    work = planned(["a.trace"], ["precopy"])
    seen = []

    def watch(state):
        if state.trouble and state.trouble not in seen:
            seen.append(state.trouble)
            some.scale(1)

    with dask_cluster(0, 0) as some, cluster(some.scheduler_address) as place:
        state = sweep(work, place, Folder(Path("out")), Cache(tmp_path / "cache", 1 << 20), watch)
    assert (state.done, state.failed, state.trouble) == (1, {}, "")
    assert seen == ["the cluster has no workers"]


# -- object stores -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """An object store of this machine: its file system, and addresses of what lies there."""

    opened: fs.FileSystem
    scheme: str
    user: str
    query: str

    def address(self, place: str) -> str:
        return f"{self.scheme}://{self.user}{place}{self.query}"


def s3_store(port: int) -> Store:
    where = {"scheme": "http", "endpoint_override": f"127.0.0.1:{port}"}
    # The server loads most of itself with its first answer.
    patience = {"request_timeout": 300, "connect_timeout": 300}
    opened = fs.S3FileSystem(**where, **patience, region="us-east-1", allow_bucket_creation=True)
    opened.create_dir("traces")
    query = f"?scheme=http&endpoint_override=127.0.0.1%3A{port}&region=us-east-1"
    return Store(opened, "s3", "", query)


def gs_store(port: int) -> Store:
    where = {"scheme": "http", "endpoint_override": f"127.0.0.1:{port}"}
    query = f"?scheme=http&endpoint_override=127.0.0.1%3A{port}"
    return Store(fs.GcsFileSystem(**where, anonymous=True), "gs", "anonymous@", query)


#: Runs a module that serves at port 0, which is one that is free, and prints it once it listens.
SERVE = """
import runpy, socketserver, sys

listen = socketserver.TCPServer.server_activate

def listen_and_tell(server):
    listen(server)
    print(server.server_address[1], flush=True)

socketserver.TCPServer.server_activate = listen_and_tell
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
STORES = {
    "s3": (s3_store, ("moto.server", "-H", "127.0.0.1", "-p", "0")),
    "gs": (gs_store, ("gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", "0",
                      "--in-memory", "--quiet", "--default-bucket", "traces")),
}  # fmt: skip


@pytest.fixture(scope="module", params=STORES)
def store(request):
    """A store that answers as S3 or as Google's does, in a process of its own."""
    opens, command = STORES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        line = [sys.executable, "-c", SERVE, *command]
        with subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                yield opens(int(server.stdout.readline()))
            finally:
                server.terminate()


def test_traces_from_an_object_store(cli, traces, store):
    store.opened.create_dir("traces/all")
    fs.copy_files(traces, "traces/all", fs.LocalFileSystem(), store.opened)
    line = (*NAMES, "-o", "out", "--cache", "cache")
    code, _, err = cli(store.address("traces/all"), *line)
    assert code == 0, err
    paths = ("in/a.trace", "in/b.trace", "in/deeper/c.trace")
    wanted = replayed(paths, [1_250_000_000], [300_000_000])
    for row in wanted:
        row["path"] = row["path"].replace("in/", f"{store.scheme}://traces/all/")
    assert pq.read_table("out/results.parquet").to_pylist() == wanted
    assert len(list(Path("cache").glob("*/*.trace/dirty.arrow"))) == 3
    # What comes over wrong is told by its address, and not kept.
    with store.opened.open_output_stream("traces/all/a.trace/dirty.arrow") as stream:
        stream.write(altered(Path("in/a.trace/dirty.arrow")))
    code, _, err = cli(store.address("traces/all/a.trace"), *NAMES, "-o", "bad", "--cache", "cache")
    assert code == 5
    assert f"{store.scheme}://traces/all/a.trace/dirty.arrow: its bytes have changed" in err
    assert not list(Path("cache").glob("*/a.trace"))


def test_addresses_without_a_trace(cli, tmp_path, store):
    code, _, err = cli(store.address("traces/nothing"), "-o", "out")
    assert (code, err.count("\n")) == (3, 1)
    assert f"{store.scheme}://traces/nothing: no trace lies here or below" in err
    with pytest.raises(TraceError, match="no trace lies here; wanted"):
        header(store.address("traces/nothing"), Cache(tmp_path, 1 << 30))


def test_addresses_that_cannot_be_opened(cli):
    code, _, err = cli("gopher://traces", "-o", "out")
    assert (code, err.count("\n")) == (2, 1)
    assert shown("s3://me:secret@bucket/a?token=1") == "s3://bucket/a"
    nobody = "endpoint_override=127.0.0.1%3A1&scheme=http"
    where = f"gs://anonymous@traces/all?{nobody}&retry_limit_seconds=1"
    code, _, err = cli(where, "-o", "out")
    assert (code, err.count("\n")) == (1, 1)
    assert "gs://traces/all: its store does not answer as it should (" in err


def test_the_cache_keeps_below_its_size(tmp_path, traces, store):
    store.opened.create_dir("traces/some")
    fs.copy_files(traces, "traces/some", fs.LocalFileSystem(), store.opened)
    places = list(found(store.address("traces/some")))
    size = Trace.open("in/a.trace").size_bytes
    cache = Cache(tmp_path / "cache", 2 * size + size // 2)
    for place in (places[0], places[2], places[0], places[2], places[0], places[1]):
        with local(place, cache) as path:
            Trace.open(path).validate()
    there = {path.name for path in cache.folder.glob("*/*.trace")}
    assert there == {"a.trace", "b.trace"}
    with pytest.raises(UsageError, match="the cache holds 0"), local(places[0], Cache(tmp_path, 9)):
        pass
