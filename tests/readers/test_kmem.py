"""The free list out of allocations and frees: real texts, and a slow model beside random ones."""

from __future__ import annotations

import gzip
import random
import re
from pathlib import Path

import pytest

from tests.analyses.traces import write as write_trace
from tests.readers.tables import opened, table, written
from tracer import Block, Meta, TraceError, UsageError
from tracer.readers import import_kmem

DATA = Path(__file__).parent / "data" / "kernel"
US = 1000
EVENT = re.compile(r"(\d+)\.(\d{6,9}): +(?:kmem:)?mm_page_(alloc|free): .*pfn=(\S+) order=(\d+)")


def event(us, what, pfn, order=0, *, text=None):
    text = text or f"page=00000000520ea3c6 pfn=0x{pfn:x} order={order}"
    return f" gzip x-128 [000] ..... 8.{us:06d}: mm_page_{what}: {text} migratetype=1\n"


def run(tmp_path, text, **options):
    (tmp_path / "text").write_text(text)
    return import_kmem(tmp_path / "text", out=tmp_path / "t.trace", force=True, **options)


def refused(tmp_path, text, *parts, kind=TraceError, **options):
    with pytest.raises(kind) as error:
        run(tmp_path, text, **options)
    for part in parts:
        assert part in str(error.value), error.value
    assert not (tmp_path / "t.trace").exists()


def told(pages):
    """A set in two numbers: all sets of a guest's free pages do not fit into memory."""
    return len(pages), hash(frozenset(pages))


def course(trace, keep=frozenset):
    """The pages that are free at each time, by the trace, or what `keep` makes of them."""
    free: set[int] = set()
    states = {}
    for t, page, count, is_free in table(trace, "freelist"):
        run_of = set(range(page, page + count))
        assert run_of.isdisjoint(free) if is_free else run_of <= free
        free = free | run_of if is_free else free - run_of
        states[t] = keep(free)
    return states


def slow(events, start=None, keep=frozenset):
    """What `course` should be: events are (t, taken, first, count)."""
    free: set[int] = set()
    seen: set[int] = set()
    for _, taken, first, count in events:
        for page in range(first, first + count):
            if page not in seen and taken:
                free.add(page)
            seen.add(page)
    free |= (start or set()) - seen
    states = {0: keep(free)} if free else {}
    for t, taken, first, count in events:
        pages = set(range(first, first + count))
        after = free - pages if taken else free | pages
        if after != free:
            states[t] = keep(after)
        free = after
    return states


def test_a_real_guest_with_its_sample(tmp_path):
    source = DATA / "kmem.guest-ftrace.txt.gz"
    report = import_kmem(source, out=tmp_path / "t.trace")
    trace = opened(report.out)
    with gzip.open(source, "rt") as file:
        lines = file.readlines()
    found = [m for m in map(EVENT.search, lines) if m]
    zero = min(int(m[1] + m[2]) for m in found) - 1
    events = [
        ((int(m[1] + m[2]) - zero) * US, m[3] == "alloc", int(m[4], 16), 1 << int(m[5]))
        for m in found
    ]
    start: set[int] = set()
    for line in lines[: lines.index("FREELIST done\n")]:
        if run_of := re.fullmatch(r"([0-9a-f]+)\+([0-9a-f]+)\n", line):
            start |= set(range(int(run_of[1], 16), int(run_of[1], 16) + int(run_of[2], 16)))
    assert len(start) > 40_000
    assert course(trace, told) == slow(events, start, told)
    assert trace.meta.pages == 65536
    assert trace.meta.freelist_resolution == "event"
    # Not one event of a second contradicts the ones before it.
    assert not any("while in use" in note for note in report.notes)


