"""The program that samples a guest's free list from inside, compiled for the guest."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tracer.errors import RecordError, UsageError

SOURCE = Path(__file__).parent / "guest" / "freelist.c"


def compile_sampler(program: Path, compiler: str = "cc") -> None:
    """Compile the sampler to one static file; raises UsageError, RecordError."""
    command = [*compiler.split(), "-O2", "-static", "-o", str(program), str(SOURCE)]
    try:
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            command, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UsageError(
            f"{compiler}: cannot be run ({error.strerror}); install a C compiler or pass --cc"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RecordError(f"{SOURCE.name} does not compile: {last}")
