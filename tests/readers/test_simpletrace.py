"""QEMU's simple trace backend: the same recordings as the log's, printed as simpletrace.py does."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.readers.simple import simpletrace
from tests.readers.tables import opened, table
from tracer import TraceError
from tracer.readers import import_qemu, simpletrace_reader

DATA = Path(__file__).parent / "data"
REAL = [("seq.40", "migrate.json"), ("kvm-ring", "qmp.txt"),
        ("kvm-slots", "migrate.json")]  # fmt: skip


def printed(folder, *, as_bytes=True):
    with gzip.open(folder / "qemu.log.gz", "rt") as log:
        return "".join(simpletrace(log, as_bytes=as_bytes))


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize(("name", "answers"), REAL)
def test_real_recordings_give_the_traces_of_their_logs(tmp_path, name, answers, as_bytes):
    folder = DATA / name
    (tmp_path / "simple.txt").write_text(printed(folder, as_bytes=as_bytes))
    with gzip.open(folder / "qemu.log.gz", "rt") as log:
        start_us = int(log.readline().split(":")[0].split("@")[1].replace(".", ""))
    free = folder / "freelist.log.gz"
    options = {"migration": folder / answers, "freelist": free if free.exists() else None}
    log_report = import_qemu(log=folder / "qemu.log.gz", out=tmp_path / "l.trace", **options)
    report = import_qemu(
        log=tmp_path / "simple.txt", out=tmp_path / "s.trace",
        read=simpletrace_reader(start_us), **options,
    )  # fmt: skip
    first, second = opened(log_report.out), opened(report.out)
    for one in ("dirty", "freelist", "zero"):
        assert table(first, one) == table(second, one)
    assert first.epochs.tolist() == second.epochs.tolist()
    assert first.meta.blocks == second.meta.blocks
    assert first.meta.duration_ns == second.meta.duration_ns
    assert second.meta.source["recorder"] == "qemu-simpletrace"
    assert report.unknown_events == log_report.unknown_events


def read(tmp_path, text):
    (tmp_path / "simple.txt").write_text(text)
    return import_qemu(log=tmp_path / "simple.txt", out=tmp_path / "s.trace", force=True,
                       read=simpletrace_reader())  # fmt: skip


SYNC = "migration_bitmap_sync_start 0.000 pid=1\n"
WRITE = "memory_notdirty_write_access 7.500 pid=1 vaddr=0x9 ram_addr=0x3008 size=0x8\n"


def test_times_add_up_in_ns_also_backwards(tmp_path):
    report = read(tmp_path, SYNC + WRITE * 3 + WRITE.replace("7.500", "-0.400") + WRITE)
    # 7.5, 15, 22.5, 22.1 and 29.6 us, cut to us.
    assert [t for t, _, _ in table(opened(report.out), "dirty")] == [
        7000, 15000, 22000, 22000, 29000,
    ]  # fmt: skip


def test_dropped_events_and_others_are_said(tmp_path):
    text = SYNC + "Dropped_Event 1.000 pid=0 num_events_dropped=0x11\n" + WRITE
    report = read(tmp_path, text + "qemu_vfree 0.1 pid=1 ptr=0x1\n".replace("0.1", "0.100"))
    assert report.unknown_events == {"qemu_vfree": 1}
    assert "dropped 17 events" in report.cut[0]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        (SYNC + "hello world\n", ["line 2", "simpletrace.py"]),
        (SYNC + WRITE.replace("0x3008", "0xzz"), ["line 2", "memory_notdirty_write_access"]),
        (SYNC + "migration_bitmap_sync_end 1.000 pid=1 pages=0x1\n", ["line 2", "arguments of"]),
        ("1@7.000001:migration_bitmap_sync_start \n", ["line 1", "simpletrace.py"]),
        (WRITE, ["no migration_bitmap_sync_start"]),
    ],
)
def test_what_is_none(tmp_path, text, parts):
    with pytest.raises(TraceError) as error:
        read(tmp_path, text)
    for part in parts:
        assert part in str(error.value)
    assert not (tmp_path / "s.trace").exists()
