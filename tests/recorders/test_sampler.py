from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analyses.commands import run
from tests.recorders.live import wait_until
from tracer.errors import UsageError
from tracer.readers.freelist_log import read_freelist
from tracer.recorders.sampler import SOURCE, compile_sampler
from tracer.recorders.stamped import FreelistLines

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")


@needs_cc
def test_the_sampler_sees_the_free_pages_that_the_kernel_counts(tmp_path, capsys):
    program = tmp_path / "freelist"
    assert run(["record", "sampler", "-o", str(program)]) == 0
    assert capsys.readouterr().out == f"{program}\n"
    try:
        with Path("/proc/kpageflags").open("rb") as file:
            file.read(8)
    except OSError as error:
        pytest.skip(f"/proc/kpageflags cannot be read here: {error.strerror}")
    before = _free_blocks()
    out = subprocess.run([program, "-n", "2", "-p", "1"], capture_output=True, check=True).stdout
    counted = (before, _free_blocks())
    lines = FreelistLines(tmp_path / "freelist.log")
    lines.feed(out)
    lines.close()
    log = read_freelist(lines.path)
    assert len(log.samples) == lines.samples == 2
    seen = int(log.samples[1].count.sum())
    # A rough measure: a machine that is at work frees and takes pages all the time.
    assert min(counted) / 3 < seen < max(counted) * 3


def _free_blocks():
    """Return the pages in free blocks, which /proc/buddyinfo counts by their order."""
    zones = Path("/proc/buddyinfo").read_text().splitlines()
    orders = [map(int, zone.split()[4:]) for zone in zones]
    return sum(blocks << order for zone in orders for order, blocks in enumerate(zone))


def test_the_sampler_streams_what_the_guest_takes_and_gives_back(guest, tmp_path):
    out = tmp_path / "stream"
    command = guest(
        "churn,mb=4,rate=10,fill=8 sampler=-s", "-device", "virtio-serial-pci",
        "-chardev", f"file,id=stream,path={out}",
        "-device", "virtserialport,chardev=stream,name=org.dirtylog.freelist",
    )  # fmt: skip
    qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: out.exists() and out.read_text().count("mm_page_free:") > 5000)
        text = out.read_text()
    finally:
        qemu.kill()
        qemu.wait()
    lines = text.splitlines()[:-1]
    end = lines.index("FREELIST done")
    begin = re.fullmatch(r"FREELIST begin mono=([0-9.]+) end=\S+ real=\S+ pfns=32768", lines[0])
    events = [
        re.search(r" ([0-9]+\.[0-9]{6}): mm_page_(alloc|free): page=\S+ pfn=0x([0-9a-f]+)", line)
        for line in lines[end + 1 :]
    ]
    found = [event for event in events if event is not None]
    assert len(found) > 0.99 * len(events)
    # On the sample's clock, from before its walk on; 8 MB are taken and given back in turns.
    assert abs(float(found[0][1]) - float(begin[1])) < 5
    assert all(int(event[3], 16) < 32768 for event in found)
    taken = {event[3] for event in found if event[2] == "alloc"}
    assert len(taken & {event[3] for event in found if event[2] == "free"}) > 1000


@needs_cc
def test_the_sampler_refuses_nonsense(tmp_path):
    compile_sampler(tmp_path / "freelist")
    done = subprocess.run([tmp_path / "freelist", "-p", "soon"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"'soon' is no number" in done.stderr


def test_the_source_can_be_had(capsys):
    assert run(["record", "sampler", "--source"]) == 0
    assert capsys.readouterr().out == SOURCE.read_text()


def test_a_compiler_that_is_none_or_fails_is_named(tmp_path):
    with pytest.raises(UsageError, match="nonesuch: cannot be run"):
        compile_sampler(tmp_path / "freelist", "nonesuch")
    with pytest.raises(UsageError, match=r"false does not compile freelist\.c"):
        compile_sampler(tmp_path / "freelist", "false")
    with pytest.raises(UsageError, match="names no compiler"):
        compile_sampler(tmp_path / "freelist", "")
    with pytest.raises(UsageError, match="is no command"):
        compile_sampler(tmp_path / "freelist", "cc '")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("where", "why"), [
    ("none/x", "cannot be written here"), (".", "is a directory"), ("file/x", "cannot be written"),
])  # fmt: skip
def test_a_place_where_nothing_can_be_is_not_blamed_on_the_compiler(tmp_path, capsys, where, why):
    (tmp_path / "file").touch()
    assert run(["record", "sampler", "-o", str(tmp_path / where)]) == 2
    err = capsys.readouterr().err
    assert why in err
    assert "compile" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
