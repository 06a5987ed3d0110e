"""`dirtylog replay`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands.options import Anyway, ReplayOptions, Strategies, with_replay_options

if TYPE_CHECKING:
    from replay.parameters import Parameters


@with_replay_options
def replay(
    *,
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE", help="Trace directories.")],
    strategy: Strategies = None,
    options: ReplayOptions,
    anyway: Anyway = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            show_default="none",
            help="Write results, rounds, reports and unsafe .parquet into this new directory.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier output in DIR.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result rows as one JSON list instead.")
    ] = False,
) -> None:
    """Replay traces under migration strategies and report which lose writes and what each wastes.

    A row is one trace under one strategy in one scenario. Where the recording does not know every
    write there are several scenarios, and the verdict is searched for among all that the trace
    allows: unsafe, possible (unsafe), safe; or unknown without a switchover.
    """
    _replay(
        traces,
        strategy or [],
        options.parameters(),
        anyway=anyway,
        output=output,
        force=force,
        as_json=as_json,
    )


def _replay(
    traces: list[Path],
    names: list[str],
    parameters: Parameters,
    *,
    anyway: bool,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    from analyses.commands.compiling import compile_kernels  # noqa: PLC0415 - heavy
    from analyses.compare import compare, plan  # noqa: PLC0415
    from analyses.render.report import show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit, remark  # noqa: PLC0415
    from tracer.files import whole_directory  # noqa: PLC0415

    work = plan(traces, names, parameters, anyway=anyway)
    for text in work.remarks:
        remark(text)
    if output is not None:
        from analyses.outputs import replaceable, write_tables  # noqa: PLC0415

        output = output.resolve()
        replaceable(output)
    compile_kernels()
    # Opened before the work, so that an output that cannot be is refused before it.
    with nullcontext() if output is None else whole_directory(output, force=force) as directory:
        with Bar() as bar:
            comparisons = compare(work, bar)
        if directory is not None:
            write_tables(directory, comparisons, parameters)
    if output is not None:
        remark(f"wrote {output}")
    if as_json:
        rows = [result.to_dict() for one in comparisons for result in one.results]
        emit(json.dumps(rows, indent=2) + "\n")
    else:
        show(comparisons, Page())
