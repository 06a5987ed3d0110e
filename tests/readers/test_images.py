"""An epoch a file: bitmaps of a real KVM, sparse files, dumps of a real CRIU, page ranges."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import struct
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.readers.tables import opened, table, written
from tracer import TraceError, UsageError
from tracer.readers import (
    import_bitmaps,
    import_criu,
    import_firecracker,
    import_kmem,
    import_page_ranges,
)
from tracer.readers.bit_runs import bit_runs

DATA = Path(__file__).parent / "data"
S = 10**9
MS = 10**6


def refused(tmp_path, call, *parts, kind=TraceError):
    with pytest.raises(kind) as error:
        call()
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value), error.value
    assert not (tmp_path / "t.trace").exists()


def stamp(path, seconds):
    os.utime(path, ns=(seconds * S, seconds * S))


# --- bitmaps


def bitmap(path, pages, words=4, at=None):
    bits = 0
    for page in pages:
        bits |= 1 << page
    path.write_bytes(bits.to_bytes(8 * words, "little"))
    if at is not None:
        stamp(path, at)
    return path


def bitmaps(tmp_path, paths, **options):
    return import_bitmaps(paths, out=tmp_path / "t.trace", force=True, **options)


def test_bitmaps_of_a_real_kvm(tmp_path):
    """A guest that writes its pages 2 to 9 between any two KVM_GET_DIRTY_LOG; page 1 is its code."""  # noqa: E501
    report = bitmaps(tmp_path, [DATA / "bitmaps"], interval_ns=100 * MS)
    trace = opened(report.out)
    assert written(trace) == [
        (100 * MS * (n + 1), page) for n in range(4) for page in range(1 if n == 0 else 2, 10)
    ]
    assert trace.epochs.tolist() == [100 * MS, 200 * MS, 300 * MS, 400 * MS]
    assert trace.meta.resolution == "epoch"
    assert trace.meta.pages == 256


def test_texts_that_lie_beside_files_are_left_out_and_said(tmp_path, holes):
    """Of a folder; a text that is named, or that is all there is, is read or refused as ever."""
    about = "How these were made.\n" * 9
    for name in ("bits", "snaps", "scans", "texts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(about)
    (tmp_path / "texts" / "README.md").unlink()
    (tmp_path / "texts" / "scans.txt").write_text("1 1000-2000\n2 1000-2000\n")
    for number in (1, 2):
        bitmap(tmp_path / "bits" / f"epoch-{number}.bin", [1, 2])
        snapshot(tmp_path / "snaps" / f"diff{number}", 64, {number: 1})
        (tmp_path / "scans" / f"scan.{number}").write_bytes(struct.pack("<QQQ", 4096, 8192, 2))
    for make, name in (
        (import_bitmaps, "bits"),
        (import_firecracker, "snaps"),
        (import_page_ranges, "scans"),
    ):
        folder = tmp_path / name
        report = make([folder], out=tmp_path / "a.trace", times="names", interval_ns=S, force=True)
        assert report.notes.count(f"{folder / 'README.md'} is text: left out") == 1
        assert opened(report.out).epochs.tolist() == [S, 2 * S]
        alone = [folder / "README.md"]
        with pytest.raises(TraceError, match=r"README\.md"):
            make(alone, out=tmp_path / "b.trace", interval_ns=S)
    texts = import_page_ranges([tmp_path / "texts"], out=tmp_path / "a.trace", force=True)
    assert written(opened(texts.out)) == [(S, 0)]
    (tmp_path / "bits" / "epoch-3.bin").write_text(about)
    with pytest.raises(TraceError, match=r"epoch-3\.bin.*is text"):
        bitmaps(tmp_path, [tmp_path / "bits"], interval_ns=S)


def test_names_of_qemu_dpt(tmp_path):
    """The first file has all bits of RAM set, and the order is that of the seconds."""
    folder = tmp_path / "in"
    folder.mkdir()
    bitmap(folder / "qemu.bm-77.1434530586", [3])
    bitmap(folder / "qemu.bm-77.999", range(250))
    bitmap(folder / "qemu.bm-77.1434530590", [4, 200])
    trace = opened(bitmaps(tmp_path, [folder]).out)
    zero = 999
    assert written(trace) == [
        ((1434530586 - zero) * S, 3), ((1434530590 - zero) * S, 4), ((1434530590 - zero) * S, 200),
    ]  # fmt: skip
    bitmap(folder / "qemu.bm-78.1434530590", [4, 200])
    with pytest.raises(TraceError, match="pids 77, 78"):
        bitmaps(tmp_path, [folder])


def test_times_by_names_mtimes_and_interval(tmp_path):
    paths = [bitmap(tmp_path / f"e-{n}.bin", [n], at=1000 + n * n) for n in (8, 9, 10)]
    names = opened(bitmaps(tmp_path, paths, times="names", unit_ns=MS).out)
    assert written(names) == [(1 * MS, 8), (2 * MS, 9), (3 * MS, 10)]
    mtimes = opened(bitmaps(tmp_path, paths).out)
    assert written(mtimes) == [(17 * S, 8), (34 * S, 9), (53 * S, 10)]
    first = opened(bitmaps(tmp_path, paths, times="mtimes", interval_ns=S).out)
    assert written(first) == [(1 * S, 8), (18 * S, 9), (37 * S, 10)]
    folder = tmp_path / "in"
    folder.mkdir()
    for path in paths:
        path.rename(folder / path.name)
    equal = opened(bitmaps(tmp_path, [folder], interval_ns=S).out)
    assert written(equal) == [(1 * S, 8), (2 * S, 9), (3 * S, 10)]


@pytest.mark.parametrize("words", [1 << 15, 1])
def test_random_bitmaps_in_blocks_agree_with_sets(tmp_path, monkeypatch, words):
    monkeypatch.setattr("tracer.readers.bit_runs._WORDS", words)
    rng = random.Random(2)
    for turn in range(10):
        epochs = [sorted(rng.sample(range(64, 640), rng.randint(0, 300))) for _ in range(3)]
        paths = [bitmap(tmp_path / f"b{n}", pages, words=10) for n, pages in enumerate(epochs)]
        if turn % 2:
            paths[1].write_bytes(gzip.compress(paths[1].read_bytes()))
        report = bitmaps(tmp_path, paths, interval_ns=S, blocks=["high:320:320", "low:64:256"])
        trace = opened(report.out)
        wanted = {
            ((n + 1) * S, page - 320 if page >= 320 else 320 + page - 64)
            for n, pages in enumerate(epochs)
            for page in pages
        }
        assert set(written(trace)) == wanted
        assert len(written(trace)) == len(wanted)
        assert [b.name for b in trace.meta.blocks] == ["high", "low"]


def runs_by_hand(data):
    """Return the runs of set bits, found bit by bit."""
    bits = [byte >> i & 1 for byte in data for i in range(8)]
    edges = [i for i, (a, b) in enumerate(pairwise([0, *bits, 0])) if a != b]
    return [(first, end - first) for first, end in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("density", [0, 1, 8, 32, 56, 63, 64])
def test_runs_of_bits_do_not_depend_on_how_the_bytes_come(monkeypatch, density):
    monkeypatch.setattr("tracer.readers.bit_runs._WORDS", 3)
    rng = random.Random(density)
    for _ in range(20):
        words = [sum((rng.randrange(64) < density) << i for i in range(64)) for _ in range(9)]
        data = b"".join(word.to_bytes(8, "little") for word in words)
        cuts = [0, *sorted(rng.sample(range(len(data)), 4)), len(data)]
        parts = list(bit_runs(data[a:b] for a, b in pairwise(cuts)))
        found = [run for first, count in parts for run in zip(first.tolist(), count.tolist())]  # noqa: B905 - equally long
        assert found == runs_by_hand(data)


SLOTS = ["0:0:0xa0", "1:0x100:512"]


def slot_files(folder, epochs, *, name="epoch-{}.slot-{}"):
    """Write bitmaps of slots 0 and 1 of the guest frames of each epoch."""
    for number, frames in enumerate(epochs, 1):
        for slot, first, pages in ((0, 0, 0xA0), (1, 0x100, 512)):
            path = folder / name.format(number, slot)
            path.parent.mkdir(exist_ok=True, parents=True)
            inside = [frame - first for frame in frames if 0 <= frame - first < pages]
            bitmap(path, inside, words=-(-pages // 64), at=1000 + number)


@pytest.mark.parametrize("name", ["epoch-{}.slot-{}", "slot{1}/bm.{0}", "Slot_{1}-{0}.bin"])
def test_a_bitmap_a_slot(tmp_path, name):
    epochs = [{3, 0x9F, 0x100}, {0x101, 0x2FF}, {0}]
    folder = tmp_path / "in"
    slot_files(folder, epochs, name=name)
    where = sorted({path.parent for path in folder.rglob("*") if path.is_file()})
    blocks = ["low:0:0xa0", "high:0x100:512"]
    pages = {
        (n * S, f if f < 0xA0 else f - 0x100 + 0xA0) for n, e in enumerate(epochs, 1) for f in e
    }
    for options in ({"slots": SLOTS}, {"slots": SLOTS, "blocks": blocks}):
        trace = opened(bitmaps(tmp_path, where, times="names", interval_ns=S, **options).out)
        assert set(written(trace)) == pages
        assert trace.meta.pages == 0xA0 + 512
        assert trace.epochs.tolist() == [S, 2 * S, 3 * S]
    whole = opened(bitmaps(tmp_path, where, slots=SLOTS, blocks=["ram:0:0x300"]).out)
    assert {p for _, p in written(whole)} == set().union(*epochs)
    assert trace.meta.source["slots"] == ["0:0x0:160", "1:0x100:512"]
    report = bitmaps(tmp_path, where, interval_ns=S)
    assert "each memory slot is a block" in report.notes[0]
    # 160 pages are 192 bits.
    assert {p for _, p in written(opened(report.out))} == {3, 0x9F, 192, 193, 192 + 511, 0}


def test_slots_that_do_not_fit_their_bitmaps(tmp_path):
    folder = tmp_path / "in"
    slot_files(folder, [{3}, {0x101}])

    def case(*paths, **options):
        options = {"interval_ns": S, "slots": SLOTS} | options
        return lambda: import_bitmaps(paths, out=tmp_path / "t.trace", **options)

    usage = {"kind": UsageError}
    refused(tmp_path, case(folder, slots=SLOTS[:1]), "is of slot 1, of which nothing", **usage)
    refused(tmp_path, case(folder, slots=["0:0:1", "0:1:1"]), "given twice", **usage)
    refused(tmp_path, case(folder, slots=["low:0:1"]), "is no slot's number", **usage)
    refused(tmp_path, case(folder, slots=[], blocks=["ram:0:9"]), "pass --slot too", **usage)
    refused(tmp_path, case(folder, slots=["0:0:0xa0", "1:0x100:513"]), "slot-1", "slot 1 goes up")
    refused(tmp_path, case(folder, slots=["0:0:3", SLOTS[1]]), "bit 3 is set", "beyond the slot")
    refused(tmp_path, case(folder, blocks=["ram:0x100:512"]), "bit 3 is set", "in no block")
    plain = bitmap(tmp_path / "plain", [2])
    refused(tmp_path, case(plain), "does not say which slot it is of", **usage)
    refused(tmp_path, case(folder, plain), "plain", "has no slot-N in its name")
    (folder / "epoch-2.slot-1").unlink()
    refused(tmp_path, case(folder), "epoch-2.slot-0", "has no bitmap of slot 1")
    one = opened(bitmaps(tmp_path, [plain], interval_ns=S, slots=["0:0x100:256"]).out)
    assert one.meta.source["frames"] == ["slot 0:0x100:256"]
    refused_ = case(folder / "epoch-1.slot-0", folder / "epoch-1.slot-0")
    (tmp_path / "t.trace").rename(tmp_path / "kept.trace")
    refused(tmp_path, refused_, "slot 0 of that epoch is")


def test_bitmaps_that_are_none(tmp_path):
    one = bitmap(tmp_path / "b1", [1])
    other = bitmap(tmp_path / "b2", [1], words=5)
    (tmp_path / "odd").write_bytes(b"1234567")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(gzip.compress(bytes(range(256)) * 64)[:-20])
    (tmp_path / "none").mkdir()

    def case(*paths, **options):
        return lambda: import_bitmaps(
            [tmp_path / p for p in paths],
            out=tmp_path / "t.trace",
            **({"interval_ns": S} | options),
        )

    refused(tmp_path, case("b1", "b2"), "b2", "40 bytes", "32")
    refused(tmp_path, case("odd"), "odd", "7 bytes", "64-bit words")
    refused(tmp_path, case("empty"), "empty", "0 bytes")
    refused(tmp_path, case("cut"), "cut", "breaks off")
    refused(tmp_path, case("absent"), "absent", "does not exist")
    refused(tmp_path, case("none"), "holds no file")
    refused(tmp_path, case("b1", blocks=["ram:2:9"]), "b1", "bit 1 is set", "--block")
    refused(tmp_path, case("b1", blocks=["ram:0:257"]), "hold 256 frames")
    refused(tmp_path, case("b1", interval_ns=None), "pass --interval", kind=UsageError)
    stamp(one, 50)
    stamp(other, 50)
    refused(tmp_path, case("b1", "b2", interval_ns=None), "b2", "not later", "--interval")


# --- firecracker


def snapshot(path, pages, data, at=None):
    """A sparse file of `pages` pages with `data`, a byte for each page that it holds."""
    with path.open("wb") as file:
        file.truncate(pages * 4096)
        for page, byte in data.items():
            file.seek(page * 4096)
            file.write(bytes([byte]) * 4096)
    if at is not None:
        stamp(path, at)
    return path


@pytest.fixture
def holes(tmp_path):
    """The tests need a file system that keeps holes of one page."""
    path = snapshot(tmp_path / "probe", 64, {3: 1})
    with path.open("rb") as file:
        start = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
    if (start, end) != (3 * 4096, 4 * 4096):
        pytest.skip("the file system does not keep holes of one page")


def test_diff_snapshots_after_a_full_one(tmp_path, holes):
    base = snapshot(tmp_path / "full", 64, {0: 1, 1: 0, 9: 7}, at=100)
    diffs = [
        snapshot(tmp_path / "diff1", 64, {0: 5, 20: 0, 21: 3}, at=102),
        snapshot(tmp_path / "diff2", 64, {9: 0, 63: 4}, at=105),
        snapshot(tmp_path / "diff3", 64, {}, at=106),
    ]
    trace = opened(import_firecracker(diffs, base=base, out=tmp_path / "t.trace").out)
    assert written(trace) == [
        (2 * S, 0), (2 * S, 20), (2 * S, 21), (5 * S, 9), (5 * S, 63),
    ]  # fmt: skip
    zeros = {(t, p) for t, page, n in table(trace, "zero") for p in range(page, page + n)}
    start = {(0, page) for page in range(64) if page not in (0, 9)}
    assert zeros == start | {(2 * S, 20), (5 * S, 9)}
    assert trace.epochs.tolist() == [2 * S, 5 * S, 6 * S]
    assert trace.meta.resolution == "epoch"
    assert trace.meta.blocks[0].pages == 64


def test_diff_snapshots_alone(tmp_path, holes):
    folder = tmp_path / "in"
    folder.mkdir()
    for n in (2, 10, 1):
        snapshot(folder / f"mem.{n}", 16, {n: n})
    report = import_firecracker([folder], out=tmp_path / "t.trace", interval_ns=250 * MS,
                                blocks=["low:0:4", "high:4:12"])  # fmt: skip
    trace = opened(report.out)
    assert written(trace) == [(250 * MS, 1), (500 * MS, 2), (750 * MS, 10)]
    assert [b.name for b in trace.meta.blocks] == ["low", "high"]
    assert any("no full snapshot" in note for note in report.notes)
    full = snapshot(tmp_path / "f", 4, {0: 1, 1: 1, 2: 1, 3: 1})
    report = import_firecracker([full], out=tmp_path / "t.trace", force=True, interval_ns=S)
    assert any("lost their holes" in note for note in report.notes)


def test_a_page_with_one_byte_is_not_zero(tmp_path, holes):
    path = snapshot(tmp_path / "mem", 16, {1: 0, 2: 0, 5: 0})
    with path.open("r+b") as file:
        file.seek(3 * 4096 - 1)
        file.write(b"x")
    trace = opened(import_firecracker([path], out=tmp_path / "t.trace", interval_ns=S).out)
    assert table(trace, "zero") == [(S, 1, 1), (S, 5, 1)]


def test_snapshots_named_by_their_times(tmp_path, holes):
    files = [snapshot(tmp_path / f"mem-{ms}.diff", 16, {ms: 1}) for ms in (3, 5, 9)]
    call = {"times": "names", "unit_ns": MS}
    trace = opened(import_firecracker(files, out=tmp_path / "t.trace", **call).out)
    assert written(trace) == [(2 * MS, 3), (4 * MS, 5), (8 * MS, 9)]


def test_a_guest_of_more_than_3_gib_has_a_hole_that_its_files_leave_out(tmp_path, holes):
    gib = (1 << 30) // 4096
    files = [
        snapshot(tmp_path / f"m{n}", 4 * gib, {3 * gib - 1: n, 3 * gib + 1: n}) for n in (1, 2)
    ]
    report = import_firecracker(files, out=tmp_path / "t.trace", interval_ns=S)
    trace = opened(report.out)
    assert {page for _, page in written(trace)} == {3 * gib - 1, 3 * gib + 1}
    assert trace.meta.source["frames"] == ["ram:0x0:786432", "ram:0x100000:262144"]
    # A guest's own trace names frames: the one beyond the hole is the file's second page there.
    (tmp_path / "kmem").write_text("".join(
        f" a-1 [000] ..... {s}.000000: mm_page_free: page=0 pfn=0x{pfn:x} order=0\n"
        for s, pfn in ((1, 0xBFFFF), (2, 0x100001))
    ))  # fmt: skip
    both = import_kmem(tmp_path / "kmem", dirty=report.out, out=tmp_path / "b.trace")
    freed = [(t, page) for t, page, _, free, *_ in free_rows(opened(both.out)) if free]
    assert freed == [(S, 3 * gib - 1), (2 * S, 3 * gib + 1)]
    parts = import_firecracker(files, out=tmp_path / "p.trace", interval_ns=S,
                               blocks=[f"b:{2 * gib}:{2 * gib}", f"a:0:{2 * gib}"])  # fmt: skip
    wanted = ["b:0x80000:262144", "b:0x100000:262144", "a:0x0:524288"]
    assert opened(parts.out).meta.source["frames"] == wanted
    arm = import_firecracker(files, out=tmp_path / "a.trace", interval_ns=S, arch="aarch64")
    assert opened(arm.out).meta.source["frames"] == ["ram:0x80000:1048576"]


def free_rows(trace):
    for rows in trace.rows("freelist"):
        yield from zip(
            rows.t.tolist(),
            rows.page.tolist(),
            rows.count.tolist(),
            rows.free.tolist(),
            strict=True,
        )


def test_snapshots_that_are_none(tmp_path):
    snapshot(tmp_path / "a", 16, {1: 1}, at=5)
    snapshot(tmp_path / "b", 17, {1: 1}, at=6)
    (tmp_path / "odd").write_bytes(b"x" * 5000)
    (tmp_path / "empty").write_bytes(b"")

    def case(*paths, **options):
        return lambda: import_firecracker(
            [tmp_path / p for p in paths], out=tmp_path / "t.trace", **options
        )

    refused(tmp_path, case("a", "b"), "b: 68 KiB", "64 KiB")
    refused(tmp_path, case("odd"), "odd: 5,000 bytes", "whole number of pages")
    refused(tmp_path, case("empty"), "empty: 0 bytes")
    refused(tmp_path, case("a"), "--interval", kind=UsageError)
    refused(tmp_path, case("a", interval_ns=1, blocks=["r:0:15"]), "15", "16", kind=UsageError)
    refused(tmp_path, case("a", base=tmp_path / "b"), "64 KiB")
    snapshot(tmp_path / "c", 16, {}, at=5)
    refused(tmp_path, case("a", "c"), "c: its time (mtimes) is not later")
    refused(tmp_path, case("missing", interval_ns=1), "does not exist")


# --- criu


@pytest.fixture
def dumps(tmp_path):
    with tarfile.open(DATA / "criu" / "dumps.tar.gz") as archive:
        archive.extractall(tmp_path / "dumps", filter="data")
    return tmp_path / "dumps"


def test_dumps_of_a_real_criu(tmp_path, dumps):
    """A process that goes on incrementing pages 7r mod 32 and zeroing 33 to 36 of its mapping."""
    report = import_criu([dumps / "3"], out=tmp_path / "t.trace")
    trace = opened(report.out)
    assert trace.epochs.tolist() == [1 * S, 2 * S]
    (base,) = (b.first_page for b in trace.meta.blocks if b.name.startswith("0x7f90"))
    first = [page - base for t, page in written(trace) if t == 1 * S and 0 <= page - base < 64]
    assert {33, 34, 35, 36} <= set(first)
    # The turns in which the others were written follow each other: 23 is the inverse of 7.
    stepped = [page for page in first if page < 32]
    turns = sorted(page * 23 % 32 for page in stepped)
    gaps = [(b - a) % 32 for a, b in zip(turns, turns[1:] + turns[:1], strict=True)]
    assert 5 <= len(turns) < 15
    assert sum(gap != 1 for gap in gaps) == 1
    zeros = {(t, p - base) for t, page, n in table(trace, "zero") for p in range(page, page + n)}
    assert {(1 * S, page) for page in (33, 34, 35, 36)} <= zeros
    assert not any(page in stepped and t == 1 * S for t, page in zeros)
    assert report.read["dumps"] == 3


def test_the_order_given_is_that_of_the_parents(tmp_path, dumps):
    one = import_criu([dumps / "3"], out=tmp_path / "t.trace")
    two = import_criu([dumps / "1", dumps / "2", dumps / "3"], out=tmp_path / "u.trace")
    assert written(opened(one.out)) == written(opened(two.out))


def test_crits_json_says_the_same(tmp_path, dumps):
    binary = written(opened(import_criu([dumps / "3"], out=tmp_path / "t.trace").out))
    for folder in (dumps / "1", dumps / "2", dumps / "3"):
        image = folder / "pagemap-133.img"
        entries = [{"pages_id": 1}]
        for vaddr, pages, flags in by_hand(image.read_bytes()):
            names = "|".join(n for n, bit in
                             [("PE_PARENT", 1), ("PE_LAZY", 2), ("PE_PRESENT", 4)] if flags & bit)  # fmt: skip  # noqa: E501
            entries.append({"vaddr": hex(vaddr), "nr_pages": pages, "flags": names})
        at = image.stat().st_mtime_ns
        image.unlink()
        text = folder / "pagemap-133.json"
        text.write_text(json.dumps({"magic": "PAGEMAP", "entries": entries}))
        os.utime(text, ns=(at, at))
    again = import_criu([dumps / "3"], out=tmp_path / "t.trace", force=True)
    assert written(opened(again.out)) == binary


def varint(file):
    value = shift = 0
    while True:
        byte = file.read(1)[0]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value


def by_hand(data):
    """The entries of a page map, read the slow way: (vaddr, pages, flags)."""
    assert struct.unpack("<II", data[:8]) == (0x54564319, 0x56084025)
    at, found = 8, []
    while at < len(data):
        (size,) = struct.unpack("<I", data[at : at + 4])
        file, fields = io.BytesIO(data[at + 4 : at + 4 + size]), {}
        while file.tell() < size:
            field = varint(file) >> 3
            fields[field] = varint(file)
        found.append((fields[1], fields.get(2, 0), fields.get(4, 0)))
        at += 4 + size
    return found[1:]


def entry(**fields):
    numbers = {"vaddr": 1, "pages": 2, "parent": 3, "flags": 4, "wide": 5}
    body = b""
    for name, value in fields.items():
        body += bytes([numbers[name] << 3])
        rest = value
        while rest > 127:
            body += bytes([rest & 127 | 128])
            rest >>= 7
        body += bytes([rest])
    return struct.pack("<I", len(body)) + body


HEAD = struct.pack("<II", 0x54564319, 0x56084025) + entry(vaddr=1)


def dump(folder, *entries, head=HEAD, name="pagemap-7.img", at=None):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(head + b"".join(entries))
    if at is not None:
        stamp(folder / name, at)
    return folder


def test_old_and_new_fields(tmp_path):
    """in_parent without flags (CRIU 1), and the wide count (CRIU 4)."""
    one = dump(tmp_path / "a", entry(vaddr=0x1000, pages=4, parent=0), at=10)
    two = dump(
        tmp_path / "b", entry(vaddr=0x1000, pages=2, parent=1), entry(vaddr=0x3000, wide=2, flags=4),  # noqa: E501
        at=12,
    )  # fmt: skip
    trace = opened(import_criu([one, two], out=tmp_path / "t.trace").out)
    assert written(trace) == [(2 * S, 2), (2 * S, 3)]
    assert "zero" not in trace or not trace.num_rows("zero")
    cut = import_criu([two], out=tmp_path / "t.trace", force=True, interval_ns=S)
    assert written(opened(cut.out)) == [(1 * S, 2), (1 * S, 3)]
    assert any("parent is not here" in note for note in cut.notes)


def test_dumps_that_are_none(tmp_path):
    good = entry(vaddr=0x1000, pages=4, flags=4)
    a = dump(tmp_path / "a", good, at=10)

    def case(*folders, **options):
        return lambda: import_criu(folders, out=tmp_path / "t.trace", **options)

    refused(tmp_path, case(a), "one full dump alone")
    refused(tmp_path, case(a, tmp_path / "none"), "no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, case(a, tmp_path / "empty"), "holds no pagemap-PID.img")
    bad = dump(tmp_path / "bad", good[:-1], at=11)
    refused(tmp_path, case(a, bad), "byte 14", "cut short")
    magic = dump(tmp_path / "magic", good, head=b"12345678", at=11)
    refused(tmp_path, case(a, magic), "0x34333231", "no page map")
    odd = dump(tmp_path / "odd", entry(vaddr=0x1001, pages=1, flags=4), at=11)
    refused(tmp_path, case(a, odd), "4096-byte pages")
    dump(tmp_path / "two", good, at=11)
    two = dump(tmp_path / "two", good, name="pagemap-8.img", at=11)
    refused(tmp_path, case(a, two), "several processes (7, 8)", kind=UsageError)
    refused(tmp_path, case(a, two, pid=9), "pagemap-9.img")
    (two / "parent").symlink_to("../gone")
    refused(tmp_path, case(two, pid=7), "leads nowhere")
    short = dump(tmp_path / "short", good, at=11)
    (short / "pages-1.img").write_bytes(b"1" * 5000)
    refused(tmp_path, case(a, short), "pages-1.img: 5000 bytes", "16384")
    text = dump(tmp_path / "text", head=b'{"magic": "CORE", "entries": [{}]}', at=11)
    refused(tmp_path, case(a, text), "CORE")
    cut = dump(tmp_path / "cut", head=b'{"magic": "PAGEMAP", "entr', at=11)
    refused(tmp_path, case(a, cut), "crit decode")
    refused(tmp_path, case(a, short, times="names"), "--times", kind=UsageError)


# --- page ranges


def ranges(tmp_path, text, **options):
    (tmp_path / "text").write_text(text)
    return import_page_ranges([tmp_path / "text"], out=tmp_path / "t.trace", force=True, **options)


TEXT = """# scans of a process
10.5 7f0000000000-7f0000002000 written|present
10.6 0x7f0000001000-0x7f0000003000 0x2
10.6 7f0000003000-7f0000004000 present
10.6: 400000-401000 written,pfnzero
11 400000-401000
11.000000001 401000-402000 soft-dirty
"""


def test_ranges_as_text(tmp_path):
    report = ranges(tmp_path, TEXT)
    trace = opened(report.out)
    assert [(b.name, b.pages) for b in trace.meta.blocks] == [
        ("0x400000", 2), ("0x7f0000001000", 2),
    ]  # fmt: skip
    tenth = S // 10
    assert sorted(written(trace)) == [
        (tenth, 0), (tenth, 2), (tenth, 3), (S // 2, 0), (S // 2 + 1, 1),
    ]  # fmt: skip
    assert table(trace, "zero") == [(tenth, 0, 1)]
    assert trace.epochs.tolist() == [tenth, S // 2, S // 2 + 1]
    assert any("1 ranges are neither" in note for note in report.notes)
    first = opened(ranges(tmp_path, TEXT, interval_ns=S).out)
    assert first.epochs.tolist() == [S, S + tenth, S + S // 2, S + S // 2 + 1]
    assert sorted(written(first))[:2] == [(S, 2), (S, 3)]


def test_ranges_as_the_ioctl_gives_them(tmp_path):
    paths = []
    for n, rows in enumerate(
        [[(0x1000, 0x3000, 2)], [(0x2000, 0x3000, 0x22), (0x8000, 0x9000, 8)]]
    ):
        paths.append(tmp_path / f"scan.{n}")
        paths[-1].write_bytes(b"".join(struct.pack("<QQQ", *row) for row in rows))
        stamp(paths[-1], 10 + n)
    trace = opened(import_page_ranges(paths, out=tmp_path / "t.trace").out)
    assert written(trace) == [(S, 0), (S, 1), (2 * S, 1)]
    assert table(trace, "zero") == [(2 * S, 1, 1)]
    assert trace.meta.pages == 2
    one = import_page_ranges(paths[:1], out=tmp_path / "t.trace", force=True, interval_ns=MS)
    assert written(opened(one.out)) == [(MS, 0), (MS, 1)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        ("# nothing\n", ["1 lines and no range"]),
        ("1 1000-2000\nhello\n", ["line 2", "hello"]),
        ("1 1000-1000\n", ["line 1"]),
        ("1 1001-2000\n", ["line 1"]),
        ("1 1000-2000x\n", ["line 1"]),
        ("1000-2000\n", ["line 1"]),
        ("9 1000-2000\n1 1000-2000\n" + "9 1000-2000\n", ["time before"]),
        ("9 1000-2000\n" * 3, ["all ranges are of one scan", "--interval"]),
    ],
)
def test_ranges_that_are_none(tmp_path, text, parts):
    with pytest.raises(TraceError) as error:
        ranges(tmp_path, text)
    for part in parts:
        assert part in str(error.value), error.value


def test_regions_that_are_none(tmp_path):
    def case(data):
        (tmp_path / "scan").write_bytes(data)
        return lambda: import_page_ranges([tmp_path / "scan"], out=tmp_path / "t.trace",
                                          interval_ns=S)  # fmt: skip

    refused(tmp_path, case(struct.pack("<QQQ", 4096, 8192, 2)[:-1]), "23 bytes", "24")
    refused(tmp_path, case(struct.pack("<QQQ", 4096, 4096, 2)), "byte 0", "no range")
    refused(tmp_path, case(struct.pack("<QQQ", 0, 8192, 0) + struct.pack("<QQQ", 1, 8192, 2)),
            "byte 24")  # fmt: skip
    refused(tmp_path, case(np.full(3, 2**63, np.uint64).tobytes()), "byte 0")
