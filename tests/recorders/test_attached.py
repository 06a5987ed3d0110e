"""A running QEMU recorded through its monitor alone: KVM's dirty ring, round by round."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket as sockets
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from analyses.commands import run
from tests.recorders import boot
from tests.recorders.live import (
    PATIENCE,
    UNTIL_ENDED,
    all_pages,
    ended_when,
    pages_of,
    wait_until,
)
from tests.recorders.test_kvm import WRITTEN
from tests.recorders.test_kvm_log import needs_kvm
from tracer import Trace
from tracer.recorders import qmp
from tracer.recorders.kvm_demos import DEMOS
from tracer.recorders.qmp import connect
from tracer.recorders.ramblocks import ask_qemu
from tracer.recorders.ring_source import EVENTS

ROOT = Path(__file__).parents[2]
pytestmark = boot.needs_qemu
RECORD = ("record", "qemu", "--qmp")
COMMAND = [sys.executable, "-m", "analyses.commands", *RECORD]
RING = ("-accel", "kvm,dirty-ring-size=4096")


def talk(socket, *commands):
    """Send QMP commands, each a name and its arguments, and return the answers."""

    async def send():
        monitor = await connect(socket)
        try:
            return [await monitor.do(name, arguments) for name, arguments in commands]
        finally:
            await monitor.close()

    return asyncio.run(send())


def ask(socket, *lines):
    return talk(socket, *(("human-monitor-command", {"command-line": line}) for line in lines))


def is_quiet(socket):
    """Whether all events are off."""
    states = talk(socket, *(("trace-event-get-state", {"name": name}) for name in EVENTS))
    return [state[0]["state"] for state in states] == ["disabled"] * len(EVENTS)


def wait_for_program(process, socket, name="pc.ram", page=0x8F):
    """Wait until the guest writes a page of a block, the last of `WRITTEN`."""
    regions = ask_qemu(socket)[1]
    (ram,) = [region for region in regions if region.name.rsplit("/", 1)[-1] == name]
    boot.wait_for_program(process.pid, ram, page)


def epochs(out):
    """Return the pages of each epoch of a whole trace, by when it ended."""
    trace = Trace.open(out)
    trace.validate()
    return pages_of(trace)


@contextmanager
def recording(socket, out, *more):
    """Give a recorder that has an epoch on disk."""
    process = subprocess.Popen(
        [*COMMAND, str(socket), "-o", str(out), *more],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: out.exists() or process.poll() is not None)
        if "--round" not in more:
            wait_until(lambda: process.poll() is not None or Trace.open(out).meta.duration_ns)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def firmware(tmp_path):
    return (*boot.firmware(tmp_path), "-msg", "timestamp=on")


@needs_kvm
def test_the_rings_pages_are_there_and_qemu_is_left_as_it_was(firmware, tmp_path, capsys):
    out, log = tmp_path / "a.trace", tmp_path / "own.log"
    guest = (*RING, *firmware, "-D", str(log))
    with boot.running(tmp_path, DEMOS["hot"], *guest) as (process, socket):
        wait_for_program(process, socket)
        # What QEMU logged before stays, and what it logs later stands behind it.
        ask(socket, "trace-event query_dirty_rate_info on", "info dirty_rate")
        ask(socket, "trace-event query_dirty_rate_info off")
        held = log.read_text()
        assert held.count("query_dirty_rate_info") == 1
        there = sorted(file.name for file in tmp_path.iterdir())
        with ended_when(out, lambda so_far: len(so_far.epochs) > 2):
            assert run([*RECORD, str(socket), "-o", str(out), *UNTIL_ENDED]) == 0
        said, told = capsys.readouterr()
        assert said == f"{out}\n"
        assert "nothing is logged between two rounds" in " ".join(told.split())
        assert is_quiet(socket)
        assert "running" in ask(socket, "info status")[0]
        assert process.poll() is None
        wait_until(lambda: not any(".a.trace" in name for name in boot.open_files(process.pid)))
        assert str(log) in boot.open_files(process.pid)
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted({*there, "a.trace"})
        assert log.read_text() == held
        ask(socket, "trace-event query_dirty_rate_info on", "info dirty_rate")
        assert log.read_text().startswith(held)
        assert log.read_text().count("query_dirty_rate_info") == 2
    trace = Trace.open(out)
    trace.validate()
    assert trace.meta.resolution == "epoch"
    found = epochs(out)
    assert len(found) >= 2
    assert all(pages == WRITTEN for pages in found.values())
    assert run(["replay", str(out), "--bandwidth", "64MiB/s"]) == 0


#: For each vCPU: pages of slots below 1 MiB and above, in part at the same offsets in them.
VCPUS = [[(0x20 + i, 16), (0x128 + 16 * i, 32), (0x4024 + 64 * i, 64)] for i in range(2)]
PAGES = {page for vcpu in VCPUS for first, count in vcpu for page in range(first, first + count)}
TWO_BACKENDS = (
    *("-m", "128M", "-object", "memory-backend-ram,id=m0,size=48M"),
    *("-object", "memory-backend-memfd,id=m1,size=80M"),
    *("-numa", "node,memdev=m0,cpus=0", "-numa", "node,memdev=m1,cpus=1"),
)


@needs_kvm
@pytest.mark.parametrize(
    ("memory", "blocks"),
    [
        # The slot above 4 GiB has the same offsets too, and none of its pages is written.
        pytest.param(("-m", "5G"), [("pc.ram", 0, 0)], id="above-4-gib"),
        pytest.param(TWO_BACKENDS, [("m0", 0, 0x3000), ("m1", 0x3000, 0)], id="two-backends"),
    ],
)
def test_pages_of_several_large_slots_are_told_apart(memory, blocks, tmp_path):
    out = tmp_path / "a.trace"
    guest = (*RING, *boot.flat_firmware(tmp_path, VCPUS), *memory)
    with boot.running(tmp_path, DEMOS["hot"], *guest) as (process, socket):
        wait_for_program(process, socket, blocks[0][0], 0x30)  # which the second vCPU alone writes

        def written(trace):
            first = {block.name.rsplit("/", 1)[-1]: block.first_page for block in trace.meta.blocks}
            return {
                page - begin + first[name]
                for name, begin, end in blocks
                for page in PAGES
                if begin <= page and (not end or page < end)
            }

        with ended_when(out, lambda so_far: all_pages(so_far) >= written(so_far)):
            assert run([*RECORD, str(socket), "-o", str(out), *UNTIL_ENDED]) == 0
        assert process.poll() is None
    trace = Trace.open(out)
    meta, wanted = trace.meta, written(trace)
    assert len(meta.source["slots"]) == 3
    found = list(epochs(out).values())
    # A busy host may leave a vCPU without a turn for a whole round.
    assert all(pages <= wanted for pages in found)
    assert set.union(*found) == wanted
    assert not any("tells the memory slot" in note for note in meta.source["notes"])


@needs_kvm
def test_without_leave_to_read_qemus_memory_what_is_not_known_is_said(tmp_path, capfd):
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv (Debian: util-linux)")
    out = tmp_path / "a.trace"
    weak = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]

    def record(socket):
        return subprocess.run(
            [*weak, *COMMAND, str(socket), "-o", str(out), "--duration", "1s"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip

    guest = (*RING, *boot.firmware(tmp_path))
    with boot.running(tmp_path, DEMOS["hot"], *guest) as (process, socket):
        wait_for_program(process, socket)
        done = record(socket)
        if "setpriv:" in done.stderr:
            pytest.skip(f"capabilities cannot be dropped: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        assert "cannot be read" in done.stderr
        # Above 1 MiB the same offsets are taken too.
        assert next(iter(epochs(out).values())) == WRITTEN | {page + 0x100 for page in WRITTEN}
        notes = Trace.open(out).meta.source["notes"]
        assert any("taken as written in every slot" in note for note in notes)
    shutil.rmtree(out)
    guest = (*RING, *boot.firmware(tmp_path), "-m", "5G")
    with boot.running(tmp_path, DEMOS["hot"], *guest) as (_, socket):
        done = record(socket)
        assert done.returncode == 1
        assert "only that tells in which of the guest's memory slots" in done.stderr
        assert not out.exists()
        assert is_quiet(socket)


@needs_kvm
def test_a_kill_leaves_a_trace_and_the_next_recording_tidies_up(firmware, tmp_path):
    out, log = tmp_path / "a.trace", tmp_path / "own.log"
    guest = (*RING, *firmware, "-D", str(log))
    with boot.running(tmp_path, DEMOS["hot"], *guest) as (process, socket):
        with recording(socket, out) as recorder:
            recorder.kill()
            recorder.wait()
        killed = Trace.open(out)
        killed.validate()
        assert killed.unfinished
        assert killed.num_rows("dirty")
        assert process.poll() is None
        again = [*RECORD, str(socket), "-o", str(out), "--force", "--duration", "1s"]
        wait_until(lambda: run(again) == 0)  # the round that was begun ends by itself
        assert Trace.open(out).num_rows("dirty")
        assert is_quiet(socket)
        wait_until(lambda: str(log) in boot.open_files(process.pid))
        assert not list(tmp_path.glob(".*"))


def logged(folder):
    """Return the pages that QEMU has logged for a recording under way."""
    text = "".join(log.read_text() for log in folder.glob(".a.trace-*.dirtylog"))
    pages = re.findall(r"kvm_dirty_ring_page .* offset 0x([0-9a-f]+)$", text, re.MULTILINE)
    return {int(page, 16) for page in pages}


@needs_kvm
def test_a_long_round_is_left_to_itself(firmware, tmp_path):
    out = tmp_path / "a.trace"
    with boot.running(tmp_path, DEMOS["hot"], *RING, *firmware) as (_, socket):
        with recording(socket, out, "--round", "60s") as recorder:
            wait_until(lambda: logged(tmp_path) >= WRITTEN)
            recorder.send_signal(signal.SIGTERM)
            told = recorder.communicate(timeout=PATIENCE)[1]
            assert recorder.returncode == 0
        assert "QEMU goes on measuring for" in told
        assert is_quiet(socket)
    assert list(epochs(out).values()) == [WRITTEN]


@needs_kvm
@pytest.mark.parametrize("what", ["dies", "logs elsewhere"])
def test_a_recording_ends_with_what_it_has_when_qemu(what, firmware, tmp_path):
    out, other = tmp_path / "a.trace", tmp_path / "other.sock"
    guest = (*RING, *firmware, "-qmp", f"unix:{other},server=on,wait=off")
    with boot.running(tmp_path, DEMOS["hot"], *guest) as (process, socket):
        with recording(socket, out) as recorder:
            if what == "dies":
                process.kill()
            else:
                ask(other, f"logfile {tmp_path}/elsewhere.log")
            recorder.communicate(timeout=PATIENCE)
            assert recorder.returncode == 0
        if what != "dies":
            assert is_quiet(socket)
            assert str(tmp_path / "elsewhere.log") in boot.open_files(process.pid)
    why = {"dies": "QEMU ended", "logs elsewhere": "QEMU logs no more"}[what]
    assert why in Trace.open(out).meta.source["ended"]
    # What was logged since the last sign of life does not count.
    assert set.union(*epochs(out).values()) == WRITTEN
    assert not list(tmp_path.glob(".a.trace*"))


@needs_kvm
def test_a_paused_guest_is_told(firmware, tmp_path, capsys):
    out = tmp_path / "a.trace"
    with boot.running(tmp_path, DEMOS["hot"], *RING, *firmware) as (_, socket):
        talk(socket, ("stop", {}))
        assert run([*RECORD, str(socket), "-o", str(out), "--duration", "2s"]) == 0
        assert "stood still" in capsys.readouterr().err
        assert talk(socket, ("query-status", {}))[0]["status"] == "paused"
    assert not any(epochs(out).values())


@needs_kvm
def test_somebody_elses_measurement_is_not_disturbed(firmware, tmp_path, capsys):
    out = tmp_path / "a.trace"
    with boot.running(tmp_path, DEMOS["hot"], *RING, *firmware) as (_, socket):
        talk(socket, ("calc-dirty-rate", {"calc-time": 30, "mode": "dirty-ring"}))
        assert run([*RECORD, str(socket), "-o", str(out), "--duration", "1s"]) == 1
        assert "dirty rate already" in capsys.readouterr().err
        assert not out.exists()


def test_a_monitor_that_is_taken_or_none_is_told(firmware, tmp_path, capsys, monkeypatch):
    out = tmp_path / "a.trace"
    with boot.running(tmp_path, DEMOS["hot"], *firmware) as (_, socket):
        taken = sockets.socket(sockets.AF_UNIX)
        taken.connect(str(socket))
        with monkeypatch.context() as patch:
            patch.setattr(qmp, "_PATIENCE", 1.0)
            assert run([*RECORD, str(socket), "-o", str(out)]) == 1
        assert "one client at a time" in capsys.readouterr().err
        taken.close()
    server = sockets.socket(sockets.AF_UNIX)
    server.bind(str(tmp_path / "other"))
    server.listen()

    def serve():
        client, _ = server.accept()
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert run([*RECORD, str(tmp_path / "other"), "-o", str(out)]) == 1
    thread.join()
    server.close()
    assert "no QMP monitor answers" in capsys.readouterr().err
    assert not out.exists()


def test_under_tcg_no_round_clears_the_log(firmware, tmp_path):
    """The reason why TCG is refused: a migration lets first writes be logged, a round does not."""
    log = tmp_path / "own.log"
    event = ("trace-event-set-state", {"name": "memory_notdirty_write_access", "enable": True})
    guest = ("-accel", "tcg", *firmware, "-D", str(log))
    with boot.running(tmp_path, DEMOS["hot"], *guest) as (process, socket):
        if talk(socket, ("query-version", {}))[0]["qemu"]["major"] < 8:
            pytest.skip("this QEMU dies of calc-dirty-rate under TCG")
        wait_for_program(process, socket)
        talk(socket, event, ("calc-dirty-rate", {"calc-time": 1, "mode": "dirty-bitmap"}))
        wait_until(lambda: talk(socket, ("query-dirty-rate", {}))[0]["status"] == "measured")
        assert "memory_notdirty_write_access" not in log.read_text()
        talk(
            socket,
            ("migrate-set-parameters", {"max-bandwidth": 4096}),
            ("migrate", {"uri": "exec:cat > /dev/null"}),
        )
        wait_until(lambda: "memory_notdirty_write_access" in log.read_text())


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
        assert run([*RECORD, str(socket), "-o", str(out), "--duration", "1s"]) == 2
        err = capsys.readouterr().err
        assert why in err
        assert "dirtylog record process --qmp" in err
        assert process.poll() is None
        assert "running" in ask(socket, "info status")[0]
        assert sorted(tmp_path.iterdir()) == there
