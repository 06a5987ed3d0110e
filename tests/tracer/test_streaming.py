"""Traces written while they are recorded: what a kill leaves opens up to the last commit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from analyses.commands import run
from tracer import Block, Meta, StreamingWriter, Trace, TraceError, UsageError

ROOT = Path(__file__).parents[2]
META = Meta(
    page_size=4096,
    pages=1000,
    duration_ns=0,
    blocks=(Block("ram", 0, 1000),),
    resolution="epoch",
    source={"recorder": "a test"},
)
EVENTS = Meta(4096, 1000, 0, (Block("ram", 0, 1000),), "write", "event")


def epoch(writer: StreamingWriter, number: int) -> None:
    t = number * 100
    writer.write("zero", t_ns=[t], page=[500 + number % 400], count=[2])
    writer.write("dirty", t_ns=[t, t], page=[number % 900, 900], count=[3, 1])
    writer.write("epochs", t_ns=[t])
    writer.commit(t)


def rows(trace: Trace, table: str) -> list[tuple[int, ...]]:
    return [
        row
        for part in trace.rows(table)  # type: ignore[arg-type]
        for row in zip(part.t.tolist(), part.page.tolist(), part.count.tolist(), strict=True)
    ]


def test_a_finished_recording_is_a_trace_like_any_other(tmp_path):
    path = tmp_path / "a.trace"
    with StreamingWriter(path, META) as writer:
        for number in range(1, 5):
            epoch(writer, number)
        trace = writer.finish(source={"epochs": 4}, migration={"status": "none"})
    assert sorted(file.name for file in path.iterdir()) == [
        "dirty.arrow",
        "epochs.arrow",
        "meta.json",
        "migration.json",
        "zero.arrow",
    ]
    trace.validate()
    assert trace.unfinished is None
    assert trace.meta.duration_ns == 400
    assert trace.meta.source == {"recorder": "a test", "epochs": 4}
    assert rows(trace, "dirty")[:2] == [(100, 1, 3), (100, 900, 1)]
    assert trace.epochs.tolist() == [100, 200, 300, 400]
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_opens_up_to_its_last_commit_at_any_moment(tmp_path):
    path = tmp_path / "a.trace"
    with StreamingWriter(path, META) as writer:
        epoch(writer, 1)
        epoch(writer, 2)
        writer.write("dirty", t_ns=[250], page=[7], count=[1])
        trace = Trace.open(path)
        trace.validate()
        assert "up to 200 ns" in str(trace.unfinished)
        assert trace.meta.duration_ns == 200
        assert rows(trace, "dirty") == [(100, 1, 3), (100, 900, 1), (200, 2, 3), (200, 900, 1)]
        assert rows(trace, "zero") == [(100, 501, 2), (200, 502, 2)]
        epoch(writer, 3)
        assert Trace.open(path).digest != trace.digest
    assert Trace.open(path).meta.duration_ns == 300


def test_rows_on_disk_without_their_commit_are_left_out(tmp_path):
    path = tmp_path / "a.trace"
    with StreamingWriter(path, META) as writer:
        epoch(writer, 1)
        size = (path / "recording.arrows").stat().st_size
        many = np.full(200_000, 200)
        writer.write("dirty", t_ns=many, page=many, count=many)
        assert (path / "recording.arrows").stat().st_size > size
        trace = Trace.open(path)
        trace.validate()
        assert trace.num_rows("dirty") == 2
        assert "are left out" in str(trace.unfinished)
        writer.commit(200)
        assert Trace.open(path).num_rows("dirty") == 200_002


def test_wherever_the_journal_breaks_off_whole_commits_are_left(tmp_path):
    path = tmp_path / "a.trace"
    with StreamingWriter(path, META) as writer:
        epoch(writer, 1)
        epoch(writer, 2)
    journal = path / "recording.arrows"
    whole = journal.read_bytes()
    seen = set()
    for end in range(0, len(whole) + 1, 7):
        journal.write_bytes(whole[:end])
        trace = Trace.open(path)
        trace.validate()
        assert len(rows(trace, "dirty")) == 2 * len(trace.epochs)
        assert trace.meta.duration_ns == 100 * len(trace.epochs)
        seen.add(len(trace.epochs))
    assert seen == {0, 1, 2}


def test_a_free_list_and_large_batches_come_back_in_order(tmp_path):
    path = tmp_path / "a.trace"
    with StreamingWriter(path, EVENTS) as writer:
        writer.write("freelist", t_ns=[0, 5, 7], page=[10] * 3, count=[9] * 3, free=[1, 0, 1])
        t = np.arange(300_000)
        writer.write("dirty", t_ns=t, page=t % 1000, count=np.ones(len(t)))
        writer.commit(300_000)
        for trace in (Trace.open(path), writer.finish()):
            trace.validate()
            assert trace.num_rows("dirty") == 300_000
            pages = np.concatenate([part.page for part in trace.rows("dirty", 131_000, 262_345)])
            assert pages.tolist() == (np.arange(131_000, 262_345) % 1000).tolist()
            (free,) = trace.rows("freelist")
            assert free.free.tolist() == [True, False, True]
            assert trace.meta.freelist_resolution == "event"


def test_sampled_lists_keep_since_when(tmp_path):
    meta = Meta(4096, 1000, 0, (Block("ram", 0, 1000),), "write", "sampled")
    with StreamingWriter(tmp_path / "a.trace", meta) as writer:
        writer.write("freelist", t_ns=[9], page=[1], count=[2], free=[True], since_ns=[4])
        writer.commit(10)
        for trace in (Trace.open(tmp_path / "a.trace"), writer.finish()):
            trace.validate()
            assert [part.since.tolist() for part in trace.rows("freelist")] == [[4]]


def test_a_run_longer_than_a_dirty_row_can_count_is_cut(tmp_path):
    pages = 1 << 33
    meta = Meta(4096, pages, 0, (Block("ram", 0, pages),), "write")
    with StreamingWriter(tmp_path / "a.trace", meta) as writer:
        writer.write("dirty", t_ns=[1, 2], page=[0, 5], count=[pages, 1])
        writer.commit(2)
        trace = writer.finish()
    assert sum(row[2] for row in rows(trace, "dirty")) == pages + 1
    assert rows(trace, "dirty")[-1] == (2, 5, 1)


def test_nothing_appears_before_the_first_commit_and_force_keeps_the_old_trace(tmp_path):
    path = tmp_path / "a.trace"
    with pytest.raises(RuntimeError), StreamingWriter(path, META):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with StreamingWriter(path, META) as writer:
        epoch(writer, 1)
        old = writer.finish().digest
    with pytest.raises(UsageError, match="--force"), StreamingWriter(path, META):
        pass
    with StreamingWriter(path, META, force=True) as writer:
        writer.write("dirty", t_ns=[1], page=[1], count=[1])
    assert Trace.open(path).digest == old
    with StreamingWriter(path, META, force=True) as writer:
        epoch(writer, 1)
        epoch(writer, 2)
    assert Trace.open(path).meta.duration_ns == 200
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_are_no_trace_are_refused_and_the_recording_stays(tmp_path):
    path = tmp_path / "a.trace"
    with StreamingWriter(path, META) as writer:
        writer.write("dirty", t_ns=[1], page=[1000], count=[1])
        writer.commit(5)
        with pytest.raises(TraceError, match=r"row 0: run 1000\+1 is outside"):
            writer.finish()
    with pytest.raises(TraceError, match=r"recording\.arrows \(dirty\), row 0: run 1000\+1"):
        Trace.open(path).validate()


def test_a_journal_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.trace"
    with StreamingWriter(path, META) as writer:
        epoch(writer, 1)
    table = pa.table({"x": [1]})
    with pa.ipc.new_stream(str(path / "recording.arrows"), table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(TraceError, match="no journal of a recording"):
        Trace.open(path)


KILLED = """
import sys
from tests.tracer.test_streaming import META, epoch
from tracer import StreamingWriter
with StreamingWriter(sys.argv[1], META) as writer:
    number = 0
    while True:
        number += 1
        epoch(writer, number)
        print(number, flush=True)
"""


def test_a_killed_recorder_leaves_a_trace_that_info_and_replay_take(tmp_path, capsys):
    path = tmp_path / "killed.trace"
    recorder = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert recorder.stdout is not None
    said = [int(recorder.stdout.readline()) for _ in range(200)]
    os.kill(recorder.pid, signal.SIGKILL)
    recorder.communicate()
    trace = Trace.open(path)
    trace.validate()
    assert len(trace.epochs) >= said[-1]
    assert run(["info", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"]["dirty"] == 2 * len(trace.epochs)
    assert any("the recording has not ended, or was killed" in n for n in told["source"]["notes"])
    assert run(["replay", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert {row["strategy"] for row in json.loads(out)} == {"precopy"}
    assert "the recording has not ended, or was killed" in err
