"""`dirtylog explain`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from analyses.commands.options import (
    Anyway,
    AsJson,
    OneStrategy,
    OneTrace,
    ReplayOptions,
    with_replay_options,
)


@with_replay_options
def explain(
    *,
    trace: OneTrace,
    strategy: OneStrategy,
    page: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            show_default="the first page of each cause",
            help="Tell what became of this page, lost or not.",
        ),
    ] = None,
    options: ReplayOptions,
    anyway: Anyway = False,
    as_json: AsJson = False,
) -> None:
    """Tell how a strategy loses pages on a trace: the life of a page, step by step, and the cause.

    The lost pages, and those that were lost for a while and healed (near misses), are grouped by
    cause, with a story of one page each: when it was free, reported, taken, written, harvested,
    skipped, and what the bitmaps held. Where only an order of things that the recording allows
    loses a page, one such order is told.
    """
    parameters = options.parameters_as_recorded("explain")

    from analyses.commands.compiling import compile_kernels  # noqa: PLC0415 - heavy
    from analyses.compare import check, plan  # noqa: PLC0415
    from analyses.explain import explain as ask  # noqa: PLC0415
    from analyses.render.explain import show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit  # noqa: PLC0415

    ((opened, (chosen,)),) = plan([trace], [strategy], parameters, anyway=anyway).traces
    compile_kernels()
    with Bar() as bar:
        check(opened, bar)
        rows = max(1, opened.num_rows("dirty"))
        label = f"{opened.name}: {chosen.name}"
        found = ask(opened, chosen, parameters, page, lambda done: bar(label, done, rows))
    if as_json:
        emit(json.dumps(found.to_dict(), indent=2) + "\n")
    else:
        show(found, Page())
