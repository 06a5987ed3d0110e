"""A boot sector that runs one of the demo programs in a real QEMU, and that QEMU."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.recorders.live import wait_until
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
        wait_until(lambda: socket.exists() or process.poll() is not None)
        assert process.poll() is None
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


# In 32-bit mode without paging, on every vCPU: the first starts the others.
#           cli; lgdtl %cs:(gdtr - start); mov $0x11, %eax; mov %eax, %cr0; ljmpl $8, $high
#   high:   mov $16, %eax; mov %eax, %ds; mov $0x1b, %ecx; rdmsr; test $0x100, %eax; jz table
#           movl $0x1ff, 0xfee000f0; movl $0xc4500, 0xfee00300
#           mov $0x100000, %ecx; 1: pause; loop 1b; movl $0xc46f0, 0xfee00300
#   table:  mov 0xfee00020, %ebp; shr $16, %ebp; add $0xf0800, %ebp  (0x100 bytes a vCPU)
#   again:  mov %ebp, %ebx
#   run:    mov (%ebx), %edi; mov 4(%ebx), %esi; add $8, %ebx; test %esi, %esi; jz wait
#   page:   incb (%edi); add $0x1000, %edi; test $0x3f000, %edi; jnz 3f; in $0x80, %al
#   3:      cmp %esi, %edi; jb page; jmp run
#   wait:   mov $0x8000, %ecx; 2: loop 2b; in $0x80, %al; jmp again
#   gdt:    flat code and data; gdtr
# The port hands the turn to QEMU, which empties a ring that is full.
FLAT = bytes.fromhex(
    "fa2e660f0116b00066b8110000000f22c066ea19000f000800b8100000008ed8b91b0000000f32a900010000"
    "7427c705f000e0feff010000c7050003e0fe00450c00b900001000f390e2fcc7050003e0fef0460c008b2d20"
    "00e0fec1ed1081c500080f0089eb8b3b8b730483c30885f67418fe0781c700100000f7c700f003007502e480"
    "39f772eaebdcb900800000e2fee480ebcf8d76000000000000000000ffff0000009bcf00ffff00000093cf00"
    "170098000f00"
)


def flat_firmware(folder: Path, vcpus: Sequence[Sequence[tuple[int, int]]]) -> list[str]:
    """Return options for a guest whose vCPUs write these pages for ever: first, and how many.

    Guest addresses below 4 GiB; the last 64 KiB below 1 MiB are the program's own.
    """
    rom = bytearray(FLAT.ljust(64 << 10, b"\0"))
    for number, pages in enumerate(vcpus):
        runs = b"".join(struct.pack("<II", n << 12, n + count << 12) for n, count in pages)
        at = 0x800 + number * 0x100
        rom[at : at + len(runs)] = runs
    rom[0xFFF0 : 0xFFF0 + len(START)] = START
    path = folder / "flat"
    path.write_bytes(bytes(192 << 10) + rom)
    return ["-bios", str(path), "-smp", str(len(vcpus))]


def open_files(pid: int) -> set[str]:
    """Return the names of the files that a process has open; one closed meanwhile is none."""
    names = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.add(str(file.readlink()))
    return names


def wait_for_program(pid: int, ram: Region, page: int = FIRST + PAGES - 1) -> None:
    """Wait until the guest's program has written a page: the BIOS is done by then."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:

        def is_written() -> bool:
            memory.seek(ram.start + page * PAGE)
            return any(memory.read(1))

        wait_until(is_written)
