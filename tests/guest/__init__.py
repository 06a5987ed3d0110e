"""A small Linux guest for tests: Debian's cloud kernel, busybox, the free-list sampler, a load.

`DIRTYLOG_GUEST` names a folder into which the packages linux-image-*-cloud-amd64 and
busybox-static are unpacked (`dpkg-deb -x`); without it they are looked for on this machine.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
SAMPLER = HERE.parent.parent / "tracer" / "recorders" / "guest" / "freelist.c"

#: In the order in which they are loaded.
_MODULES = (
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
    "virtio_balloon", "virtio_console",
)  # fmt: skip


class NoGuestError(Exception):
    """Something that the guest is made of is not there."""


def build(folder: Path) -> tuple[Path, Path]:
    """Make the guest in `folder` and return its kernel and initrd; raises NoGuestError."""
    root = Path(os.environ.get("DIRTYLOG_GUEST", "/"))
    kernel = max(root.glob("boot/vmlinuz-*-cloud-amd64"), default=None)
    if kernel is None:
        raise NoGuestError(f"no linux-image-cloud-amd64 under {root} (DIRTYLOG_GUEST)")
    modules = root / "lib" / "modules" / kernel.name.removeprefix("vmlinuz-")
    busybox = root / "bin" / "busybox"
    if not busybox.is_file():
        raise NoGuestError(f"no busybox-static under {root} (DIRTYLOG_GUEST)")
    folder.mkdir(parents=True, exist_ok=True)
    files = {"init": HERE / "init", "bin/busybox": busybox}
    for source in (SAMPLER, HERE / "load.c"):
        files[f"bin/{source.stem}"] = _compile(source, folder / source.stem)
    for number, name in enumerate(_MODULES):
        found = next(modules.rglob(f"{name}.ko*"), None)
        if found is None or found.suffix != ".ko":
            raise NoGuestError(f"no {name}.ko under {modules}")
        files[f"modules/{number}-{name}.ko"] = found
    initrd = folder / "initrd.gz"
    with gzip.open(initrd, "wb", compresslevel=1) as out:
        out.write(_cpio(files))
    return kernel, initrd


def _compile(source: Path, program: Path) -> Path:
    if shutil.which("cc") is None:
        raise NoGuestError("no C compiler (cc)")
    command = ["cc", "-O2", "-static", "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoGuestError(f"{source.name} does not compile: {done.stderr.strip()[-200:]}")
    return program


def _cpio(files: dict[str, Path]) -> bytes:
    """Return an archive of the format "newc" with executable files and the folders they need."""
    parts = [_entry(name, 0o40755, b"") for name in ("bin", "modules", "proc", "sys", "dev")]
    parts.append(_entry("dev/console", 0o20600, b"", device=(5, 1)))
    parts += [_entry(name, 0o100755, path.read_bytes()) for name, path in files.items()]
    return b"".join(parts) + _entry("TRAILER!!!", 0, b"")


def _entry(name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
