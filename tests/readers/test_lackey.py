"""Valgrind's Lackey: real output, stored and made here, and a slow model beside random texts."""

from __future__ import annotations

import gzip
import random
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest

from tests.readers.tables import opened, written
from tracer import TraceError, UsageError
from tracer.readers import import_lackey

DATA = Path(__file__).parent / "data" / "lackey"


def slow(lines, scale, quantum, page_size=4096):
    """The virtual pages written in each cell: a set of (cell's end, page)."""
    count, found = 0, set()
    for line in lines:
        access = re.fullmatch(r"(I | S| M| L) ([0-9a-f]+),(\d+)\n", line)
        if access is None:
            continue
        kind, address, size = access[1].strip(), int(access[2], 16), int(access[3])
        count += kind == "I"
        if kind in "SM":
            cell = int(count * scale) // quantum
            for page in range(address // page_size, (address + size - 1) // page_size + 1):
                found.add((cell * quantum + quantum - 1, page))
    return found, int(count * scale) // quantum * quantum + quantum - 1


def virtual(trace):
    """The writes of a trace by virtual page, which the blocks' names tell."""
    places = {}
    for block in trace.meta.blocks:
        first = int(block.name, 16) // trace.meta.page_size
        places |= {block.first_page + i: first + i for i in range(block.pages)}
    return [(t, places[page]) for t, page in written(trace)]


def check(tmp_path, lines, scale=Fraction(1), quantum=1000, **options):
    (tmp_path / "text").write_text("".join(lines))
    report = import_lackey(
        tmp_path / "text", out=tmp_path / "t.trace", force=True, ns_per_instruction=scale,
        quantum_ns=quantum, **options,
    )  # fmt: skip
    trace = opened(report.out)
    pages, end = slow(lines, scale, quantum, trace.meta.page_size)
    rows = virtual(trace)
    assert len(rows) == len(set(rows))
    assert set(rows) == pages
    assert trace.meta.duration_ns == end
    assert trace.meta.resolution == "write"
    assert trace.meta.quantum_ns == quantum
    return trace, report


@pytest.mark.parametrize(("scale", "quantum"), [("1", 1000), ("0.25", 100), ("3/7", 10**6)])
def test_a_real_program(tmp_path, scale, quantum):
    with gzip.open(DATA / "w.log.gz", "rt") as file:
        lines = file.readlines()
    trace, report = check(tmp_path, lines, Fraction(scale), quantum)
    assert report.read["instructions"] == sum(line.startswith("I ") for line in lines)
    assert report.read["stores"] == sum(line[:2] in (" S", " M") for line in lines)
    packed = import_lackey(DATA / "w.log.gz", out=tmp_path / "z.trace",
                           ns_per_instruction=Fraction(scale), quantum_ns=quantum)  # fmt: skip
    assert written(opened(packed.out)) == written(trace)


def test_valgrind_on_this_machine(tmp_path):
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("valgrind is not installed")
    log = tmp_path / "log"
    subprocess.run(
        [valgrind, "--tool=lackey", "--trace-mem=yes", f"--log-file={log}", "/bin/true"], check=True
    )
    check(tmp_path, log.read_text().splitlines(keepends=True), quantum=10_000)


def test_random_texts_agree_with_the_slow_model(tmp_path):
    rng = random.Random(5)
    bases = [0x400000, 0x4A00FF8, 0x1FFEFFF000, 0x7F0000000000]
    for turn in range(10):
        lines = ["==1== Lackey\n", "\n"]
        for _ in range(2000):
            kind = rng.choice(["I ", "I ", " S", " M", " L"])
            address = rng.choice(bases) + rng.randrange(0, 20 * 4096)
            lines.append(f"{kind} {address:08x},{rng.choice([1, 8, 16, 64])}\n")
        check(tmp_path, lines, Fraction(rng.randint(1, 9), rng.randint(1, 9)), rng.randint(1, 300),
              page_size=4096 << turn % 3)  # fmt: skip


def test_regions_of_the_address_space_are_blocks(tmp_path):
    lines = ["I  1000,3\n", " S 00400010,8\n", " S 004fe000,4\n", " S 00700000,4\n"]
    trace, _ = check(tmp_path, lines)
    assert [(b.name, b.first_page, b.pages) for b in trace.meta.blocks] == [
        ("0x400000", 0, 255), ("0x700000", 255, 1),
    ]  # fmt: skip


def test_other_lines_are_counted(tmp_path):
    lines = ["--1-- warning\n", "the program speaks\n", "I  1000,3\n", " S 00400010,8\n"]
    _, report = check(tmp_path, lines)
    assert report.passed_over == {"lines that are no accesses": 1}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no instruction"),
        ("hello\n", "no instruction"),
        ("I  1000,3\n", "no trace"),
        ("I  1000,3\n S 0040zz,8\n", "line 2"),
        ("I  1000,3\n S 00400010\n", "line 2"),
        ("I  1000,3\n S 00400010,0\n", "line 2"),
        ("I  1000,3\n S 00400010,8 \n", "line 2"),
        ("I  1000,3\n\n S\n", "line 3"),
        ("I  1000,3\n S ffffffffffffffff1,8\n", "line 2"),
    ],
)
def test_what_is_none(tmp_path, text, part):
    (tmp_path / "text").write_text(text)
    with pytest.raises(TraceError, match=part):
        import_lackey(tmp_path / "text", out=tmp_path / "t.trace")
    assert not (tmp_path / "t.trace").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"ns_per_instruction": Fraction(0)},
        {"ns_per_instruction": Fraction(1, 10**7)},
        {"quantum_ns": 0},
        {"page_size": 1000},
    ],
)
def test_clocks_that_are_none(tmp_path, options):
    with pytest.raises(UsageError):
        import_lackey(DATA / "w.log.gz", out=tmp_path / "t.trace", **options)