@pytest.mark.parametrize("name", ["kmem.perf.txt.gz", "kmem.trace-cmd.txt.gz"])
def test_real_texts_of_perf_and_trace_cmd(tmp_path, name):
    report = import_kmem(DATA / name, out=tmp_path / "t.trace")
    opened(report.out)
    with gzip.open(DATA / name, "rt") as file:
        found = [m[3] for m in map(EVENT.search, file) if m]
    assert report.read["allocations"] == found.count("alloc")
    assert report.read["frees"] == found.count("free")


def test_random_allocations_and_frees_agree_with_the_slow_model(tmp_path):
    rng = random.Random(3)
    for _ in range(20):
        events, lines = [], []
        for us in range(300):
            taken, order = rng.random() < 0.5, rng.choice([0, 0, 0, 1, 2, 4])
            first = rng.randrange(0, 256 >> order) << order
            if taken and not first:
                continue
            events.append(((us + 1 - (events == [])) * US, taken, first, 1 << order))
            lines.append((us, "alloc" if taken else "free", first, order))
        zero = lines[0][0] - 1
        events = [
            ((us - zero) * US, *rest) for (us, *_), (_, *rest) in zip(lines, events, strict=True)
        ]
        trace = opened(run(tmp_path, "".join(event(*line) for line in lines)).out)
        assert course(trace) == slow(events)


@pytest.mark.parametrize(
    ("text", "pfn"),
    [
        ("page=00000000520ea3c6 pfn=0x2a order=0", 42),
        ("page=0xffffea0000000a80 pfn=42 order=0", 42),
        ("page=0x2a pfn=0x2a order=0", 42),
        ("pfn=0x2a order=0", 42),
        ("page=(nil) pfn=0 order=0", None),
        ("page=0 pfn=0x0 order=9", None),
    ],
)
def test_the_ways_in_which_a_frame_is_printed(tmp_path, text, pfn):
    report = run(tmp_path, event(0, "free", 7) + event(1, "alloc", 0, text=text))
    rows = table(opened(report.out), "freelist")
    taken = [(page, count) for _, page, count, free in rows if not free]
    assert taken == ([(pfn, 1)] if pfn else [])
    assert report.passed_over.get("failed allocations", 0) == (0 if pfn else 1)


def test_events_that_contradict_are_counted_and_make_no_row(tmp_path):
    text = (
        event(0, "free", 8, 1) + event(1, "free", 9) + event(2, "alloc", 8) + event(3, "alloc", 8)
    )
    report = run(tmp_path, text)
    assert course(opened(report.out)) == {US: {8, 9}, 3 * US: {9}}
    assert any(
        note.startswith("1 pages were allocated while in use and 1 freed") for note in report.notes
    )


SAMPLE = "FREELIST begin mono=7.0 end=7.5 real=1.0 pfns=256\n10+8\n20+1\nFREELIST done\n"


def test_a_sample_tells_of_pages_without_an_event(tmp_path):
    text = SAMPLE + event(0, "alloc", 0x10, 1) + event(1, "alloc", 0x30)
    report = run(tmp_path, text)
    assert course(opened(report.out))[0] == {*range(0x10, 0x18), 0x20, 0x30}
    assert any("1 pages were otherwise" in note for note in report.notes)
    later = run(
        tmp_path, event(0, "alloc", 0x10) + SAMPLE.replace("=7.", "=9."), blocks=["ram:0:256"]
    )
    assert course(opened(later.out))[0] == {0x10}
    (tmp_path / "samples").write_text(SAMPLE)
    apart = run(
        tmp_path,
        event(0, "alloc", 0x10, 1) + event(1, "alloc", 0x30),
        freelist=tmp_path / "samples",
    )
    assert course(opened(apart.out))[0] == {*range(0x10, 0x18), 0x20, 0x30}


def dirty_trace(path, **other):
    header = {
        "page_size": 4096, "pages": 512, "duration_ns": 10_000 * US,
        "blocks": (Block("vga", 0, 256), Block("ram", 256, 256)), "resolution": "first-write",
        "source": {"recorder": "ftrace", "clock_zero_ns": 100 * 10**9, "notes": ["one"]},
        "quantum_ns": 1000,
    }  # fmt: skip
    return write_trace(
        path, Meta(**(header | other)),
        dirty=[(5 * US, 300, 2), (900 * US, 301, 1)], epochs=[(600 * US,)], zero=[(0, 0, 4)],
    )  # fmt: skip


