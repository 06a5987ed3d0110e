"""`dirtylog hazards`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from analyses.commands import units
from analyses.commands.choices import Varied, metavar
from analyses.commands.options import (
    Anyway,
    OneStrategy,
    OneTrace,
    ReplayOptions,
    with_replay_options,
)


@with_replay_options
def hazards(
    *,
    trace: OneTrace,
    strategy: OneStrategy,
    vary: Annotated[
        Varied, typer.Option(metavar=metavar(Varied), help="What is varied; the rest is fixed.")
    ] = Varied.report_delay,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="VALUE",
            show_default="0; for a bandwidth a quarter of --bandwidth",
            help="The smallest value: a time, or a rate for bandwidth.",
        ),
    ] = None,
    up_to: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE",
            show_default="the trace's duration; for a bandwidth four times --bandwidth",
            help="The largest value.",
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=3,
            show_default="by the trace's size, some seconds' worth",
            help="Replay so often at most; where that is not enough the answer says so.",
        ),
    ] = None,
    options: ReplayOptions,
    anyway: Anyway = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="End with exit code 5 if a value in the range loses a page."),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print it as one JSON object instead; delays in ns, rates in bytes/s."
        ),
    ] = False,
) -> None:
    """Find the delays, or the bandwidths, at which a strategy loses a write on a trace.

    Every whole ns (or byte/s) of the range is settled, not a sample of them: replays whose order of
    events is the same lose the same. Where a trace is too large for that, the answer says what was
    checked and what lies unknown between.
    """
    parameters = options.parameters_as_recorded("hazards")
    ends = [
        None if text is None else _value(text, option, vary)
        for text, option in ((start, "--from"), (up_to, "--up-to"))
    ]

    from analyses.commands.compiling import announce_compilation, compile_kernels  # noqa: PLC0415 - heavy
    from analyses.compare import check as validate  # noqa: PLC0415
    from analyses.compare import plan  # noqa: PLC0415
    from analyses.hazards import default_budget  # noqa: PLC0415
    from analyses.hazards import hazards as find  # noqa: PLC0415
    from analyses.render.hazards import show, value  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit  # noqa: PLC0415
    from analyses.unanswered_kernels import intervals  # noqa: PLC0415
    from tracer.errors import CheckError  # noqa: PLC0415

    work = plan([trace], [strategy], parameters, anyway=anyway)
    ((opened, (chosen,)),) = work.traces
    compile_kernels()
    announce_compilation(intervals)
    with Bar() as bar:
        validate(opened, bar)
        most = budget or default_budget(opened)
        found = find(
            opened,
            chosen,
            parameters,
            vary.value,
            lo=ends[0],
            hi=ends[1],
            budget=most,
            tell=lambda done: bar(f"{opened.name}: {strategy}", done, most),
        )
    if as_json:
        emit(json.dumps(found.to_dict(), indent=2) + "\n")
    else:
        show(found, Page())
    if check and found.smallest is not None:
        raise CheckError(
            f"{strategy} loses a page at {vary.value.replace('-', ' ')} "
            f"{value(found, found.smallest)}"
        )


def _value(text: str, option: str, vary: Varied) -> int:
    if vary is Varied.bandwidth:
        return units.bandwidth(text, option)
    return units.duration(text, option)
