"""Under KVM: a guest whose firmware writes the same pages for ever (no Linux is needed)."""

from __future__ import annotations

import os
import shutil

import pytest

from analyses.commands import run
from tracer import Trace

# cli; ds = 0; for es in 0x2000, 0x3000 .. 0x8000: for di in 0, 0x1000 .. 0xf000: incb es:[di];
# then 2000 turns of nothing, and again: it writes each page from 0x20 to 0x8f.
CODE = bytes.fromhex(
    "fa 31c0 8ed8 bb0020 8ec3 31ff 26fe05 81c70010 75f7 81c30010 81fb0090 72e9 b9d007 e2fe ebdf"
)
START = bytes.fromhex("ea 0000 00f0")  # jmp 0xf000:0
WRITTEN = set(range(0x20, 0x90))


@pytest.fixture
def firmware(tmp_path):
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed (Debian: qemu-system-x86)")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is not there or may not be used")
    return write_firmware(tmp_path, CODE)


def write_firmware(tmp_path, code):
    path = tmp_path / "firmware"
    path.write_bytes(bytes(192 << 10) + code.ljust(0xFFF0, b"\0") + START.ljust(16, b"\0"))
    return path


def record(firmware, accelerator, tmp_path, *more, seconds=30):
    guest = [
        "qemu-system-x86_64", "-accel", accelerator, "-m", "64", "-display", "none", "-nodefaults",
        "-bios", str(firmware), *more,
    ]  # fmt: skip
    options = ["--bandwidth", "256KiB/s", "--downtime-limit", "30ms", "--start-after", "1s"]
    options += ["--cancel-after", f"{seconds}s"]
    return run(["record", "migration", "-o", str(tmp_path / "x.trace"), *options, "--", *guest])


def test_the_dirty_ring_names_the_pages_that_the_guest_writes(firmware, tmp_path, capsys):
    assert record(firmware, "kvm,dirty-ring-size=4096", tmp_path) == 0, capsys.readouterr().err
    trace = Trace.open(tmp_path / "x.trace")
    trace.validate()
    assert trace.meta.resolution == "epoch"
    # What dirty-limit depends on.
    assert trace.meta.source["vcpus"] == 1
    assert trace.meta.source["dirty_ring_size"] == 4096
    dirty = set()
    for rows in trace.rows("dirty"):
        for first, count in zip(rows.page.tolist(), rows.count.tolist(), strict=True):
            dirty.update(range(first, first + count))
    assert dirty >= WRITTEN
    # Where a page is sent as zeros nothing tells its slot: then it counts in all that may have it.
    firsts = [int(slot.split(":")[1], 16) for slot in trace.meta.source["slots"]]
    elsewhere = {first + page for first in firsts for page in WRITTEN}
    assert len(dirty - WRITTEN - elsewhere) < 16


# cli; for es:di in 0x2000:0, 0x2000:0x1000 .. 0x2000:0x7000, then in 0xffff:0x10, 0xffff:0x1010 ..
# 0xffff:0xf010: incb es:[di]; then 65535 turns of nothing, and again.
TWO_SLOTS = bytes.fromhex(
    "fa b80020 8ec0 31ff 26fe05 81c70010 81ff0080 72f3 b8ffff 8ec0 bf1000 26fe05 81c70010 73f7"
    "b9ffff e2fe ebd4"
)
LOW, HIGH = set(range(0x20, 0x28)), set(range(0x100, 0x110))


def test_pages_of_a_slot_above_1_mib_are_told_from_those_below(firmware, tmp_path, capsys):
    write_firmware(tmp_path, TWO_SLOTS)
    # A graphics card makes a hole at 640 KiB: the RAM above lies in a slot of its own.
    code = record(firmware, "kvm,dirty-ring-size=4096", tmp_path, "-vga", "std", seconds=6)
    assert code == 0, capsys.readouterr().err
    trace = Trace.open(tmp_path / "x.trace")
    trace.validate()
    slots = [slot.split(":", 1)[1] for slot in trace.meta.source["slots"]]
    assert {"0x0:160", f"0x100:{(63 << 20) // 4096}"} <= set(slots)
    epochs = {}
    for rows in trace.rows("dirty"):
        for t, first, count in zip(
            rows.t.tolist(), rows.page.tolist(), rows.count.tolist(), strict=True
        ):
            epochs.setdefault(t, set()).update(range(first, first + count))
    later = [pages for t, pages in epochs.items() if t > 0]
    assert later
    assert set().union(*later) >= LOW | HIGH
    # Where all that was written is zeros when it is sent, nothing tells which slot it was in: the
    # counters of all pages come round to 0 together.
    sure = [pages for pages in later if pages <= LOW | HIGH]
    assert len(sure) >= len(later) * 3 / 4


def test_kvm_without_a_ring_is_refused(firmware, tmp_path, capsys):
    assert record(firmware, "kvm", tmp_path) == 2
    assert "dirty-ring-size=4096" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["firmware"]
