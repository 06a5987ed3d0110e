"""How fast the readers are and what memory they take: `python -m tests.readers.speed [NAME...]`.

Makes an input of each format, true to it but of no real guest, and imports it in a process of its
own. Says MB of input a second of processor time, all threads together and everything included that
an import does (compressing, checking and digesting the trace too); ns a row that was written; and
the most private memory (RssAnon) over what the process had before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tracer import readers

PAGE = 4096
#: Pages of the guests: 4 GiB.
PAGES = 1 << 20
_SEED = 7

Make = Callable[[Path, int], dict[str, Any]]
INPUTS: dict[str, tuple[Callable[..., Any], Make]] = {}


def source(name: str, reader: Callable[..., Any]) -> Callable[[Make], Make]:
    """Name a function that makes about so many bytes of input and returns the import's options."""

    def add(make: Make) -> Make:
        INPUTS[name] = (reader, make)
        return make

    return add


def text(path: Path, size: int, lines: Callable[[int, int], str]) -> None:
    """Write lines of (their number, a random page) up to so many bytes."""
    dice = np.random.default_rng(_SEED)
    number = 0
    with path.open("w") as file:
        while file.tell() < size:
            some = dice.integers(0, PAGES, 20_000).tolist()
            file.write("".join(lines(number + i, page) for i, page in enumerate(some)))
            number += len(some)


def stamp(number: int) -> str:
    """Return a time in seconds, 2 us after that of the number before."""
    return f"{1000 + number // 500_000}.{number % 500_000 * 2:06d}"


def migration(path: Path, size: int, event: Callable[[int, str], str]) -> dict[str, Any]:
    """Write a migration of which every second row is a copy, with a sync now and then."""

    def line(number: int, page: int) -> str:
        turn = number % 200_000
        if turn == 0:
            return event(number, "sync")
        if number % 2:  # the cursor goes over all pages between two syncs
            return event(number, f"save {turn * (PAGES // 200_000) * PAGE:x}")
        return event(number, f"write {page * PAGE:x}")

    text(path, size, line)
    return {"log": path}


@source("qemu", readers.import_qemu)
def qemu(path: Path, size: int) -> dict[str, Any]:
    """Make a trace log of TCG's first writes and of copies."""

    def event(number: int, what: str) -> str:
        kind, _, address = what.partition(" ")
        body = {
            "sync": "migration_bitmap_sync_start ",
            "save": f"ram_save_page pc.ram: offset: 0x{address} host: 0x7fd9c3e00000",
            "write": f"memory_notdirty_write_access 0xffff8b129f406014 ram_addr 0x{address} size 8",
        }[kind]
        return f"20104@{stamp(number)}:{body}\n"

    return migration(path, size, event)


@source("simpletrace", lambda **options: readers.import_qemu(
    read=readers.simpletrace_reader(), **options))  # fmt: skip
def simpletrace(path: Path, size: int) -> dict[str, Any]:
    """Make the same as simpletrace.py prints it."""

    def event(_number: int, what: str) -> str:
        kind, _, address = what.partition(" ")
        return {
            "sync": "migration_bitmap_sync_start 2.000 pid=20104\n",
            "save": f"ram_save_page 2.000 pid=20104 rbname=b'pc.ram' offset=0x{address} host=0x7\n",
            "write": "memory_notdirty_write_access 2.000 pid=20104 vaddr=0xffff8b129f406014 "
            f"ram_addr=0x{address} size=0x8\n",
        }[kind]

    return migration(path, size, event)


@source("ftrace: ring", readers.import_ftrace)
def ring(path: Path, size: int) -> dict[str, Any]:
    """Make perf script's text of a dirty ring."""
    text(path, size, lambda n, page: f" CPU 0/KVM {4711:5d} [001] {stamp(n)}: kvm:kvm_dirty_"
         f"ring_push: ring 0: dirty 0x{n & 0xfff:x} reset 0x0 slot 0 offset 0x{page:x} (used 17)\n"
         )  # fmt: skip
    return {"path": path, "slots": ["0:0:4GiB"]}


