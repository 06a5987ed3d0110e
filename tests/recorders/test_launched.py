"""Every store of a guest under TCG, told by a plugin: guests whose stores are known."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analyses.commands import run
from tests.recorders import boot
from tests.recorders.live import PATIENCE, wait_until
from tests.recorders.test_kvm_log import needs_kvm
from tracer import Trace
from tracer.errors import RecordError
from tracer.recorders import tcg_plugin
from tracer.recorders.kvm_demos import DEMOS, HOT, Demo
from tracer.recorders.tcg_plugin import Stores, compile_plugin

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")
pytestmark = [boot.needs_qemu, needs_compiler]

#: Waits, stores a word over the end of the first page, writes the last one, and ends QEMU.
ACROSS = Demo(
    "across",
    "",
    """
        mov $1000, %dx
wait:   mov $0xffff, %cx
turn:   loop turn
        dec %dx
        jnz wait
        mov %si, %es
        mov %ax, %es:0xfff
        sub $0x100, %di
        mov %di, %es
        incb %es:0
        out %al, $0xf4
self:   jmp self
    """,
    bytes.fromhex("bae803 b9ffff e2fe 4a 75f8 8ec6 26a3ff0f 81ef0001 8ec7 26fe060000 e6f4 ebfe"),
)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def record(folder, demo, *options, guest=()):
    out = folder / "a.trace"
    command = boot.command(folder, demo, *guest)
    return run(["record", "qemu", "--launch", "-o", str(out), *options, "--", *command]), out


def columns(trace):
    parts = list(trace.rows("dirty"))
    return np.concatenate([p.t for p in parts]), np.concatenate([p.page for p in parts])


@pytest.fixture(scope="module")
def hot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        code, out = record(folder, DEMOS["hot"], "--duration", "4s")
    assert code == 0
    return Trace.open(out)


def test_the_pages_that_the_program_writes_are_there_quantum_by_quantum(hot):
    hot.validate()
    meta = hot.meta
    assert (meta.resolution, meta.quantum_ns, meta.pages) == ("write", 10**6, boot.MEMORY >> 12)
    assert meta.duration_ns == 4 * 10**9
    assert meta.blocks[0].name == "pc.ram"
    t, page = columns(hot)
    assert not np.any(t % 10**6)
    # No page twice in a quantum.
    assert len(np.unique(t * meta.pages + page)) == len(t)
    # When the BIOS is done the program's pages, and no others, are written.
    own = (page >= boot.FIRST) & (page < boot.FIRST + boot.PAGES)
    late = t > t[~own].max() + 10**6
    assert np.ptp(t[late]) > 200 * 10**6
    assert np.unique(page[late]).tolist() == list(range(boot.FIRST, boot.FIRST + boot.PAGES))
    hottest = page[late] < boot.FIRST + HOT
    assert hottest.sum() > HOT * len(np.unique(t[late])) * 0.9
    assert meta.source["stores"] > len(t)


def test_what_no_plugin_sees_is_said(hot):
    notes = " ".join(hot.meta.source["notes"])
    assert "devices" in notes
    assert "interrupt" in notes


def test_what_is_zero_at_the_start_is_known(hot):
    (zero,) = hot.rows("zero")
    assert not zero.t.any()
    assert zero.count.sum() > hot.meta.pages * 0.9


def test_it_replays(hot, capsys):
    assert run(["replay", str(hot.path), "--bandwidth", "64MiB/s"]) == 0
    assert "precopy" in capsys.readouterr().out


def test_a_store_across_pages_writes_both_and_the_guest_may_end_by_itself(tmp_path, capsys):
    guest = ("-accel", "tcg", "-device", "isa-debug-exit,iobase=0xf4,iosize=1")
    code, out = record(tmp_path, ACROSS, guest=guest)
    assert code == 0
    assert "the guest ended" in " ".join(capsys.readouterr().err.split())
    trace = Trace.open(out)
    trace.validate()
    t, page = columns(trace)
    assert trace.unfinished is None
    # The BIOS has been there before, until the program began to wait.
    own = (t > t[-1] - 10**7) & (page >= boot.FIRST) & (page < boot.FIRST + boot.PAGES)
    assert set(page[own].tolist()) == {boot.FIRST, boot.FIRST + 1, boot.FIRST + boot.PAGES - 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.trace", "boot.img"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_ends_it_and_a_kill_leaves_a_trace(number, tmp_path):
    out = tmp_path / "a.trace"
    command = [sys.executable, "-m", "analyses.commands", "record", "qemu", "--launch", "-o", out]
    guest = boot.command(tmp_path, DEMOS["sweep"], "-accel", "tcg", "-pidfile", f"{tmp_path}/pid")
    recorder = subprocess.Popen([*command, "--", *guest], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_until(
        lambda: (
            recorder.poll() is not None
            or (out.exists() and Trace.open(out).meta.duration_ns >= 1_000_000_000)
        )
    )
    assert recorder.poll() is None
    qemu = int((tmp_path / "pid").read_text())
    recorder.send_signal(number)
    recorder.wait(timeout=PATIENCE)
    trace = Trace.open(out)
    trace.validate()
    if number == signal.SIGINT:
        assert recorder.returncode == 0
        assert trace.unfinished is None
        assert trace.meta.source["ended"] == "stopped"
    else:
        assert trace.unfinished
        assert trace.meta.duration_ns >= 1_000_000_000
    wait_until(lambda: not Path(f"/proc/{qemu}").exists())


@needs_kvm
def test_kvm_is_refused(tmp_path, capsys):
    code, out = record(tmp_path, DEMOS["hot"], guest=("-accel", "kvm"))
    assert code == 2
    assert "-accel tcg" in capsys.readouterr().err
    assert not out.exists()


def test_what_does_not_fit_is_said(tmp_path, capsys):
    out = str(tmp_path / "a.trace")
    guest = boot.command(tmp_path, DEMOS["hot"])
    for options, command, code, why in (
        (["--launch"], [], 2, "nothing to launch"),
        ([], guest, 2, "--launch"),
        (["--launch", "--qmp", "x"], guest, 2, "--launch"),
        (["--qmp", "x"], guest, 2, "leave its command line out"),
        (["--qmp", "x", "--round", "100ms"], [], 2, "whole seconds"),
        (["--qmp", "x", "--quantum", "1ms"], [], 2, "--quantum has no effect with --qmp"),
        (["--launch", "--round", "1s"], guest, 2, "--round has no effect with --launch"),
        (["--launch", "--qemu-log", "x"], guest, 2, "--qemu-log has no effect with --launch"),
        (["--launch"], [*guest, "-S"], 2, "-S"),
        (["--launch"], ["/nowhere/qemu"], 2, "cannot be run"),
        (["--launch"], [sys.executable], 2, "is no QEMU"),
        (["--launch", "--quantum", "0"], guest, 2, "quantum"),
        (["--launch"], [*guest, "-nonsense"], 2, "nonsense"),
    ):
        assert run(["record", "qemu", "-o", out, *options, "--", *command]) == code, why
        err = capsys.readouterr().err
        assert why in err, err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["boot.img"]


def test_the_plugin_is_compiled_once_for_each_interface(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, two = compile_plugin((7, 2)), compile_plugin((9, 1))
    assert one != two
    when = one.stat().st_mtime_ns
    assert compile_plugin((8, 0)) == one
    assert one.stat().st_mtime_ns == when
    assert len(list((tmp_path / "dirtylog").iterdir())) == 2


def test_no_compiler_and_a_failing_one_are_said(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(RecordError, match="no C compiler"):
        compile_plugin((7, 2))
    monkeypatch.setenv("CC", "cc -DPLUGIN_API=(")
    monkeypatch.setattr(tcg_plugin, "_FLAGS", ("-shared", "-Dstatic=?"))
    with pytest.raises(RecordError, match="does not compile"):
        compile_plugin((7, 2))


def test_rows_that_come_in_pieces_are_put_together(tmp_path):
    stores = Stores(tmp_path)
    with stores.path.open("wb", buffering=0) as pipe:
        rows = [(0, 7), (0, 8), (1, 0xFFFFFFFF), (1, 9), (2, 0xFFFFFFFF), (2, 10)]
        rows += [(3, 0xFFFFFFFE), (1, 0xFFFFFFFD), (5, 0xFFFFFFFC), (0, 0xFFFFFFFB)]
        data = np.array([*rows, (3, 0xFFFFFFFA)], np.uint32).tobytes()
        seen, until = [], []
        for at in range(0, len(data), 13):
            pipe.write(data[at : at + 13])
            for batch in stores.read():
                seen += zip(batch.quantum.tolist(), batch.page.tolist(), strict=True)
                until.append(batch.until)
    stores.close()
    assert seen == [(0, 7), (0, 8), (1, 9), (2, 10)]
    assert until == sorted(until)
    assert until[-1] == 3
    assert (stores.ended, stores.stores, stores.elsewhere) == (True, 5, (1 << 32) + 3)
