"""`dirtylog conform`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.making import Force
from analyses.commands.options import AsJson, StrategyArgument


def conform(
    strategy: StrategyArgument,
    guests: Annotated[int, typer.Option(metavar="N", help="Random guests to try it on.")] = 200,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed gives the same guests.")
    ] = 5,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="X.trace",
            show_default="none",
            help="Write the smallest guest on which it fails, and show the command that replays "
            "it.",
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Try a strategy on random guests and check what every strategy must hold to.

    Its policies answer what they are asked, and the same each time; reports end; results are the
    same again, add up and fit each other. Ends with exit code 5 where one of these does not hold.
    Whether a write can be lost is another question: see `dirtylog prove`.
    """
    from analyses.commands.compiling import compile_kernels  # noqa: PLC0415 - heavy
    from analyses.conformance import conformance  # noqa: PLC0415
    from analyses.outputs import write_trace  # noqa: PLC0415
    from analyses.render.conformance import show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit, remark  # noqa: PLC0415
    from replay.strategies import strategy as named  # noqa: PLC0415
    from tracer.errors import CheckError  # noqa: PLC0415

    chosen = named(strategy)
    compile_kernels()
    with Bar() as bar:
        found = conformance(chosen, cases=guests, seed=seed, watch=bar)
    written = None
    if trace is not None and found.case is None:
        remark(f"{trace}: not written, as there is no guest on which it fails")
    elif trace is not None and found.case is not None:
        case = found.case[1]
        write_trace(trace, case.meta, case.tables, force=force)
        written = str(trace)
    if as_json:
        emit(json.dumps(found.to_dict(), indent=2) + "\n")
    else:
        show(found, Page(), written)
    if not found.holds:
        raise CheckError(f"{strategy} does not hold to what every strategy must")
