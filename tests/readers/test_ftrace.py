"""Kernel traces of dirty pages: real texts of four tracers, and small ones made by hand."""

from __future__ import annotations

import gzip
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.readers.tables import opened, written
from tracer import TraceError, UsageError
from tracer.readers import import_ftrace

DATA = Path(__file__).parent / "data" / "kernel"
US = 1000
S = 10**9


def push(us, page, slot=0, *, head="CPU 0/KVM-7 [001] d..1. ", dirty=1, reset=0):
    fields = f"ring 0: dirty 0x{dirty:x} reset 0x{reset:x} slot {slot} offset 0x{page:x} (used 1)"
    return f" {head} {100 + us // 10**6}.{us % 10**6:06d}: kvm_dirty_ring_push: {fields}\n"


def reset(us, left=0):
    fields = f"ring 0: dirty 0x{0x10 + left:x} reset 0x10 (used {left})"
    return f" qemu-9 [000] ..... {100 + us // 10**6}.{us % 10**6:06d}: kvm_dirty_ring_reset: {fields}\n"  # noqa: E501


def probe(us, text):
    return (
        f" CPU 1/KVM-8 [001] d..1. 100.{us:06d}: mark_page_dirty_in_slot: (0xffffffffc0) {text}\n"
    )


def run(tmp_path, text, **options):
    source = tmp_path / "text"
    source.write_text(text) if isinstance(text, str) else source.write_bytes(text)
    return import_ftrace(source, out=tmp_path / "t.trace", force=True, **options)


def refused(tmp_path, text, *parts, kind=TraceError, **options):
    with pytest.raises(kind) as error:
        run(tmp_path, text, **options)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value), error.value
    assert not (tmp_path / "t.trace").exists()


def by_hand(lines):
    """The pushes of a text, found by other means: (us, slot, page)."""
    pattern = re.compile(
        r"(\d+)\.(\d{6}): +(?:kvm:)?kvm_dirty_ring_push: .* slot (\d+) offset 0x(\w+)"
    )
    for line in lines:
        if found := pattern.search(line):
            yield int(found[1] + found[2]), int(found[3]), int(found[4], 16)


@pytest.mark.parametrize("name", ["ring.perf.txt.gz", "ring.ftrace-tgid.txt.gz"])
def test_a_real_dirty_ring(tmp_path, name):
    report = import_ftrace(DATA / name, out=tmp_path / "t.trace")
    trace = opened(report.out)
    with gzip.open(DATA / name, "rt") as file:
        lines = file.readlines()
    pushes = list(by_hand(lines))
    first = min(pushes)[0] - 1
    assert written(trace) == [((us - first) * US, page) for us, _, page in pushes]
    assert report.read["lines"] == len(lines)
    resets = sum("kvm_dirty_ring_reset" in line for line in lines)
    assert report.read["harvests"] == resets
    assert len(trace.epochs) == resets
    assert trace.meta.resolution == "first-write"
    assert trace.meta.quantum_ns == US


def test_a_real_probe_by_ftrace_and_by_trace_cmd(tmp_path):
    """A guest that writes its pages 1 (once, by KVM) and 2 to 9, and KVM_GET_DIRTY_LOG four times."""  # noqa: E501
    for name, times in (("probe.ftrace.txt.gz", 2), ("probe.trace-cmd.txt.gz", 1)):
        trace = opened(import_ftrace(DATA / name, out=tmp_path / "t.trace", force=True).out)
        assert len(trace.epochs) == 4
        pages = [page for _, page in written(trace)]
        # Two probes were set for the first text.
        assert pages == [p for sweep in range(4) for p in REAL_SWEEP[min(sweep, 1)]
                         for _ in range(times)]  # fmt: skip


REAL_SWEEP = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [2, 3, 4, 5, 6, 7, 8, 9]]


