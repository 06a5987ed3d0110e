"""A running QEMU recorded through its monitor alone: KVM's dirty ring, round by round."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from analyses.commands import run
from tests.recorders import boot
from tests.recorders.test_kvm import WRITTEN
from tests.recorders.test_kvm_log import needs_kvm
from tracer import Trace
from tracer.errors import RecordError
from tracer.recorders.attached import _Slots
from tracer.recorders.kvm_demos import DEMOS
from tracer.recorders.qmp import connect

ROOT = Path(__file__).parents[2]
pytestmark = boot.needs_qemu
RECORD = ("record", "qemu", "--qmp")
RING = ("-accel", "kvm,dirty-ring-size=4096")


def ask(socket, *lines):
    async def talk():
        monitor = await connect(socket)
        try:
            return [
                await monitor.do("human-monitor-command", {"command-line": line}) for line in lines
            ]
        finally:
            await monitor.close()

    return asyncio.run(talk())


def open_files(pid):
    return {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}


@pytest.fixture
def firmware(tmp_path):
    return (*boot.firmware(tmp_path), "-msg", "timestamp=on")


@needs_kvm
def test_the_rings_pages_are_there_and_qemu_is_left_as_it_was(firmware, tmp_path, capsys):
    out, log = tmp_path / "a.trace", tmp_path / "own.log"
    guest = (*RING, *firmware, "-D", str(log))
    with boot.running(tmp_path, DEMOS["hot"], *guest) as (process, socket):
        time.sleep(1)
        there = sorted(file.name for file in tmp_path.iterdir())
        assert run([*RECORD, str(socket), "-o", str(out), "--duration", "2s"]) == 0
        said, told = capsys.readouterr()
        assert said == f"{out}\n"
        assert "nothing is logged between two rounds" in " ".join(told.split())
        (state, status) = ask(socket, "info trace-events kvm_dirty_ring_page", "info status")
        assert "state 0" in state
        assert "running" in status
        assert process.poll() is None
        deadline = time.monotonic() + 20
        while any(".a.trace" in name for name in open_files(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert str(log) in open_files(process.pid)
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted({*there, "a.trace"})
    trace = Trace.open(out)
    trace.validate()
    assert trace.meta.resolution == "epoch"
    assert len(trace.epochs) >= 3
    rows = next(trace.rows("dirty"))
    pages = {
        page
        for first, count in zip(rows.page.tolist(), rows.count.tolist(), strict=True)
        for page in range(first, first + count)
    }
    # The event does not say in which slot: above 1 MiB the same offsets are taken too.
    assert pages == WRITTEN | {page + 0x100 for page in WRITTEN}
    assert set(rows.t.tolist()) <= set(trace.epochs[1:].tolist())
    assert run(["replay", str(out), "--bandwidth", "64MiB/s"]) == 0


@needs_kvm
def test_a_kill_leaves_a_trace_and_a_guest_that_can_be_recorded_again(firmware, tmp_path):
    out = tmp_path / "a.trace"
    command = [sys.executable, "-m", "analyses.commands", *RECORD]
    with boot.running(tmp_path, DEMOS["hot"], *RING, *firmware) as (process, socket):
        recorder = subprocess.Popen(
            [*command, str(socket), "-o", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while not out.exists() or not Trace.open(out).meta.duration_ns:
            assert recorder.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        recorder.kill()
        recorder.wait()
        killed = Trace.open(out)
        killed.validate()
        assert killed.unfinished
        assert killed.num_rows("dirty")
        assert process.poll() is None
        again = [*RECORD, str(socket), "-o", str(out), "--force", "--duration", "1s"]
        while run(again):  # the round that was begun ends by itself
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert Trace.open(out).num_rows("dirty")
        assert process.poll() is None


@pytest.mark.parametrize(
    ("accelerator", "why"),
    [
        ("tcg", "only a migration clears the dirty log"),
        pytest.param("kvm", "keeps a bitmap", marks=needs_kvm),
    ],
)
def test_a_qemu_that_cannot_tell_pages_says_what_can(accelerator, why, firmware, tmp_path, capsys):
    out = tmp_path / "a.trace"
    with boot.running(tmp_path, DEMOS["hot"], "-accel", accelerator, *firmware) as (
        process,
        socket,
    ):
        there = sorted(tmp_path.iterdir())
        assert run([*RECORD, str(socket), "-o", str(out), "--duration", "1s"]) == 1
        err = capsys.readouterr().err
        assert why in err
        assert "dirtylog record process --qmp" in err
        assert process.poll() is None
        assert "running" in ask(socket, "info status")[0]
        assert sorted(tmp_path.iterdir()) == there


def test_slots():
    low, main = (0, 0xA0000, 0), (0x100000, 0x4000000, 0x100000)
    slots = _Slots([low, main])
    assert slots.pages(np.array([5, 0x9F, 0xA0, 0x3EFF])).tolist() == [
        *(5, 0x9F, 0x105, 0x19F, 0x1A0, 0x3FFF)
    ]
    assert slots.pages(np.array([0x3F00, 1 << 40])).tolist() == []
    with pytest.raises(RecordError, match="2 large memory slots"):
        _Slots([low, main, (1 << 32, 3 << 31, 0x4000000)])