@source("ftrace: probe", readers.import_ftrace)
def probe(path: Path, size: int) -> dict[str, Any]:
    """Make ftrace's text of a probe on the dirty log."""
    text(path, size, lambda n, page: f"       CPU 0/KVM-4711    [001] d..1 {stamp(n)}: "
         f"mark_page_dirty_in_slot: (mark_page_dirty_in_slot+0x0/0x110) gfn=0x{page:x}\n"
         )  # fmt: skip
    return {"path": path, "blocks": ["ram:0:4GiB"]}


@source("kmem", readers.import_kmem)
def kmem(path: Path, size: int) -> dict[str, Any]:
    """Make ftrace's text of a guest that takes and frees pages."""

    def line(number: int, page: int) -> str:
        head = f"            load-123     [000] ..... {stamp(number)}: mm_page_"
        if number % 2:
            return f"{head}free: page=00000000deadbeef pfn=0x{page + 1:x} order=0\n"
        tail = "migratetype=0 gfp_flags=GFP_KERNEL|__GFP_ZERO"
        return f"{head}alloc: page=00000000deadbeef pfn=0x{page + 1:x} order=0 {tail}\n"

    text(path, size, line)
    return {"path": path, "blocks": [f"ram:0:{PAGES + 1}"]}


@source("lackey", readers.import_lackey)
def lackey(path: Path, size: int) -> dict[str, Any]:
    """Make Lackey's text: three instructions to a load and a store."""
    dice = np.random.default_rng(_SEED)
    with path.open("w") as file:
        while file.tell() < size:
            some = dice.integers(0, 1 << 14, 20_000).tolist()
            file.write("".join(
                f"I  0401{p:04x},3\nI  0401{p:04x},5\nI  0401{p:04x},4\n L 1ffe{p:04x},8\n"
                f" S {0x4a00000 + p * 1000:08x},8\n" for p in some
            ))  # fmt: skip
    return {"path": path, "ns_per_instruction": Fraction(100)}