def test_resets_in_a_row_are_one_epoch(tmp_path):
    text = push(0, 1) + reset(10) + reset(500) + push(600, 1) + reset(700) + reset(2000)
    trace = opened(run(tmp_path, text + push(3000, 2)).out)
    assert trace.epochs.tolist() == [501 * US, 701 * US, 2001 * US]
    assert written(trace) == [(1 * US, 1), (601 * US, 1), (3001 * US, 2)]
    assert trace.meta.duration_ns == 3001 * US


def test_entries_that_a_reset_leaves_are_said(tmp_path):
    report = run(tmp_path, push(0, 1) + reset(10, left=3))
    assert any(note.startswith("3 pages were already logged again") for note in report.notes)


def test_slots_and_blocks(tmp_path):
    text = push(0, 5) + push(1, 3, slot=1) + push(2, 0, slot=2)
    slots = ["0:0:0xa0", "1:0xc0:64", "2:0x100000:1MiB"]
    trace = opened(run(tmp_path, text, slots=slots).out)
    assert [(b.name, b.first_page, b.pages) for b in trace.meta.blocks] == [
        ("slot 0", 0, 160), ("slot 1", 160, 64), ("slot 2", 224, 256),
    ]  # fmt: skip
    assert [page for _, page in written(trace)] == [5, 163, 224]
    blocks = ["vga:0xc0:64", "ram:0:0xa0", "ram:0x100000:1MiB"]
    trace = opened(run(tmp_path, text, slots=slots, blocks=blocks).out)
    assert [(b.name, b.first_page, b.pages) for b in trace.meta.blocks] == [
        ("vga", 0, 64), ("ram", 64, 160 + 256),
    ]  # fmt: skip
    assert [page for _, page in written(trace)] == [69, 3, 224]
    without = opened(run(tmp_path, text).out)
    assert [b.name for b in without.meta.blocks] == ["slot 0", "slot 1", "slot 2"]
    assert [page for _, page in written(without)] == [5, 256 + 3, 512]


def test_slots_of_the_second_address_space_show_the_same_memory(tmp_path):
    text = push(0, 5) + push(1, 7, slot=65536)
    report = run(tmp_path, text)
    assert any("address space 1 (SMM)" in note for note in report.notes)
    slots = ["0:0:64", "65536:0:64"]
    trace = opened(run(tmp_path, text, slots=slots, blocks=["ram:0:64"]).out)
    assert written(trace) == [(US, 5), (2 * US, 7)]
    assert trace.meta.pages == 64


def test_pages_outside_the_slots_are_refused_with_their_line(tmp_path):
    text = push(0, 5) + push(1, 0xA0)
    refused(tmp_path, text, "line 2", "page 0xa0 of slot 0", "--slot", slots=["0:0:0xa0"])
    refused(tmp_path, push(0, 5, slot=4), "line 1", "slot 4", slots=["0:0:0xa0"])
    refused(
        tmp_path, text, "line 2", "frame 0xa0", "--block",
        slots=["0:0:0xa1"], blocks=["ram:0:160"],
    )  # fmt: skip
    refused(tmp_path, probe(0, "gfn=0x200"), "line 1", "frame 0x200", blocks=["ram:0:0x200"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slots": ["0:0:0xa0", "1:0x90:5"]}, "overlap"),
        ({"slots": ["0:0:0xa0", "0:0x100:5"]}, "twice"),
        ({"slots": ["zero:0:5"]}, "slot's number"),
        ({"slots": ["0:0"]}, "NAME:FIRST_FRAME:PAGES"),
        ({"slots": ["0:0:0"]}, "empty"),
        ({"blocks": ["ram:0:0xa0"]}, "--slot"),
    ],
)
def test_slots_that_do_not_fit(tmp_path, options, said):
    refused(tmp_path, push(0, 5), said, kind=UsageError, **options)


