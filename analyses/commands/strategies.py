"""`dirtylog strategies`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def strategies(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]",
            show_default="all that have a name",
            help="Only these; FILE.py:NAME is one of your own (this runs the file).",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print them as one JSON list instead.")
    ] = False,
) -> None:
    """List the strategies: what each is composed of, and where it comes from.

    Start: whether sending waits for the first report. Request: when reports are asked for.
    Accept: what becomes of them. Sync: the sync that goes with a handling. Drain: whether a
    regular sync waits for outstanding reports. Guest: whether it runs from snapshot to handling.
    Hold: how long it keeps off reported pages.

    Of your own: FILE.py:NAME is a Strategy, or a class derived from replay.policies.Accept (asked
    once) or replay.policies.Request (tagged). Installed packages register theirs in the entry point
    group dirtylog.strategies. Both are run as they are loaded.
    """
    from analyses.catalogue import catalogue  # noqa: PLC0415 - heavy
    from analyses.render.listing import show  # noqa: PLC0415
    from analyses.render.terminal import Page, emit  # noqa: PLC0415

    known = catalogue(names or [])
    if as_json:
        emit(json.dumps(known, indent=2) + "\n")
    else:
        show(known, Page())