def bitmaps(bits: Callable[[Any, int], bytes]) -> Make:
    """Return what makes eight bitmaps, each of so many bytes."""

    def make(path: Path, size: int) -> dict[str, Any]:
        path.mkdir()
        dice = np.random.default_rng(_SEED)
        for epoch in range(8):
            (path / f"{epoch}").write_bytes(bits(dice, size // 64 * 8))
        return {"paths": [path], "interval_ns": 10**9}

    return make


def bits_in_runs(dice: Any, size: int) -> bytes:
    """Return half of the pages, in runs of 64 on the average."""
    edges = np.cumsum(dice.geometric(1 / 64, 8 * size // 48))
    flags = np.zeros(8 * size + 1, np.int8)
    flags[edges[edges < 8 * size]] = 1
    return np.packbits(np.cumsum(flags[:-1]) & 1, bitorder="little").tobytes()


def scattered(share: float) -> Callable[[Any, int], bytes]:
    """Return what sets so many of all pages at random."""
    return lambda dice, size: np.packbits(
        dice.random(8 * size) < share, bitorder="little"
    ).tobytes()


source("bitmaps: half, in runs of 64", readers.import_bitmaps)(bitmaps(bits_in_runs))
source("bitmaps: 1 %, scattered", readers.import_bitmaps)(bitmaps(scattered(0.01)))
source("bitmaps: half, scattered", readers.import_bitmaps)(bitmaps(scattered(0.5)))


@source("firecracker", readers.import_firecracker)
def firecracker(path: Path, size: int) -> dict[str, Any]:
    """Make eight diffs of a third of the pages, a quarter of which are zeros."""
    path.mkdir()
    dice = np.random.default_rng(_SEED)
    pages = 3 * size // 8 // PAGE
    for epoch in range(8):
        with (path / f"{epoch}").open("wb") as file:
            file.truncate(pages * PAGE)
            for page in np.flatnonzero(dice.random(pages) < 1 / 3).tolist():
                os.pwrite(file.fileno(), (bytes([page % 4]) * PAGE), page * PAGE)
    return {"paths": [path], "interval_ns": 10**9}


def varint(value: int) -> bytes:
    """Return a protobuf integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def pagemap(entries: Iterable[tuple[int, int]]) -> bytes:
    """Return a page map of CRIU with entries of (page, pages), all present."""
    parts = [struct.pack("<II", 0x54564319, 0x56084025), struct.pack("<I", 2), b"\x08\x01"]
    for page, pages in entries:
        body = b"\x08" + varint(page * PAGE) + b"\x10" + varint(pages) + b"\x20\x04"
        parts += [struct.pack("<I", len(body)), body]
    return b"".join(parts)


def dumps(path: Path, entries: int, *, contents: bool) -> dict[str, Any]:
    """Make four dumps of so many runs of two pages."""
    dice = np.random.default_rng(_SEED)
    for number in range(4):
        folder = path / str(number)
        folder.mkdir(parents=True)
        pages = (0x7F0000000 + np.cumsum(dice.integers(3, 9, entries))).tolist()
        (folder / "pagemap-1.img").write_bytes(pagemap((page, 2) for page in pages))
        if contents:
            with (folder / "pages-1.img").open("wb") as file:
                for page in pages:
                    file.write(bytes([page % 4]) * (2 * PAGE))
    return {"paths": [path / str(n) for n in range(4)], "interval_ns": 10**9}


@source("criu: page maps", readers.import_criu)
def criu(path: Path, size: int) -> dict[str, Any]:
    """Make dumps without contents."""
    return dumps(path, size // 4 // 15, contents=False)


@source("criu: with contents", readers.import_criu)
def criu_contents(path: Path, size: int) -> dict[str, Any]:
    """Make dumps with contents."""
    return dumps(path, size // 4 // (2 * PAGE), contents=True)


@source("page-ranges: text", readers.import_page_ranges)
def ranges_text(path: Path, size: int) -> dict[str, Any]:
    """Make scans of 2,000 ranges as text."""
    text(path, size, lambda n, page: f"{1000 + n // 2_000}.000000 7f{page:08x}000-7f{page + 2:08x}"
         "000 written|present\n")  # fmt: skip
    return {"paths": [path]}


@source("page-ranges: binary", readers.import_page_ranges)
def ranges_binary(path: Path, size: int) -> dict[str, Any]:
    """Make eight scans as the ioctl fills them in."""
    path.mkdir()
    dice = np.random.default_rng(_SEED)
    for number in range(8):
        first = 0x7F0000000 + np.cumsum(dice.integers(3, 9, size // 8 // 24))
        table = np.stack((first * PAGE, (first + 2) * PAGE, np.full(len(first), 10)), axis=1)
        (path / f"{number}").write_bytes(table.astype("<i8").tobytes())
    return {"paths": [path], "interval_ns": 10**9}


def private() -> int:
    """Return the bytes of private memory that this process has."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) << 10


def measure(name: str, size: int) -> dict[str, float]:
    """Import an input of about so many bytes; return what it took."""
    reader, make = INPUTS[name]
    with tempfile.TemporaryDirectory(prefix="dirtylog-speed-") as folder:
        # What is compiled is compiled before, and what is imported late is imported.
        reader(out=Path(folder) / "warm.trace", **make(Path(folder) / "warm", 1 << 20))
        options = make(Path(folder) / "in", size)
        paths = [p for p in (Path(folder) / "in", *(Path(folder) / "in").rglob("*")) if p.is_file()]
        read = sum(path.stat().st_blocks * 512 for path in paths)
        over, before, done = [0], private(), threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                over.append(private() - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = resource.getrusage(resource.RUSAGE_SELF)
        report = reader(out=Path(folder) / "x.trace", **options)
        end = resource.getrusage(resource.RUSAGE_SELF)
        done.set()
        watcher.join()
    took = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    rows = sum(report.rows.values())
    return {"mb": read / 1e6, "s": took, "rows": rows, "private": max(over)}


def main() -> None:
    """Measure all readers, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(INPUTS)}")
    parser.add_argument("--mb", type=int, default=200, help="size of each input")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.one:
        print(json.dumps(measure(wanted.one, wanted.mb * 10**6)))
        return
    print("| input | MB | MB a second of processor time | rows | ns a row | private memory |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in [n for n in INPUTS if not wanted.names or n.split(":")[0] in wanted.names]:
        command = [sys.executable, "-m", "tests.readers.speed", "--mb", str(wanted.mb)]
        done = subprocess.run([*command, "--one", name], stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout)
        print(
            f"| {name} | {found['mb']:.0f} | {found['mb'] / found['s']:.0f} | {found['rows']:,} "
            f"| {found['s'] / found['rows'] * 1e9:.0f} | {found['private'] / 2**20:.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
