"""Traces on disk: what is written is read, and what is no trace is refused with file and row."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tracer import Block, Meta, Trace, TraceError, TraceWriter, UsageError, VersionError

META = Meta(
    page_size=4096,
    pages=200,
    duration_ns=1000,
    blocks=(Block("pc.ram", 0, 150), Block("vga", 150, 50)),
    resolution="write",
    freelist_resolution="event",
    source={"recorder": "a test"},
)


def write(path: Path, meta: Meta = META, **options: object) -> Trace:
    with TraceWriter(path, **options) as writer:  # type: ignore[arg-type]
        writer.write("dirty", t_ns=[1, 2, 2, 900], page=[0, 199, 3, 64], count=[1, 1, 60, 1])
        writer.write(
            "freelist",
            t_ns=[0, 5, 7],
            page=[10, 10, 10],
            count=[90, 5, 5],
            free=[True, False, True],
        )
        writer.write("zero", t_ns=[0], page=[100], count=[100])
        writer.write("epochs", t_ns=[500])
        writer.finish(meta, {"status": "completed"})
    return Trace.open(path)


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_what_is_written_is_read(tmp_path, compression):
    trace = write(tmp_path / "a.trace", compression=compression)
    trace.validate()
    (rows,) = trace.rows("dirty")
    assert rows.t.tolist() == [1, 2, 2, 900]
    assert rows.page.tolist() == [0, 199, 3, 64]
    assert rows.count.tolist() == [1, 1, 60, 1]
    (free,) = trace.rows("freelist", 1, 2)
    assert (free.page.tolist(), free.free.tolist()) == ([10], [False])
    assert trace.epochs.tolist() == [500]
    assert trace.migration == {"status": "completed"}
    assert trace.meta.blocks == META.blocks
    assert trace.name == "a"


def test_the_same_rows_give_the_same_bytes(tmp_path):
    one, two = write(tmp_path / "a.trace"), write(tmp_path / "b.trace")
    assert one.digest == two.digest
    for file in (tmp_path / "a.trace").iterdir():
        assert file.read_bytes() == (tmp_path / "b.trace" / file.name).read_bytes()


def test_rows_come_batch_by_batch_over_any_range(tmp_path):
    with TraceWriter(tmp_path / "a.trace") as writer:
        for start in range(0, 400_000, 1000):
            writer.write(
                "dirty",
                t_ns=np.arange(start, start + 1000) // 1000,
                page=np.arange(start, start + 1000) % 200,
                count=np.ones(1000),
            )
        writer.finish(Meta(4096, 200, 1000, (Block("ram", 0, 200),), "write"))
    trace = Trace.open(tmp_path / "a.trace")
    assert trace.num_rows("dirty") == 400_000
    assert len(list(trace.rows("dirty"))) > 1
    pages = np.concatenate([rows.page for rows in trace.rows("dirty", 131_000, 262_345)])
    assert pages.tolist() == (np.arange(131_000, 262_345) % 200).tolist()


def test_an_existing_trace_stays_without_force(tmp_path):
    before = write(tmp_path / "a.trace").digest
    with pytest.raises(UsageError, match=r"exists; .*--force"):
        write(tmp_path / "a.trace")
    assert write(tmp_path / "a.trace", force=True).digest == before


def _fail(path: Path, *, finish: bool) -> None:
    with TraceWriter(path, force=True) as writer:
        writer.write("dirty", t_ns=[5, 4], page=[0, 0], count=[1, 1])
        if finish:
            writer.finish(Meta(4096, 200, 1000, META.blocks, "write"))
        raise ZeroDivisionError


@pytest.mark.parametrize("finish", [False, True])
def test_a_failed_writer_leaves_nothing(tmp_path, finish):
    write(tmp_path / "a.trace")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(TraceError if finish else ZeroDivisionError):
        _fail(tmp_path / "a.trace", finish=finish)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    Trace.open(tmp_path / "a.trace").validate()


BAD_ROWS = {
    "back": (
        {"t_ns": [5, 4], "page": [0, 0], "count": [1, 1]},
        r"row 1: t_ns goes back from 5 to 4",
    ),
    "late": ({"t_ns": [5, 1001], "page": [0, 0], "count": [1, 1]}, r"row 1: .*past the trace's"),
    "outside": ({"t_ns": [5], "page": [199], "count": [2]}, r"row 0: run 199\+2 is outside .* 200"),
    "far": ({"t_ns": [5], "page": [2**64 - 1], "count": [1]}, r"row 0: run 18446744073709551615"),
    "empty": ({"t_ns": [5], "page": [0], "count": [0]}, r"row 0: count is 0"),
}


def _raw(path: Path, meta: Meta, **tables: pa.Table) -> Path:
    """Write a trace without any check and without digests."""
    path.mkdir()
    (path / "meta.json").write_text(meta.to_json())
    for name, table in tables.items():
        with (
            pa.OSFile(str(path / f"{name}.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table, max_chunksize=2)
    return path


def _dirty(t_ns, page, count) -> pa.Table:
    return pa.table(
        {
            "t_ns": pa.array(t_ns, pa.int64()),
            "page": pa.array(page, pa.uint64()),
            "count": pa.array(count, pa.uint32()),
        }
    )


def _freelist(t_ns, page, count, free) -> pa.Table:
    return pa.table(
        {
            "t_ns": pa.array(t_ns, pa.int64()),
            "page": pa.array(page, pa.uint64()),
            "count": pa.array(count, pa.uint64()),
            "free": pa.array(free, pa.bool_()),
        }
    )


BARE = Meta(4096, 200, 1000, META.blocks, "write")


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_refused(tmp_path, name):
    rows, message = BAD_ROWS[name]
    trace = Trace.open(_raw(tmp_path / "x.trace", BARE, dirty=_dirty(**rows)))
    with pytest.raises(TraceError, match=r"dirty\.arrow, " + message):
        trace.validate()


@pytest.mark.parametrize(
    ("free", "message"),
    [
        ([True, True], r"row 1: a page of run 12\+3 is freed while free"),
        ([True, False], r"row 1: a page of run 12\+3 is taken while in use"),
    ],
)
def test_a_free_list_that_contradicts_itself_is_refused(tmp_path, free, message):
    page = [10, 12]
    rows = _freelist([0, 3], page, [4 if free[1] else 3, 3], free)
    path = _raw(tmp_path / "x.trace", META, dirty=_dirty([], [], []), freelist=rows)
    with pytest.raises(TraceError, match=message):
        Trace.open(path).validate()


def test_time_may_not_go_back_from_one_batch_to_the_next(tmp_path):
    rows = _dirty([5, 6, 4, 7], [0] * 4, [1] * 4)
    with pytest.raises(TraceError, match=r"row 2: t_ns goes back from 6 to 4"):
        Trace.open(_raw(tmp_path / "x.trace", BARE, dirty=rows)).validate()


def test_nulls_are_refused(tmp_path):
    trace = Trace.open(_raw(tmp_path / "x.trace", BARE, dirty=_dirty([None], [0], [1])))
    with pytest.raises(TraceError, match="has a null"):
        trace.validate()


def test_an_epoch_row_must_stand_at_an_epochs_end(tmp_path):
    meta = Meta(4096, 200, 1000, META.blocks, "epoch")
    ends = pa.table({"t_ns": pa.array([10, 20], pa.int64())})
    path = _raw(tmp_path / "x.trace", meta, dirty=_dirty([10, 15], [0, 0], [1, 1]), epochs=ends)
    with pytest.raises(TraceError, match=r"row 1: t_ns is 15, which is no time of epochs"):
        Trace.open(path).validate()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": "other"}, TraceError, "this is no trace"),
        ({"version": 2}, VersionError, "version 2; this dirtylog reads version 1"),
        ({"pages": 0}, TraceError, '"pages" is 0'),
        ({"pages": 10**30}, TraceError, '"pages"'),
        ({"pages": 201}, TraceError, "blocks hold 200 pages"),
        ({"duration_ns": -1}, TraceError, '"duration_ns" is -1'),
        ({"page_size": "4096"}, TraceError, "'4096'"),
        ({"resolution": "bitmap"}, TraceError, "'write', 'first-write', 'epoch'"),
        ({"blocks": [{"name": "x", "first_page": 5, "pages": 195}]}, TraceError, "begin at 0"),
        ({"blocks": [1]}, TraceError, "blocks"),
        ({"blocks": [{"name": "x", "first_page": 0, "pages": 8.9}]}, TraceError, "blocks"),
        ({"version": True}, VersionError, "version True"),
        ({"digests": {"/dev/zero": "x"}}, TraceError, '"digests" names other files'),
        ({"hinting": "no"}, TraceError, "true or false"),
    ],
)
def test_a_bad_header_is_refused(tmp_path, change, error, message):
    write(tmp_path / "a.trace")
    header = tmp_path / "a.trace" / "meta.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), **change}))
    with pytest.raises(error, match=message) as caught:
        Trace.open(tmp_path / "a.trace")
    assert caught.value.exit_code == (4 if error is VersionError else 3)


def test_what_is_no_trace_is_refused(tmp_path):
    with pytest.raises(TraceError, match="does not exist"):
        Trace.open(tmp_path / "none.trace")
    (tmp_path / "file.trace").write_text("x")
    with pytest.raises(TraceError, match="is a file; a trace is a directory"):
        Trace.open(tmp_path / "file.trace")
    (tmp_path / "empty.trace").mkdir()
    with pytest.raises(TraceError, match=r"meta\.json: missing"):
        Trace.open(tmp_path / "empty.trace")
    (tmp_path / "empty.trace" / "meta.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(TraceError, match="cannot be read"):
        Trace.open(tmp_path / "empty.trace")
    (tmp_path / "empty.trace" / "meta.json").write_text("[1]")
    with pytest.raises(TraceError, match="this is no trace"):
        Trace.open(tmp_path / "empty.trace")


def test_a_header_may_leave_the_free_lists_resolution_open(tmp_path):
    write(tmp_path / "a.trace")
    header = tmp_path / "a.trace" / "meta.json"
    body = {**json.loads(header.read_text()), "digests": {}}
    header.write_text(json.dumps({**body, "freelist_resolution": None}))
    assert Trace.open(tmp_path / "a.trace").meta.freelist_resolution == "event"
    header.write_text(json.dumps(body))
    (tmp_path / "a.trace" / "freelist.arrow").unlink()
    bare = Trace.open(tmp_path / "a.trace")
    assert bare.meta.freelist_resolution is None
    assert "freelist" not in bare


@pytest.mark.parametrize("name", ["dirty.arrow", "freelist.arrow", "migration.json"])
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path / "a.trace")
    (tmp_path / "a.trace" / name).unlink()
    with pytest.raises(TraceError, match=f"{name}: missing"):
        Trace.open(tmp_path / "a.trace")


def test_another_schema_is_refused(tmp_path):
    rows = pa.table({"t_ns": pa.array([1], pa.int64()), "page": pa.array([1], pa.int32())})
    with pytest.raises(TraceError, match="column 'page' is int32"):
        Trace.open(_raw(tmp_path / "x.trace", BARE, dirty=rows))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    write(tmp_path / "a.trace")
    file = tmp_path / "a.trace" / "dirty.arrow"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(TraceError, match=r"dirty\.arrow"):
        Trace.open(tmp_path / "a.trace").validate()


def test_any_flipped_bit_is_noticed(tmp_path):
    write(tmp_path / "a.trace")
    rng = random.Random(1)
    for file in sorted((tmp_path / "a.trace").glob("*.arrow")):
        whole = file.read_bytes()
        for _ in range(40):
            at, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
            file.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            with pytest.raises(TraceError):
                Trace.open(tmp_path / "a.trace").validate()
        file.write_bytes(whole)
    Trace.open(tmp_path / "a.trace").validate()


def test_a_flipped_bit_without_digests_never_reaches_a_kernel(tmp_path):
    """A trace of another writer has no digests: what is read is in range, or it is refused."""
    source = write(tmp_path / "a.trace", compression="none")
    header = tmp_path / "a.trace" / "meta.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), "digests": {}}))
    rng = random.Random(2)
    file = tmp_path / "a.trace" / "dirty.arrow"
    whole = file.read_bytes()
    for _ in range(300):
        at, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        shutil.copytree(tmp_path / "a.trace", tmp_path / "b.trace")
        flipped = whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
        (tmp_path / "b.trace" / "dirty.arrow").write_bytes(flipped)
        try:
            trace = Trace.open(tmp_path / "b.trace")
            trace.validate()
        except TraceError:
            pass
        else:
            for rows in trace.rows("dirty"):
                assert (np.diff(rows.t) >= 0).all()
                assert (rows.page + rows.count <= source.meta.pages).all()
        shutil.rmtree(tmp_path / "b.trace")


def test_a_header_nested_without_end_is_refused(tmp_path):
    write(tmp_path / "a.trace")
    (tmp_path / "a.trace" / "meta.json").write_text("[" * 100_000)
    with pytest.raises(TraceError, match="not JSON"):
        Trace.open(tmp_path / "a.trace")


@pytest.mark.parametrize("name", ["zero.arrow", "meta.json"])
def test_a_fifo_does_not_block(tmp_path, name):
    write(tmp_path / "a.trace")
    (tmp_path / "a.trace" / name).unlink()
    os.mkfifo(tmp_path / "a.trace" / name)
    with pytest.raises(TraceError, match="no regular file"):
        Trace.open(tmp_path / "a.trace")


def test_force_replaces_traces_only(tmp_path):
    (tmp_path / "a.trace").mkdir()
    (tmp_path / "a.trace" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="something else than a trace"):
        write(tmp_path / "a.trace", force=True)
    assert (tmp_path / "a.trace" / "thesis.txt").read_text() == "precious"


def test_a_null_is_named_by_its_row(tmp_path):
    rows = _dirty([1, 2, 3, 4], [0, 0, 0, None], [1] * 4)
    with pytest.raises(TraceError, match=r"row 3: column 'page' has a null"):
        Trace.open(_raw(tmp_path / "x.trace", BARE, dirty=rows)).validate()
