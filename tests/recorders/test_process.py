"""A guest's process recorded from outside: what is seen is what the guest wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from analyses.commands import run
from analyses.commands.units import size
from tests.guest import NoGuestError
from tests.recorders import boot, linux
from tests.recorders.live import UNTIL_ENDED, all_pages, ended_when, pages_of, wait_until
from tests.recorders.softdirty_guest import Child, kvm, plain
from tests.recorders.test_kvm import WRITTEN
from tests.recorders.test_kvm_log import needs_kvm
from tracer import Trace, UsageError
from tracer.errors import RecordError
from tracer.recorders import softdirty
from tracer.recorders.contents import Contents
from tracer.recorders.kvm_demos import DEMOS, HOT, PAGES
from tracer.recorders.mappings import PAGE, find_ram
from tracer.recorders.process import record_process
from tracer.recorders.ptrace import stopped
from tracer.recorders.ramblocks import ask_qemu
from tracer.recorders.session import Wanted
from tracer.recorders.softdirty import read_pagemap
from tracer.recorders.writeprotect import WriteProtect

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("softdirty_guest.py")


#: A helper that does nothing but say that it is there.
ANSWERS = 'for line in sys.stdin: print("up", flush=True)'


def _why_not() -> str | None:
    try:
        with Helper(ANSWERS) as helper:
            helper.say()
            WriteProtect(helper.pid, find_ram(helper.pid)).close()
    except (RecordError, OSError) as error:
        return str(error)
    return None


class Helper:
    """A process of ours that runs some Python; `say` sends it a line and returns its answer."""

    def __init__(self, text: str, *options: str):
        text = "import mmap, os, signal, sys, threading, time\nimport numpy as np\n" + text
        self._process = subprocess.Popen(
            [sys.executable, "-c", text, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def tell(self, line: str = "") -> None:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def say(self, line: str = "") -> str:
        self.tell(line)
        return self._process.stdout.readline().strip()

    def end(self) -> int:
        self._process.communicate()
        return self._process.returncode

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *why: object) -> None:
        self._process.kill()
        self._process.communicate()


WHY_NOT = _why_not()
needs_protect = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def regions_of(child):
    return find_ram(child.pid, [f"{child.address:x}-{child.address + PAGES * PAGE:x}"])


def follow(child, orders):
    """Give orders and return the pages that write protection shows after each but the first."""
    tracker = WriteProtect(child.pid, regions_of(child))
    child.do(orders[0])
    tracker.start()
    seen = []
    for order in orders[1:]:
        child.do(order)
        seen.append([page for part in tracker.harvest() for page in part.tolist()])
    tracker.close()
    child.do(orders[0])  # it lives on
    return seen


# -- the proof ----------------------------------------------------------------------------------


@boot.needs_qemu
def test_soft_dirty_bits_show_what_a_process_and_a_kvm_guest_wrote(tmp_path):
    """On a kernel that has them, in a guest: kvm there has a second level of page tables."""
    try:
        kernel, initrd = linux.build(tmp_path, SCRIPT)
    except NoGuestError as error:
        pytest.skip(str(error))
    said = linux.run(kernel, initrd, "-cpu", "max")
    proofs = {}
    for line in said.splitlines():
        if line.startswith("PROOF "):
            proof = json.loads(line.removeprefix("PROOF "))
            proofs[proof.pop("name")] = proof
    assert "end" in proofs, said
    assert proofs["supported"]["answer"] is True
    assert proofs["process"]["seen"] == proofs["process"]["wrote"]
    assert proofs["kvm"]["seen"] == proofs["kvm"]["wrote"]
    assert len(proofs["kvm"]["wrote"]) == 8
    assert "6.7" in proofs["protect"]["error"]


@needs_protect
def test_write_protection_shows_what_a_process_wrote():
    orders = [[], [1, 2, 3, 200], [3, 100], [], [0, 239], [100]]
    assert follow(Child(plain), orders) == orders[1:]


@needs_protect
@needs_kvm
def test_write_protection_shows_what_a_kvm_guest_wrote():
    wrote = [sorted(pages) for pages in islice(DEMOS["hot"].passes(), 20)]
    assert follow(Child(kvm), [[]] * 20) == wrote[1:]


# -- recordings ---------------------------------------------------------------------------------


@needs_protect
@boot.needs_qemu
@pytest.mark.parametrize("accelerator", ["tcg", pytest.param("kvm", marks=needs_kvm)])
def test_a_recording_of_qemu_has_the_pages_that_its_guest_writes(accelerator, tmp_path, capsys):
    out = tmp_path / "a.trace"
    options = ["--interval", "100ms", *UNTIL_ENDED, "-o", str(out)]
    always = set(range(boot.FIRST, boot.FIRST + HOT))
    ever = set(range(boot.FIRST, boot.FIRST + boot.PAGES))
    guest = ["-accel", accelerator]
    if accelerator == "kvm":  # where a BIOS takes long on some machines
        guest += boot.firmware(tmp_path)
        always, ever = set(), WRITTEN
    with boot.running(tmp_path, DEMOS["hot"], *guest) as (process, socket):
        pid, regions, notes = ask_qemu(socket)
        assert pid == process.pid
        assert (regions[0].name, regions[0].pages) == ("pc.ram", boot.MEMORY // PAGE)
        assert (
            regions[0].start == find_ram(pid)[0].start == find_ram(pid, size=boot.MEMORY)[0].start
        )
        # Later QEMUs say where every block is, 7.2 only of those that the guest sees as memory.
        rom = "/rom@etc/acpi/tables"
        assert (rom in [region.name for region in regions]) != any(rom in note for note in notes)
        boot.wait_for_program(pid, regions[0])
        with ended_when(out, lambda so_far: len(so_far.epochs) >= 4 and all_pages(so_far) == ever):
            assert run(["record", "process", "--qmp", str(socket), *options]) == 0
        assert process.poll() is None
    said, told = capsys.readouterr()
    assert said == f"{out}\n"
    assert "DMA of passed-through devices" in " ".join(told.split())
    trace = Trace.open(out)
    trace.validate()
    assert trace.unfinished is None
    assert trace.meta.blocks[0].name == "pc.ram"
    assert len(trace.epochs) >= 4
    seen = list(pages_of(trace).values())
    assert all(pages <= ever for pages in seen)
    assert set().union(*seen) == ever
    # Before each of its other pages it writes these. A guest without a turn writes none.
    passes = [pages for pages in seen if len(pages - always) > 1]
    assert passes
    assert all(always <= pages for pages in passes)
    zero = next(trace.rows("zero"))
    at_start = zero.count[zero.t == 0].sum()
    assert trace.meta.pages // 2 < at_start < trace.meta.pages - boot.PAGES // 2
    assert run(["replay", str(out), "--bandwidth", "64MiB/s"]) == 0


@needs_protect
@boot.needs_qemu
def test_a_killed_recorder_leaves_a_trace_and_a_guest_that_can_be_recorded_again(tmp_path):
    out = tmp_path / "a.trace"
    command = [sys.executable, "-m", "analyses.commands", "record", "process", "-o", str(out)]
    with boot.running(tmp_path, DEMOS["sweep"]) as (process, socket):
        boot.wait_for_program(process.pid, ask_qemu(socket)[1][0])
        options = ["--pid", str(process.pid), "--interval", "50ms"]
        recorder = subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL)
        written = set(range(boot.FIRST, boot.FIRST + boot.PAGES))
        wait_until(
            lambda: (
                recorder.poll() is not None
                or (out.exists() and all_pages(Trace.open(out)) == written)
            )
        )
        assert recorder.poll() is None
        recorder.kill()
        recorder.wait()
        killed = Trace.open(out)
        killed.validate()
        assert killed.unfinished
        assert all_pages(killed) == written
        options += ["--force", *UNTIL_ENDED]
        with ended_when(out, lambda so_far: all_pages(so_far) == written):
            assert run(["record", "process", *command[5:], *options]) == 0
        again = Trace.open(out)
        assert again.unfinished is None
        assert all_pages(again) == written


@needs_protect
@pytest.mark.parametrize("pauses", [False, True])
def test_a_recording_ends_with_its_process(pauses, tmp_path, monkeypatch):
    """And with a tracker for which the process must stand still, that time is left out."""
    monkeypatch.setattr(WriteProtect, "pauses", pauses)
    text = (
        "import select\n"
        "m = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "input(), print(np.frombuffer(m, np.uint8).ctypes.data, flush=True)\n"
        "while not select.select([0], [], [], 0.002)[0]: m[8192] = m[8192] + 1 & 255\n"
    )
    with Helper(text) as helper:
        start = int(helper.say())
        regions = find_ram(helper.pid, [f"{start:x}-{start + (4 << 20):x}"])
        # One page an epoch at most: told to end when enough of them have it.
        told = []

        def watch(_ns, pages):
            if pages > 5 and not told:
                told.append(helper.tell())

        wanted = Wanted(tmp_path / "a.trace", watch=watch)
        begin = time.monotonic_ns()
        recorded = record_process(wanted, helper.pid, regions, interval_ns=50_000_000)
        took = time.monotonic_ns() - begin
        assert recorded.ended == "the process ended"
        assert helper.end() == 0
    trace = Trace.open(recorded.out)
    trace.validate()
    assert len(trace.epochs) > 4
    seen = list(pages_of(trace).values())
    assert sum(pages == {2} for pages in seen) > 4
    assert all(pages <= {2} for pages in seen)
    source = trace.meta.source
    assert (source["paused_ns"] > 0) is pauses
    assert source["longest_pause_ns"] <= source["paused_ns"]
    assert trace.meta.duration_ns + source["paused_ns"] < took


@needs_protect
def test_a_recorder_that_is_held_up_looks_at_what_was_written_meanwhile(tmp_path):
    """And is over when its epochs are as long as was asked for."""
    text = (
        "m = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "print(np.frombuffer(m, np.uint8).ctypes.data, flush=True)\n"
        "for _ in sys.stdin: m[8192] = 1; print('written', flush=True)\n"
    )
    with Helper(text) as helper:
        start = int(helper.say())
        regions = find_ram(helper.pid, [f"{start:x}-{start + (4 << 20):x}"])
        held = []

        def watch(ns, _pages):
            if ns > 0 and not held:
                held.append(helper.say())
                time.sleep(0.3)  # until the duration is over

        wanted = Wanted(tmp_path / "a.trace", duration_ns=200_000_000, watch=watch)
        recorded = record_process(wanted, helper.pid, regions, interval_ns=50_000_000)
    assert held == ["written"]
    assert recorded.ended == "the duration is over"
    assert recorded.duration_ns >= 200_000_000
    assert all_pages(Trace.open(recorded.out)) == {2}


# -- its parts ----------------------------------------------------------------------------------


def test_a_stopped_process_stands_still_and_goes_on():
    text = """
