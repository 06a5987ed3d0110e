"""A Linux guest under TCG that runs a Python script of ours, with this very interpreter.

What the script needs is found by running it here and looking at which files it has open: modules,
shared libraries, the interpreter. The kernel is the one of `tests.guest`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.guest import NoGuestError, _entry

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do /bin/busybox insmod $module; done
{environment} {python} -S {script}
/bin/busybox poweroff -f
"""
_LOOK = """
import sys, runpy
sys.path.insert(0, {root!r})
runpy.run_path({script!r}, run_name="looked_at")
import encodings.utf_8, encodings.ascii, encodings.latin_1, site, os
files = {{
    f"{{module.__file__}}\t{{getattr(module, '__cached__', None) or ''}}"
    for module in sys.modules.values() if getattr(module, "__file__", None)
}}
files |= {{line.split()[-1] for line in open("/proc/self/maps") if "/" in line}}
print("\\n".join(sorted(files)))
"""


def build(folder: Path, script: Path) -> tuple[Path, Path]:
    """Make the guest in `folder` and return its kernel and initrd; raises NoGuestError."""
    root = Path(os.environ.get("DIRTYLOG_GUEST", "/"))
    kernel = max(root.glob("boot/vmlinuz-*-cloud-amd64"), default=None)
    if kernel is None:
        raise NoGuestError(f"no linux-image-cloud-amd64 under {root} (DIRTYLOG_GUEST)")
    busybox = root / "bin" / "busybox"
    if not busybox.is_file():
        raise NoGuestError(f"no busybox-static under {root} (DIRTYLOG_GUEST)")
    modules = root / "lib" / "modules" / kernel.name.removeprefix("vmlinuz-")
    files = {"bin/busybox": busybox}
    for number, name in enumerate(("irqbypass", "kvm", "kvm-amd")):
        found = next(modules.rglob(f"{name}.ko"), None)
        if found is not None:
            files[f"modules/{number}-{name}.ko"] = found
    for name, source in _needed(script).items():
        files[name.lstrip("/")] = source
    init = folder / "init"
    paths = ":".join(dict.fromkeys([str(script.parents[2]), *_paths()]))
    environment = f"PYTHONHOME={sys.base_prefix} PYTHONPATH={paths} PYTHONDONTWRITEBYTECODE=1"
    libraries = ":".join(sorted({str(Path(n).parent) for n in files if ".so" in n and "/lib" in n}))
    environment += f" LD_LIBRARY_PATH={libraries}"
    init.write_text(INIT.format(environment=environment, python=_python(), script=script))
    initrd = folder / "python.cpio"
    initrd.write_bytes(_archive({"init": init, **files}))
    return kernel, initrd


def _archive(files: dict[str, Path]) -> bytes:
    """Return an archive of executable files with all the folders that they lie in."""
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    parts = [_entry(name, 0o40755, b"") for name in sorted({*folders, "proc", "dev", "tmp"})]
    parts.append(_entry("dev/console", 0o20600, b"", device=(5, 1)))
    parts += [_entry(name, 0o100755, path.read_bytes()) for name, path in files.items()]
    return b"".join(parts) + _entry("TRAILER!!!", 0, b"")


def _python() -> str:
    return str(Path(sys.executable).resolve())


def _paths() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def _needed(script: Path) -> dict[str, Path]:
    """Return all files that running the script takes, by their absolute name in the guest.

    A module goes without its source: an emulated processor takes seconds to compile them all.
    """
    look = _LOOK.format(root=str(script.parents[2]), script=str(script))
    command = [sys.executable, "-c", look]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    files = {_python(): Path(_python()), str(script): script}
    for name, _, compiled in (line.partition("\t") for line in said):
        if compiled and Path(compiled).is_file():
            files[f"{name}c"] = Path(compiled)
        elif Path(name).is_file():
            files[name] = Path(name)
    for name in [name for name in files if ".so" in name]:
        # Libraries are asked for by a shorter name, which is a link.
        stem = Path(name).name.split(".so")[0]
        links = [link for link in Path(name).parent.glob(f"{stem}.so.*") if link.is_symlink()]
        files |= {str(link): link for link in links}
    loader = "/lib64/ld-linux-x86-64.so.2"
    return {**files, loader: Path(loader)}


def run(kernel: Path, initrd: Path, *options: str, timeout: float = 900) -> str:
    """Boot the guest and return what it printed until it was off."""
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-m", "512M", "-nodefaults", "-no-reboot"),
        *("-display", "none", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off", *options),
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    return done.stdout + done.stderr
