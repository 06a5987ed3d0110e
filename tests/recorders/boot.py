"""A boot sector that runs one of the demo programs in a real QEMU, and that QEMU."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.recorders.test_kvm import CODE, START
from tracer.recorders.kvm_demos import Demo
from tracer.recorders.mappings import PAGE, Region

QEMU = shutil.which("qemu-system-x86_64")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="no qemu-system-x86_64")
#: The pages that the program writes: free in a PC, clear of the boot sector and of the BIOS.
FIRST, PAGES = 0x20, 0x60
MEMORY = 32 << 20


def boot_sector(demo: Demo) -> bytes:
    """Return 512 bytes that set the registers as the program wants them and go on with it."""
    values = (FIRST << 8, (FIRST + PAGES) << 8, PAGES, 1)
    loads = zip((0xBE, 0xBF, 0xB9, 0xBB), values, strict=True)  # mov to si, di, cx, bx
    start = b"\xfa" + b"".join(bytes([code]) + value.to_bytes(2, "little") for code, value in loads)
    return (start + demo.code).ljust(510, b"\0") + b"\x55\xaa"


def command(folder: Path, demo: Demo, *options: str) -> list[str]:
    """Return the command line of a QEMU that boots the program."""
    disk = folder / "boot.img"
    disk.write_bytes(boot_sector(demo))
    return [
        *(str(QEMU), "-nodefaults", "-display", "none", "-m", f"{MEMORY >> 20}M"),
        *("-drive", f"format=raw,if=ide,file={disk}", "-boot", "c"),
        *(options or ("-accel", "tcg")),
    ]


@contextmanager
def running(folder: Path, demo: Demo, *options: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    """Give a QEMU that runs the program, and its QMP socket."""
    socket = folder / "qmp.sock"
    line = command(folder, demo, *options)
    process = subprocess.Popen([*line, "-qmp", f"unix:{socket},server=on,wait=off"])
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process, socket
    finally:
        process.kill()
        process.wait()


def firmware(folder: Path) -> list[str]:
    """Return options for a guest that writes the pages `WRITTEN` for ever instead of a BIOS."""
    path = folder / "firmware"
    # It waits longer between two passes, so that no dirty ring is ever full.
    code = CODE.replace(bytes.fromhex("b9d007"), bytes.fromhex("b9ffff"))
    path.write_bytes(bytes(192 << 10) + code.ljust(0xFFF0, b"\0") + START.ljust(16, b"\0"))
    return ["-bios", str(path)]


def wait_for_program(pid: int, ram: Region) -> None:
    """Wait until the guest's program has written a page: the BIOS is done by then."""
    deadline = time.monotonic() + 60
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        while True:
            memory.seek(ram.start + (FIRST + PAGES - 1) * PAGE)
            if any(memory.read(1)):
                return
            assert time.monotonic() < deadline, "the guest's program did not start"
            time.sleep(0.02)
