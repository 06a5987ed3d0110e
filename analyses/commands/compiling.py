"""Whether the replay kernels are compiled yet: the first run takes seconds longer."""

from __future__ import annotations

from typing import Any

from analyses.render.terminal import remark


def compile_kernels() -> None:
    """Compile all kernels of a replay now, and say so on stderr, unless they are compiled."""
    from replay.doubt_kernels import search_pages  # noqa: PLC0415 - heavy
    from replay.kernels import sweep  # noqa: PLC0415
    from tracer.compiled import is_kept  # noqa: PLC0415

    if not (is_kept(sweep) and is_kept(search_pages)):
        remark("compiling the kernels, which takes about half a minute (first run only)")
        from replay.warm import warm  # noqa: PLC0415

        warm()


def announce_compilation(kernel: Any) -> None:
    """Say so on stderr if `kernel`, a numba dispatcher with a cache, is about to be compiled."""
    from tracer.compiled import is_kept  # noqa: PLC0415 - heavy

    if not is_kept(kernel):
        remark("compiling, which takes some seconds (first run only)")