def test_frames_find_the_hole_of_a_pc(tmp_path):
    text = probe(0, "gfn=0x10") + probe(1, "gfn=0xbfffe") + probe(2, "gfn=0x100001")
    trace = opened(run(tmp_path, text).out)
    assert trace.meta.pages == 0xC0000 + 256
    assert [page for _, page in written(trace)] == [0x10, 0xBFFFE, 0xC0001]
    assert len(trace.meta.blocks) == 1
    text = probe(0, "gfn=0x10") + probe(2, "gfn=0x100001")
    assert opened(run(tmp_path, text).out).meta.pages == 0x80000 + 256


@pytest.mark.parametrize(
    "line",
    [
        "CPU 0/KVM-7 [001] d..1. 100.000009: mark_page_dirty_in_slot: (ffffffffc041e710) gfn=0x2a",
        "CPU 0/KVM-7 ( 77) [001] d..1. 100.000009: p_mark_page_dirty_in_slot_0: (x+0x0/0xb0 [kvm]) slot=0 gfn=42",  # noqa: E501
        "CPU 0/KVM  7 [001] 100.000009000: probe:mark_page_dirty_in_slot: (ffff) base_gfn=0x9 gfn=0x2a",  # noqa: E501
        "CPU 0/KVM 7/8 [001] 100.000009:     1  probe:mark_page_dirty_in_slot: (ffff) gfn=0x2A id=3",  # noqa: E501
        "CPU 0/KVM-7 0d..1.   100.000009: mark_page_dirty_in_slot:   (ffff) gfn=0x2a",
        "CPU 0/KVM-7 [001] ...1. 100.000009: mark_page_dirty_in_slot(kvm=0x1, memslot=0x2, gfn=0x2a) <-x",  # noqa: E501
        "100.000009: mark_page_dirty_in_slot: gfn=42\r",
    ],
)
def test_the_ways_in_which_tracers_print_a_line(tmp_path, line):
    trace = opened(run(tmp_path, line + "\n", blocks=["ram:0:64"]).out)
    assert [page for _, page in written(trace)] == [42]
    assert trace.meta.source["clock_zero_ns"] in (100 * S + 8 * US, 100 * S + 9 * US - 1)


def two_guests(head_one, head_two, *resets):
    return (
        push(1, 3, head=head_one) + push(2, 9, head=head_two) + push(3, 4, head=head_one)
        + "".join(resets)
    )  # fmt: skip


ONE, TWO = "CPU 0/KVM-71 (   70) [001] d..1.", "CPU 0/KVM-81 (   80) [000] d..1."


def test_a_trace_of_several_guests_is_refused_or_one_is_chosen(tmp_path):
    text = two_guests(ONE, TWO, reset(5).replace("qemu-9", "qemu-70 (     70)"),
                      reset(7).replace("qemu-9", "qemu-80 (     80)"))  # fmt: skip
    refused(tmp_path, text, "events of 2 processes", "70 (CPU 0/KVM, 2 pages)",
            "80 (CPU 0/KVM, 1 pages)", "--pid", kind=UsageError)  # fmt: skip
    report = run(tmp_path, text, pids=[70])
    assert written(opened(report.out)) == [(1 * US, 3), (3 * US, 4)]
    assert opened(report.out).epochs.tolist() == [5 * US]
    assert report.passed_over["events of other pids"] == 2
    assert report.read["pages dirtied"] == 2
    assert [page for _, page in written(opened(run(tmp_path, text, pids=[81]).out))] == [9]
    assert len(written(opened(run(tmp_path, text, pids=[70, 80]).out))) == 3
    (tmp_path / "t.trace").rename(tmp_path / "kept")
    refused(tmp_path, text, "no event of pid 7; there are 70 (", pids=[7], kind=UsageError)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("qemu-system-x86  71 [001]", "qemu-system-x86  81 [000]"),  # perf's
        ("CPU 0/KVM-71 (-------) [001] d..1.", "my [odd] vm-81 (-------) [000] d..1."),
        ("q-71 [001] d..1.", "q-81 [000] d..1."),
    ],
)
def test_two_threads_at_one_ring_are_of_two_guests(tmp_path, one, two):
    text = two_guests(one, two)
    refused(tmp_path, text, "2 threads write to ring 0", "71 (", "81 (", kind=UsageError)
    assert len(written(opened(run(tmp_path, text, pids=[71]).out))) == 2
    (tmp_path / "t.trace").rename(tmp_path / "kept")
    apart = two_guests(one, two).replace(
        f"{two} 100.000002: kvm_dirty_ring_push: ring 0",
        f"{two} 100.000002: kvm_dirty_ring_push: ring 1",
    )
    report = run(tmp_path, apart)
    assert len(written(opened(report.out))) == 3
    assert any("no processes but 2 threads" in note for note in report.notes)


