"""The program that samples a guest's free list from inside, compiled for the guest."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from tracer.errors import UsageError
from tracer.files import whole_file

_WHY = re.compile("error|failed|No space", re.IGNORECASE)
SOURCE = Path(__file__).parent / "guest" / "freelist.c"


def compile_sampler(program: Path, compiler: str = "cc") -> None:
    """Compile the sampler to one static file, there or not at all; raises UsageError."""
    try:
        words = shlex.split(compiler)
    except ValueError as error:
        raise UsageError(f"--cc: {compiler!r} is no command ({error})") from None
    if not words:
        raise UsageError("--cc: names no compiler")
    with whole_file(program) as made:
        command = [*words, "-O2", "-static", "-o", str(made), str(SOURCE)]
        try:
            done = subprocess.run(  # noqa: S603 - the user's own compiler
                command, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise UsageError(
                f"{compiler}: cannot be run ({error.strerror}); install a C compiler or pass --cc"
            ) from None
        if done.returncode or not made.stat().st_size:
            said = done.stderr.strip().splitlines()
            why = next(filter(_WHY.search, said), (said or ["no reason given"])[-1])
            raise UsageError(
                f"{compiler} does not compile {SOURCE.name}: {why}; it needs a C compiler and a "
                "static C library (Debian: gcc libc6-dev), --cc names another"
            )
