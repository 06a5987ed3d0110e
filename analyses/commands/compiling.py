"""Whether the replay kernels are compiled yet: the first run takes seconds longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses.render.terminal import remark


def compile_kernels() -> None:
    """Compile all kernels of a replay now, and say so on stderr, unless they are compiled."""
    from replay.doubt_kernels import search_pages  # noqa: PLC0415 - heavy
    from replay.kernels import sweep  # noqa: PLC0415
    from replay.warm import warm  # noqa: PLC0415

    if not (is_compiled(sweep) and is_compiled(search_pages)):
        remark("compiling the kernels, which takes about half a minute (first run only)")
        warm()


def announce_compilation(kernel: Any) -> None:
    """Say so on stderr if `kernel`, a numba dispatcher with a cache, is about to be compiled."""
    if not is_compiled(kernel):
        remark("compiling, which takes some seconds (first run only)")


def is_compiled(kernel: Any) -> bool:
    """Return whether the kernel lies in numba's cache and is no older than its source.

    Goes by the cache's file names; where these are not as expected, it says no.
    """
    code = kernel.py_func.__code__
    folder, source = Path(kernel.stats.cache_path or "."), Path(code.co_filename)
    name = f"{source.stem}.{code.co_qualname}-{code.co_firstlineno}.*.nbi"
    try:
        written = source.stat().st_mtime
        return any(index.stat().st_mtime >= written for index in folder.glob(name))
    except OSError:
        return False
