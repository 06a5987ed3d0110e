"""`dirtylog sweep`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from analyses.commands import units
from analyses.commands.lists import Lists, with_lists
from analyses.commands.options import Anyway, Strategies

#: So many failed tasks are named; all stand in tasks.parquet.
_NAMED = 20


@with_lists
def sweep(
    *,
    traces: Annotated[
        list[str],
        typer.Argument(
            metavar="TRACE",
            help="Traces: directories, or addresses (s3://, gs://); a folder stands for all "
            "traces below it.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where results go; what an earlier sweep has done there is not done again.",
        ),
    ],
    strategy: Strategies = None,
    options: Lists,
    anyway: Anyway = False,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, show_default="one a core", help="Processes on this machine."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            show_default="this machine alone",
            help="Work on the Dask cluster whose scheduler is there, like tcp://HOST:8786.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="a folder of yours in the machine's temporary one",
            help="Where each machine keeps copies of traces from a store.",
        ),
    ] = None,
    cache_size: Annotated[
        str, typer.Option(metavar="SIZE", help="What may lie there on each machine.")
    ] = "100GiB",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what came out as one JSON object instead.")
    ] = False,
) -> None:
    """Replay traces under strategies with every combination of parameters, on many cores.

    Every option of a replay takes several values with commas between them. What is done is kept:
    the same command after an interruption, or with more values, goes on. The results do not depend
    on how many workers there are. A task whose process dies is tried again; those that fail for
    good are listed in the end, with exit code 5, and the others finish.
    """
    parameters = options.parameters()
    limit = units.size(cache_size, "--cache-size")
    if scheduler is not None and workers is not None:
        raise typer.BadParameter("--workers are this machine's; a cluster has its own")

    from analyses.commands.compiling import compile_kernels  # noqa: PLC0415 - heavy
    from analyses.render.sweep import SweepBar, show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit, remark  # noqa: PLC0415
    from analyses.sweep.executors import cluster, processes  # noqa: PLC0415
    from analyses.sweep.plan import plan  # noqa: PLC0415
    from analyses.sweep.results import TASKS, folder  # noqa: PLC0415
    from analyses.sweep.run import sweep as run  # noqa: PLC0415
    from analyses.sweep.summary import Summary, failures, to_dict  # noqa: PLC0415
    from tracer.errors import CheckError  # noqa: PLC0415
    from tracer.places import Cache, default_cache  # noqa: PLC0415

    store = Cache((cache or default_cache()).resolve(), limit)
    with Bar() as bar:
        work = plan(traces, strategy or [], parameters, store, bar, anyway=anyway)
    for text in work.remarks:
        remark(text)
    summary = Summary()
    here = workers or len(os.sched_getaffinity(0))
    where = processes(here) if scheduler is None else cluster(scheduler)
    if scheduler is None:
        compile_kernels()
    with folder(output) as kept:
        with where as place, SweepBar() as tell:
            state = run(work, place, kept, store, tell)
        kept.finish(work, state.failed, summary)
    if as_json:
        emit(json.dumps(to_dict(work, state, summary), indent=2) + "\n")
    else:
        show(state, summary, (len(work.traces), len(work.parameters)), str(output), Page())
    if state.failed:
        for text in failures(work, state, _NAMED):
            remark(text)
        raise CheckError(
            f"{len(state.failed)} of {state.total} tasks failed; {output / TASKS} lists them, and "
            "the same command tries them again"
        )
