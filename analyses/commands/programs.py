"""`dirtylog import programs`."""

from __future__ import annotations

from typing import Annotated

import typer


def programs(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", show_default="a list", help="The program to print, as in the list."
        ),
    ] = None,
) -> None:
    """Print the programs that record what `import ftrace` and `import kmem` read.

    For bpftrace, perf, trace-cmd and bare tracefs; each says in its first lines how it is used.
    """
    from analyses.render import imported  # noqa: PLC0415 - heavy
    from analyses.render.terminal import Page, emit  # noqa: PLC0415
    from tracer.readers.programs import all_programs, program  # noqa: PLC0415

    if name is None:
        imported.programs(all_programs(), Page())
    else:
        emit(program(name))