def test_perf_with_pid_and_tid(tmp_path):
    text = two_guests("CPU 0/KVM 70/71 [001]", "CPU 0/KVM 80/81 [000]")
    refused(tmp_path, text, "events of 2 processes", "70 (CPU 0/KVM", kind=UsageError)
    assert len(written(opened(run(tmp_path, text, pids=[80]).out))) == 1


def test_probes_of_threads_whose_processes_are_not_named(tmp_path):
    text = probe(1, "gfn=0x3") + probe(2, "gfn=0x4").replace("KVM-8", "KVM-9")
    report = run(tmp_path, text)
    assert any("no processes but 2 threads, 8 (CPU 1/KVM" in note for note in report.notes)
    assert [page for _, page in written(opened(run(tmp_path, text, pids=[9]).out))] == [4]
    tagged = text.replace("KVM-8", "KVM-8 (8)").replace("KVM-9", "KVM-9 (9)")
    (tmp_path / "t.trace").rename(tmp_path / "kept")
    refused(tmp_path, tagged, "events of 2 processes", kind=UsageError)


def test_lines_a_little_out_of_order_are_put_in_order(tmp_path):
    """Property: any shuffle within 100 ms gives the rows of the sorted text."""
    rng = random.Random(7)
    times = sorted(rng.sample(range(10**6), 500))
    lines = [(us, push(us, us % 64)) for us in times]
    wanted = run(tmp_path, "".join(line for _, line in lines))
    rows = written(opened(wanted.out))
    shuffled = sorted(lines, key=lambda one: one[0] + rng.random() * 90_000)
    assert shuffled != lines
    report = run(tmp_path, "".join(line for _, line in shuffled))
    assert written(opened(report.out)) == rows
    assert any("put in order" in note for note in report.notes)


def test_a_time_that_goes_far_back_is_refused_with_its_line(tmp_path):
    lines = [push(us, 1) for us in range(0, 400_000, 1000)]
    # More than a chunk, so that what came before has been settled.
    text = "".join(lines) * 1 + "# filler\n" * 500_000 + push(1, 2)
    refused(tmp_path, text, f"line {len(lines) + 500_001}", "100 ms")


def test_other_events_comments_and_what_tracers_say(tmp_path):
    text = (
        "# tracer: nop\n# entries-in-buffer/entries-written: 5/12   #P:4\ncpus=4\n\n"
        " x-1 [000] 100.5: short: x\n"
        + " x y-1 [000] 100.500000: sched_switch: prev=1\n" * 3
        + "CPU:2 [LOST 30 EVENTS]\nCPU:3 [4 EVENTS DROPPED]\nLost 5 events\n"
        + push(600_000, 1)
    )
    report = run(tmp_path, text)
    assert report.passed_over == {"sched_switch": 3, "lines that are no events": 2}
    assert any("dropped 46 events" in note for note in report.notes)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        ("hello\nworld\n", ["line 1", "perf script"]),
        ("PERFILE2\x00\x01\x02\n", ["line 1", "perf script"]),
        (" x-1 [000] 100.000001: sched_switch: prev=1\n", ["1 events and none", "sched_switch"]),
        (push(0, 1) + push(1, 1).replace("0x1 (", "0xzz ("), ["line 2", "cannot be read"]),
        (push(0, 1).replace("100.000000", "123456789"), ["line 1", "without a time"]),
        (probe(0, "flags=1"), ["line 1", "cannot be read"]),
        (push(0, 1) + "x\x00\x01y\n", ["line 2"]),
        (probe(0, "gfn=0xfffffffffff"), ["no guest has that much"]),
        ("x" * (2 << 20), ["more than 1 MiB"]),
        (
            " x-1 [000] 100.000001: mm_page_free: page=0x1 pfn=0x1 order=0\n",
            ["dirtylog import kmem"],
        ),
    ],
)
def test_what_is_no_text_of_a_tracer(tmp_path, text, parts):
    refused(tmp_path, text, *parts)


