"""`dirtylog import qemu`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.choices import Compression
from analyses.commands.import_options import Migration, Slots
from analyses.commands.making import Compressed, Force, Output


def import_qemu(
    output: Output,
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            show_default="none",
            help="Folder with qemu.log, freelist.log (either may be .gz) and migrate.json or "
            "qmp.txt; only the log is needed.",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="the one in DIR",
            help="QEMU's trace log: plain, gzip or zstd.",
        ),
    ] = None,
    freelist: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="the one in DIR",
            help="Samples of the guest's free list: plain, gzip or zstd.",
        ),
    ] = None,
    migration: Migration = None,
    slots: Slots = None,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make a trace of a recorded QEMU migration.

    Says on stderr what was read and what stays unknown, and on stdout the trace's path.
    """
    from analyses.render.imported import show  # noqa: PLC0415 - heavy
    from analyses.render.terminal import Bar, Page, emit  # noqa: PLC0415
    from tracer.readers import import_qemu as make  # noqa: PLC0415

    with Bar() as bar:
        report = make(
            directory,
            log=log,
            freelist=freelist,
            migration=migration,
            out=output,
            slots=slots or (),
            force=force,
            compression=compression.value,
            progress=lambda done, total: bar("reading the log", done, total),
        )
    show(report, Page(stderr=True))
    emit(f"{report.out}\n")