counts = np.zeros(4, np.int64)
signals = []
signal.signal(signal.SIGUSR1, lambda *_: signals.append(1))
def work(i):
    while True: counts[i] += 1
for i in range(3): threading.Thread(target=work, args=(i,), daemon=True).start()
for line in sys.stdin: print(int(counts.sum()), len(signals), flush=True)
"""
    with Helper(text) as helper:
        assert int(helper.say().split()[0]) >= 0
        for _ in range(20):
            with stopped(helper.pid):
                os.kill(helper.pid, signal.SIGUSR1)
                states = [
                    (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
                    for task in Path(f"/proc/{helper.pid}/task").iterdir()
                ]
                assert states == ["t"] * len(states)
                assert len(states) >= 4
            time.sleep(0.01)
        before = int(helper.say().split()[0])
        wait_until(lambda: int(helper.say().split()[0]) > before)
        assert int(helper.say().split()[1]) >= 1
    with pytest.raises(ProcessLookupError), stopped(helper.pid):
        pass


@needs_protect
def test_a_process_confined_by_seccomp_is_left_alone():
    text = """
import ctypes, struct
allow = struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)
code = ctypes.create_string_buffer(allow)
program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0
for line in sys.stdin: print("alive", flush=True)
"""
    with Helper(text) as helper:
        assert helper.say() == "alive"
        with pytest.raises(RecordError, match="seccomp"):
            WriteProtect(helper.pid, find_ram(helper.pid))
        assert helper.say() == "alive"


@needs_protect
def test_memory_under_another_userfaultfd_is_refused():
    child = Child(plain)
    first = WriteProtect(child.pid, regions_of(child))
    first._inside = None  # left behind, as by a killed recorder
    second = WriteProtect(child.pid, regions_of(child))
    child.do([5])
    second.start()
    child.do([7])
    assert [part.tolist() for part in second.harvest()] == [[7]]
    part = find_ram(child.pid, [f"{child.address:x}-{child.address + PAGE:x}"])
    whole = [*part, *find_ram(child.pid, ["heap"])]
    with pytest.raises(RecordError, match="another userfaultfd"):
        WriteProtect(child.pid, whole)


def test_zero_pages_are_told_without_touching_what_was_never_touched():
    text = """
