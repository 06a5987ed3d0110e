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
    path = tmp_path / "firmware"
    path.write_bytes(bytes(192 << 10) + CODE.ljust(0xFFF0, b"\0") + START.ljust(16, b"\0"))
    return path


def record(firmware, accelerator, tmp_path):
    guest = [
        "qemu-system-x86_64", "-accel", accelerator, "-m", "64", "-display", "none", "-nodefaults",
        "-bios", str(firmware),
    ]  # fmt: skip
    options = ["--bandwidth", "256KiB/s", "--downtime-limit", "30ms", "--start-after", "1s"]
    options += ["--cancel-after", "30s"]
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
    assert len(dirty - WRITTEN) < 16


def test_kvm_without_a_ring_is_refused(firmware, tmp_path, capsys):
    assert record(firmware, "kvm", tmp_path) == 1
    assert "dirty-ring-size=4096" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["firmware"]
