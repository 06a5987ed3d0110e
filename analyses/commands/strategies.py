"""`dirtylog strategies`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def strategies(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print them as one JSON list instead.")
    ] = False,
) -> None:
    """List the strategies: what each is composed of, and where it comes from.

    Start: whether sending waits for the first report. Request: when reports are asked for.
    Accept: what becomes of them. Sync: the sync that goes with a handling. Drain: whether a
    regular sync waits for outstanding reports. Guest: whether it runs from snapshot to handling.
    Hold: how long it keeps off reported pages.
    """
    from analyses.catalogue import catalogue  # noqa: PLC0415 - heavy
    from analyses.render.listing import show  # noqa: PLC0415
    from analyses.render.terminal import Page, emit  # noqa: PLC0415

    known = catalogue()
    if as_json:
        emit(json.dumps(known, indent=2) + "\n")
    else:
        show(known, Page())
