"""KVM's dirty log over guests whose writes are known: what it says equals what they wrote."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from analyses.commands import run
from tests.recorders.live import PATIENCE, wait_until
from tracer import Trace, UsageError
from tracer.errors import RecordError
from tracer.recorders import kvm_machine
from tracer.recorders.kvm import record_kvm
from tracer.recorders.kvm_demos import CODE_PAGE, DEMOS, FIRST, HOT, PAGES
from tracer.recorders.kvm_log import BitmapLog, ManualLog, RingLog, Slot
from tracer.recorders.kvm_machine import PAGE, Machine
from tracer.recorders.session import Wanted, runs, zero_pages

ROOT = Path(__file__).parents[2]
MODES = ("bitmap", "manual", "ring")
ENTRIES = 1024


def _why_not() -> str | None:
    try:
        with Machine(DEMOS["sweep"]) as machine:
            machine.run()
    except UsageError as error:
        return str(error)
    return None


WHY_NOT = _why_not()
needs_kvm = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def start(demo, mode):
    machine = Machine(
        DEMOS[demo], manual=mode == "manual", ring_entries=ENTRIES if mode == "ring" else 0
    )
    if mode == "ring":
        log = RingLog(machine.vm_fd, [machine.vcpu_fd], ENTRIES, machine.slots)
    else:
        log = (ManualLog if mode == "manual" else BitmapLog)(machine.vm_fd, machine.slots)
    log.start()
    return machine, log


def one_pass(machine):
    while not machine.run():
        pass


@needs_kvm
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("demo", list(DEMOS))
def test_what_the_log_says_is_what_the_program_wrote(demo, mode):
    machine, log = start(demo, mode)
    with machine:
        for written in islice(DEMOS[demo].passes(), 30):
            one_pass(machine)
            assert set(log.harvest().tolist()) == written
        assert len(log.harvest()) == 0
    assert log.harvest_ns > 0


@needs_kvm
def test_the_programs_write_what_they_say():
    """Their own memory says it too, without a log."""
    for demo in DEMOS.values():
        with Machine(demo) as machine:
            contents = machine.memory.reshape(PAGES, PAGE)
            for written in islice(demo.passes(), 12):
                before = contents.copy()
                one_pass(machine)
                changed = set(np.flatnonzero((contents != before).any(axis=1)).tolist())
                assert changed == written
            assert demo.code in contents[CODE_PAGE].tobytes()


@pytest.mark.skipif(shutil.which("as") is None, reason="no assembler (as)")
@pytest.mark.parametrize("demo", DEMOS.values(), ids=lambda demo: demo.name)
def test_the_code_is_what_its_source_assembles_to(demo, tmp_path):
    source, made, code = (tmp_path / f"demo.{end}" for end in ("s", "o", "bin"))
    source.write_text(f".code16\n{demo.source}")
    subprocess.run(["as", "-o", made, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", made, code], check=True)
    assert code.read_bytes() == demo.code


@needs_kvm
def test_a_ring_lists_pages_in_the_order_they_were_written():
    machine, log = start("sweep", "ring")
    with machine:
        one_pass(machine)
        (entries,) = log.entries()
    assert entries.tolist() == list(range(FIRST, PAGES))


@needs_kvm
def test_a_full_ring_stops_the_vcpu_or_is_said_to_have_run_over():
    """Never a page lost in silence: a KVM that emulates real mode does not always stop in time."""
    machine, log = start("sweep", "ring")
    with machine:
        passes = sum(machine.run() for _ in range(8))
        assert passes < 5  # 5 * 224 entries are more than the ring has
        full = np.all(log._rings[0]["flags"] & 1)
        if full:
            with pytest.raises(RecordError, match="ran over"):
                log.entries()
        else:
            (entries,) = log.entries()
            assert len(entries) >= passes * (PAGES - FIRST)
            assert set(entries.tolist()) == set(range(FIRST, PAGES))


@needs_kvm
def test_manual_protection_clears_what_it_is_told_to_and_no_more():
    machine, log = start("sweep", "manual")
    slot = machine.slots[0]
    with machine:
        one_pass(machine)
        bitmap = np.zeros(2, np.uint64)
        BitmapLog._take(log, slot, bitmap)  # reads without clearing, in this mode
        assert bitmap[0] == ~np.uint64((1 << FIRST) - 1)
        log.clear(slot, 0, 64, bitmap)
        left = np.zeros(2, np.uint64)
        BitmapLog._take(log, slot, left)
        assert left.tolist() == [0, bitmap[1]]
        with pytest.raises(UsageError, match="multiples of 64"):
            log.clear(slot, 0, 63, bitmap)
        with pytest.raises(UsageError, match="multiples of 64"):
            log.clear(slot, 32, 64, bitmap)
        log.clear(slot, 64, slot.pages - 64, bitmap[1:])
        BitmapLog._take(log, slot, left)
        assert left.tolist() == [0, 0]


@needs_kvm
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_missed_while_the_guest_runs_on(mode):
    """Harvests run against the vCPU: each page of each pass is in one of two epochs."""
    machine, log = start("hot", mode)
    over, passes = threading.Event(), []

    def vcpu():
        while not over.is_set():
            passes.append(machine.run())

    with machine:
        thread = threading.Thread(target=vcpu)
        thread.start()
        found = []
        try:
            for _ in range(200):
                found.append(set(log.harvest().tolist()))
                time.sleep(0.001)
        finally:
            over.set()
            thread.join()
        found.append(set(log.harvest().tolist()))
        assert len(log.harvest()) == 0
    wrote = list(islice(DEMOS["hot"].passes(), sum(passes) + 1))
    certain = set().union(*wrote[:-1])
    assert certain <= set().union(*found) <= certain | wrote[-1]
    cold = [sorted(pages - set(range(FIRST + HOT))) for pages in found]
    order = [page for pages in cold if len(pages) == 1 for page in pages]
    assert sum(a > b for a, b in pairwise(order)) <= sum(passes) // (PAGES - FIRST - HOT) + 1


@needs_kvm
def test_what_kvm_refuses_is_said():
    with Machine(DEMOS["sweep"]) as machine:
        log = BitmapLog(machine.vm_fd, [Slot(3, 0, 64)])
        with pytest.raises(UsageError, match="memory slot 3: KVM gives no dirty bitmap"):
            log.harvest()
    for entries, why in ((1000, "power of two"), (1 << 24, "this KVM allows"), (2, "too few")):
        with pytest.raises(UsageError, match=why):
            Machine(DEMOS["sweep"], ring_entries=entries)


def test_a_machine_without_kvm_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kvm_machine, "DEVICE", str(tmp_path / "kvm"))
    assert run(["record", "kvm", "-o", str(tmp_path / "a.trace"), "--duration", "1s"]) == 2
    assert "this machine has no KVM" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@needs_kvm
@pytest.mark.parametrize("mode", MODES)
def test_a_recording_is_a_trace_that_replays(mode, tmp_path, capsys):
    out = tmp_path / "a.trace"
    # A run of the guest may last as long as the host has other things to do.
    arguments = ["--log", mode, "--interval", "20ms", "--duration", "2s", "-o", str(out)]
    assert run(["record", "kvm", "--demo", "hot", *arguments]) == 0
    said, told = capsys.readouterr()
    assert said == f"{out}\n"
    assert "resolution epoch; the duration is over" in " ".join(told.split())
    trace = Trace.open(out)
    trace.validate()
    assert trace.unfinished is None
    assert trace.meta.source["log"] == mode
    assert trace.meta.duration_ns >= 2_000_000_000
    assert len(trace.epochs) > 3
    (rows,) = trace.rows("dirty")
    for t in trace.epochs[1:]:
        mine = rows.t == t
        pages = {
            page
            for first, count in zip(rows.page[mine], rows.count[mine], strict=True)
            for page in range(first, first + count)
        }
        assert set(range(FIRST, FIRST + HOT)) <= pages <= set(range(FIRST, PAGES))
    zero = next(trace.rows("zero"))
    at_start = zero.t == 0
    assert int(zero.count[at_start].sum()) == PAGES - 1
    assert run(["record", "kvm", *arguments]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["replay", str(out), "--bandwidth", "64MiB/s"]) == 0


def recording(out, *options):
    """Start a recording of its own process and wait until it has something."""
    command = [sys.executable, "-m", "analyses.commands", "record", "kvm", "-o", str(out)]
    process = subprocess.Popen(
        [*command, "--interval", "10ms", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(
        lambda: (
            process.poll() is not None
            or (out.exists() and Trace.open(out).meta.duration_ns >= 50_000_000)
        )
    )
    assert process.poll() is None, process.communicate()[1]
    return process


@needs_kvm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_recording_with_what_it_has(number, tmp_path):
    out = tmp_path / "a.trace"
    process = recording(out)
    os.kill(process.pid, number)
    said, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, f"{out}\n"), told
    assert "stopped" in told
    trace = Trace.open(out)
    trace.validate()
    assert trace.unfinished is None
    assert trace.meta.duration_ns >= 50_000_000
    assert list(tmp_path.iterdir()) == [out]


@needs_kvm
def test_a_killed_recording_opens_up_to_its_last_epoch(tmp_path, capsys):
    out = tmp_path / "a.trace"
    process = recording(out)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    trace = Trace.open(out)
    trace.validate()
    assert trace.unfinished is not None
    assert trace.epochs[-1] == trace.meta.duration_ns >= 50_000_000
    assert run(["replay", str(out), "--bandwidth", "64MiB/s"]) == 0
    assert "was killed" in capsys.readouterr().err
    assert run(["record", "kvm", "-o", str(out), "--duration", "50ms", "--force"]) == 0
    assert Trace.open(out).unfinished is None


def test_nonsense_is_refused(tmp_path):
    for options, why in (
        ({"demo": "x"}, "no demo program"),
        ({"demo": "hot", "mode": "x"}, "no dirty log"),
        ({"demo": "hot", "interval_ns": 0}, "interval"),
    ):
        with pytest.raises(UsageError, match=why):
            record_kvm(Wanted(tmp_path / "a.trace"), **options)
    with pytest.raises(UsageError, match="duration is 0"):
        Wanted(tmp_path / "a.trace", duration_ns=0)


def test_a_signal_may_stop_a_recording_at_any_moment_of_its_wait(tmp_path):
    """Its handler runs between two steps of the wait, which goes on only when it has returned."""
    wanted, steps = Wanted(tmp_path / "a.trace"), []

    def handle():
        wanted.stop.set()
        wanted.stop.clear()  # for the next step

    def step(*_):
        steps.append(threading.Thread(target=handle, daemon=True))
        steps[-1].start()
        steps[-1].join(20)
        assert not steps[-1].is_alive(), "it waits for a lock of the wait's"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        wanted.wait(time.monotonic_ns() + 1_000_000)
    finally:
        sys.settrace(before)
    assert steps


def test_runs_and_zero_pages():
    pages = np.array([0, 1, 2, 5, 9, 10])
    first, count = runs(pages)
    assert (first.tolist(), count.tolist()) == ([0, 5, 9], [3, 1, 2])
    assert [len(part) for part in runs(pages[:0])] == [0, 0]
    contents = np.zeros((6, PAGE), np.uint8)
    contents[1, 0] = contents[3, PAGE - 1] = contents[4, 63] = 1
    assert zero_pages(pages, contents).tolist() == [0, 2, 10]