def test_a_missing_file(tmp_path):
    with pytest.raises(TraceError, match="cannot be opened"):
        import_ftrace(tmp_path / "none", out=tmp_path / "t.trace")


def test_compressed_and_cut_input(tmp_path):
    text = "".join(push(us, us % 50) for us in range(20_000)).encode()
    whole = written(opened(run(tmp_path, text).out))
    assert written(opened(run(tmp_path, gzip.compress(text)).out)) == whole
    halves = gzip.compress(text[:500_000]) + gzip.compress(text[500_000:])
    assert written(opened(run(tmp_path, halves).out)) == whole
    cut = run(tmp_path, gzip.compress(text)[:-5000])
    assert "breaks off" in cut.cut[0]
    found = written(opened(cut.out))
    assert found == whole[: len(found)]
    plain = run(tmp_path, text[:-10])
    assert "last line is cut short" in plain.cut[0]
    assert written(opened(plain.out)) == whole[:-1]


def test_zstd_input(tmp_path):
    import pyarrow as pa

    text = b"".join(push(us, us % 50).encode() for us in range(20_000))
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text)
    packed = sink.getvalue().to_pybytes()
    assert packed[:4] == b"\x28\xb5\x2f\xfd"
    whole = written(opened(run(tmp_path, text).out))
    assert written(opened(run(tmp_path, packed).out)) == whole
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    shutil.rmtree(tmp_path / "t.trace")
    refused(tmp_path, bytes(damaged), "text")
    refused(tmp_path, packed[:200], "zstd", "runcated")
    text = b"".join(push(us, us * us % 5000).encode() for us in range(60_000))
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text)
    cut = run(tmp_path, sink.getvalue().to_pybytes()[:-2000])
    assert "breaks off" in cut.cut[0]
    assert 1000 < len(written(opened(cut.out))) < 60_000


def test_nanoseconds(tmp_path):
    text = " a-1 [000] 7.000000010: kvm_dirty_ring_push: ring 0: dirty 0x1 reset 0x0 slot 0 offset 0x1\n"  # noqa: E501
    trace = opened(run(tmp_path, text).out)
    assert trace.meta.quantum_ns == 1
    assert written(trace) == [(1, 1)]


def test_perf_on_this_machine(tmp_path):
    """The line of `perf.sh kmem`, on one process: what perf prints now is read."""
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    data = tmp_path / "perf.data"
    events = ["-e", "kmem:mm_page_alloc", "-e", "kmem:mm_page_free"]
    made = subprocess.run(
        [perf, "record", "-q", "-o", data, *events, "--", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"perf may not trace here: {made.stderr.strip().splitlines()[-1:]}")
    text = subprocess.run([perf, "script", "--ns", "-i", data], capture_output=True, check=True)
    from tracer.readers import import_kmem

    (tmp_path / "text").write_bytes(text.stdout)
    report = import_kmem(tmp_path / "text", out=tmp_path / "k.trace")
    assert report.read["lines"] == text.stdout.count(b"\n")
    assert report.read["allocations"] + report.read["frees"] == report.read["lines"]
    assert opened(report.out).meta.quantum_ns == 1
