from __future__ import annotations

import shutil

import pytest

from tests.guest import NoGuestError, build


@pytest.fixture(scope="session")
def guest(tmp_path_factory):
    """Return a function that gives the command line of a small guest under a load."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed (Debian: qemu-system-x86)")
    try:
        kernel, initrd = build(tmp_path_factory.mktemp("guest"))
    except NoGuestError as error:
        pytest.skip(f"no test guest: {error}")

    def command(load, *more):
        return [
            "qemu-system-x86_64", "-accel", "tcg", "-m", "128", "-display", "none", "-nodefaults",
            "-no-reboot", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd),
            "-append", f"console=ttyS0 quiet panic=-1 load={load}", *more,
        ]  # fmt: skip

    return command