private = mmap.mmap(-1, 64 << 12, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
fd = os.memfd_create("guest-ram")
os.ftruncate(fd, 64 << 12)
shared = mmap.mmap(fd, 64 << 12)
for memory in (private, shared):
    memory[0:8192] = bytes(8192)  # touched, and zero
    memory[3 << 12] = 1
    memory[(5 << 12) - 1] = 1
place = np.frombuffer(private, np.uint8).ctypes.data
for line in sys.stdin: print(place, os.fstat(fd).st_blocks, flush=True)
"""
    with Helper(text) as helper:
        place, blocks = map(int, helper.say().split())
        regions = find_ram(helper.pid, [f"{place:x}-{place + (64 << 12):x}", "memfd:guest-ram"])
        assert [region.backing for region in regions] == ["anonymous", "shared"]
        contents = Contents(helper.pid, regions)
        pagemap = os.open(f"/proc/{helper.pid}/pagemap", os.O_RDONLY)
        zero = contents.all_zero(pagemap)
        assert contents.unreadable == []
        assert np.flatnonzero(~zero).tolist() == [3, 4, 67, 68]
        some = np.array([0, 3, 4, 20, 66, 67, 127])
        found = np.concatenate(list(contents.zero(some))).tolist()
        assert found == [0, 20, 66, 127]
        assert helper.say().split()[1] == str(blocks)
        assert sum(len(entries) for _, entries in read_pagemap(pagemap, regions)) == 128
        os.close(pagemap)
        contents.close()


def test_the_ram_is_found_by_name_by_address_and_by_size():
    text = """
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
def reserve(size):  # apart from its neighbours
    whole = mmap.mmap(-1, size + (4 << 20), flags=flags)
    return whole
sizes = [int(word) << 20 for word in sys.argv[1:]]
kept = []
for size in sizes:
    fd = os.memfd_create(f"ram-{size >> 20}")
    os.ftruncate(fd, size)
    kept.append(mmap.mmap(fd, size))
for line in sys.stdin: print("up", flush=True)
"""
    with Helper(text, "128", "80", "96", "96") as helper:
        assert helper.say() == "up"
        pid = helper.pid
        (ram,) = find_ram(pid, size=80 << 20)
        assert ram.pages == 80 << 8
        low, high = find_ram(pid, size=208 << 20)
        assert (low.pages, high.pages, high.first_page) == (128 << 8, 80 << 8, 128 << 8)
        both = find_ram(pid, ["ram-80", f"{low.start:x}-{low.end:x}"])
        assert [(r.first_page, r.start) for r in both] == [(0, ram.start), (80 << 8, low.start)]
        for arguments, why in (
            ({"size": 96 << 20}, "2 mappings of that size"),
            ({"size": 12345 << 12}, "no mapping of"),
            ({"named": ["nothing"]}, "no mapping of process"),
            ({"named": ["1000-2000"]}, "not whole pages"),
            ({"named": [f"{low.start:x}-{low.start + 5:x}"]}, "not whole pages"),
        ):
            with pytest.raises(UsageError, match=why):
                find_ram(pid, **arguments)
    with pytest.raises(UsageError, match="there is none"):
        find_ram(helper.pid)


@pytest.mark.parametrize(("told", "found"), [("80", 80), ("size=81920k,slots=2", 80), ("7G", 96)])
def test_a_qemus_own_command_line_tells_the_ram_s_size(told, found):
    """The largest mapping need not be the RAM: emulators keep large tables."""
    text = (
        "import mmap, sys\n"
        "kept = [mmap.mmap(-1, mb << 20, flags=mmap.MAP_SHARED) for mb in (96, 80)]\n"
        "for line in sys.stdin: print('up', flush=True)\n"
    )
    process = subprocess.Popen(
        ["qemu-system-x86_64", "-S", "-c", text, "-m", told],
        executable=Path(sys.executable).resolve(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHOME": sys.base_prefix},
    )
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "up\n"
    (ram,) = find_ram(process.pid)
    assert ram.pages == found << 8
    process.communicate()


def test_what_does_not_fit_is_said(tmp_path, capsys, monkeypatch):
    out = ["-o", str(tmp_path / "a.trace"), "--duration", "1s"]
    for arguments, code, why in (
        ([], 2, "nothing to record"),
        (["--pid", "1", "--qmp", "x"], 2, "leave --pid out"),
        (["--pid", "1", "--ram", "x", "--ram-size", "1GiB"], 2, "pass one of them"),
        (["--pid", str(os.getpid()), "--ram-size", "1 apple"], 2, "is no size"),
        (["--qmp", str(tmp_path / "none")], 2, "no QMP monitor answers"),
        (["--pid", str((1 << 22) + 1)], 2, "there is none"),
    ):
        assert run(["record", "process", *arguments, *out]) == code
        assert why in capsys.readouterr().err
    with Helper(ANSWERS) as helper:
        assert helper.say() == "up"
        ram = find_ram(helper.pid)
        for options, why in (({"method": "x"}, "no method"), ({"interval_ns": 0}, "interval")):
            with pytest.raises(UsageError, match=why):
                record_process(Wanted(tmp_path / "a.trace"), helper.pid, ram, **options)
        if not softdirty.supported():
            with pytest.raises(RecordError, match="CONFIG_MEM_SOFT_DIRTY"):
                record_process(Wanted(tmp_path / "a.trace"), helper.pid, ram, method="soft-dirty")
    assert list(tmp_path.iterdir()) == []


def test_sizes():
    assert size("4GiB", "x") == 4 << 30
    assert size("1.5 kB", "x") == 1500
    for text in ("4G", "0B", "0.3B", "GiB", ""):
        with pytest.raises(UsageError, match="--ram-size"):
            size(text, "--ram-size")
