"""`dirtylog line`."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated

import typer


def line(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER",
            help="Recorded migrations, as `dirtylog import qemu` reads them, or traces of them.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON list instead; bytes/s and ns.")
    ] = False,
) -> None:
    """Measure how fast QEMU's sender was in recorded migrations.

    Reads QEMU's log (ram_save_page, and its looks at what is pending) and gives what profile qemu
    of `replay` and `accuracy` takes: the rate at which a window's budget is sent, what a zero page
    costs, how late the sender wakes from its sleep, and, from the downtime in migrate.json, what
    the stop takes besides what is sent then. A trace keeps the first three.
    """
    from analyses.line import measure_folder  # noqa: PLC0415 - heavy
    from analyses.render.line import show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit  # noqa: PLC0415
    from tracer.errors import CheckError  # noqa: PLC0415

    found = []
    for folder in folders:
        with Bar() as bar:
            label = f"{folder.name or folder}: reading the log"
            found.append(measure_folder(folder, functools.partial(bar, label)))
    if as_json:
        emit(json.dumps([one.to_dict() for one in found], indent=2) + "\n")
    else:
        show(found, Page())
    lacking = [one.name for one in found if one.line_rate is None]
    if lacking:
        raise CheckError(f"{', '.join(lacking)}: no window without zero pages to measure a rate by")