def test_put_to_a_trace_of_dirty_pages(tmp_path):
    dirty = dirty_trace(tmp_path / "d.trace")
    text = (
        event(0, "free", 40) + event(100, "alloc", 41) + event(400, "alloc", 40)
        + event(20_000, "free", 41)
    )  # fmt: skip
    report = run(tmp_path, text, dirty=dirty, offset_ns=92 * 10**9 - 50 * US, blocks=["ram:0:256"])
    trace = opened(report.out)
    # 8.0001 s of the guest are 100.00005 s of the host, 50 us into the trace.
    assert course(trace) == {0: {296, 297}, 50 * US: {296}, 350 * US: frozenset()}
    assert written(trace) == [(5 * US, 300), (5 * US, 301), (900 * US, 301)]
    assert trace.epochs.tolist() == [600 * US]
    assert table(trace, "zero") == [(0, 0, 4)]
    assert trace.meta.blocks[1].name == "ram"
    assert trace.meta.freelist_resolution == "event"
    assert trace.meta.source["recorder"] == "ftrace"
    assert "one" in trace.meta.source["notes"]
    assert any("1 events lie after the end" in note for note in report.notes)


def test_what_does_not_fit_a_trace_of_dirty_pages(tmp_path):
    dirty = dirty_trace(tmp_path / "d.trace")
    one = event(0, "free", 40) + event(1, "alloc", 40)
    refused(tmp_path, one, "no event falls into", "--offset", dirty=dirty, blocks=["ram:0:256"])
    refused(tmp_path, one, "does not fit", "vga (256 pages)", kind=UsageError, dirty=dirty,
            blocks=["ram:0:257"])  # fmt: skip
    refused(tmp_path, one, "does not fit", kind=UsageError, dirty=dirty, blocks=["rom:0:1"])
    refused(
        tmp_path, one, "need not stand in", kind=UsageError, dirty=dirty, allocations_write=True
    )
    late = event(0, "free", 40) + event(100, "free", 999)
    refused(tmp_path, late, "line 2", "frame 0x3e7+1", dirty=dirty, offset_ns=92 * 10**9,
            blocks=["ram:0:256"])  # fmt: skip


def test_the_frames_of_a_pc_are_the_first_blocks(tmp_path):
    dirty = dirty_trace(tmp_path / "d.trace", blocks=(Block("pc.ram", 0, 500), Block("x", 500, 12)))
    report = run(tmp_path, event(0, "free", 40) + event(1, "alloc", 40), dirty=dirty,
                 offset_ns=92 * 10**9)  # fmt: skip
    assert any("PC whose RAM is block pc.ram" in note for note in report.notes)
    assert {page for _, page, _, _ in table(opened(report.out), "freelist")} == {40}


def test_allocations_that_stand_in_for_writes(tmp_path):
    text = event(0, "free", 8) + event(5, "alloc", 16, 2)
    trace = opened(run(tmp_path, text, allocations_write=True).out)
    assert written(trace) == [(6 * US, page) for page in (16, 17, 18, 19)]


def test_a_text_without_allocations(tmp_path):
    push = "ring 0: dirty 0x1 reset 0x0 slot 0 offset 0x1 (used 1)"
    text = f" a-1 [0] 8.000001: kvm_dirty_ring_push: {push}\n"
    refused(tmp_path, text, "1 events and none is mm_page_alloc")
    refused(tmp_path, event(0, "free", 1).replace("order=0", "order=x"), "line 1", "cannot be read")
    refused(tmp_path, event(0, "free", 999), "line 1", "--block", blocks=["ram:0:256"])
