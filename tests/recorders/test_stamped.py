from __future__ import annotations

import re

import pytest

from tracer.readers.freelist_log import read_freelist
from tracer.recorders.stamped import FreelistLines, Lines

SAMPLE = (
    b"FREELIST begin mono=1.000000 end=1.100000 real=5.000000 pfns=100\n10+4\n2a+1\nFREELIST done\n"
)
LATER = SAMPLE.replace(b"1.0", b"2.0").replace(b"1.1", b"2.1")


def stamped(path):
    return [
        re.fullmatch(rb"\d{10}\.\d{6} (.*)", line)[1]
        for line in path.read_bytes().split(b"\n")[:-1]
    ]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_lines_come_whole_and_with_a_time_however_they_are_cut(tmp_path, size):
    lines = Lines(tmp_path / "log", "ready")
    text = b"booting\nload: ready\r\nand no end"
    for at in range(0, len(text), size):
        lines.feed(text[at : at + size])
    assert stamped(lines.path) == [b"booting", b"load: ready\r"]
    assert lines.found
    lines.close()
    assert stamped(lines.path)[-1] == b"and no end"
    assert lines.last == ["booting", "load: ready", "and no end"]


def test_a_line_without_an_end_does_not_grow_for_ever(tmp_path):
    lines = Lines(tmp_path / "log")
    for _ in range(5):
        lines.feed(b"x" * 30_000)
    assert [len(line) for line in stamped(lines.path)] == [90_000]
    lines.close()


def test_only_whole_samples_are_kept_and_the_importer_reads_them(tmp_path):
    lines = FreelistLines(tmp_path / "freelist.log")
    noise = b"30+1\nFREELIST done\n[  1.5] kernel: hello\nroot@guest:~# " + SAMPLE.replace(
        b"\n", b"\r\n"
    )
    lines.feed(noise + LATER[:80])
    assert lines.samples == 1
    lines.feed(LATER[80:])
    lines.close()
    assert lines.samples == 2
    first, second = read_freelist(lines.path).samples
    assert first.start.tolist() == second.start.tolist() == [0x10, 0x2A]
    assert first.count.tolist() == [4, 1]
    assert (first.pfns, second.begin_us) == (100, 2_000_000)
