"""`dirtylog prove`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from analyses.commands import units
from analyses.commands.choices import GuestHold, LogMode, RequestAxis, metavar
from analyses.commands.making import Force
from analyses.commands.options import AsJson, HintClearsLog, StrategyArgument

#: A repair whose proof takes more memory (bytes) is left to `dirtylog repair`.
_REPAIR_MEMORY = 40_000_000


def prove(
    strategy: StrategyArgument,
    pages: Annotated[int, typer.Option(metavar="N", help="Search guests of 1 up to N pages.")] = 3,
    reports: Annotated[
        int, typer.Option(metavar="N", help="Follow courses with up to N reports outstanding.")
    ] = 2,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default="no limit",
            help="Follow courses of up to N steps; where some go on nothing is proved.",
        ),
    ] = None,
    log_mode: Annotated[
        LogMode,
        typer.Option(
            metavar=metavar(LogMode),
            help="Dirty log: cleared at each sync, or by hand and chunk by chunk, with chunks of "
            "every size.",
        ),
    ] = LogMode.legacy,
    hint_clears_log: HintClearsLog = True,
    guest_hold: Annotated[
        GuestHold,
        typer.Option(
            metavar=metavar(GuestHold),
            help="Until when the guest may not take reported pages: no such rule, until the report "
            "is handled, never again; auto is the strategy's own.",
        ),
    ] = GuestHold.auto,
    request: Annotated[
        RequestAxis | None,
        typer.Option(
            metavar=metavar(RequestAxis),
            show_default="the strategy's own",
            help="When reports are requested.",
        ),
    ] = None,
    guest_runs: Annotated[
        bool,
        typer.Option(
            "--guest-runs",
            help="Let the guest run from snapshot to handling though the strategy stops it.",
        ),
    ] = False,
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Stop where the states take more, and say what is known by then: MB, GiB, ...",
        ),
    ] = "1GiB",
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="X.trace",
            show_default="none",
            help="Write the counterexample as a trace, and show the command that replays it.",
        ),
    ] = None,
    force: Force = False,
    offer_repairs: Annotated[
        bool,
        typer.Option(
            "--repairs/--no-repairs",
            help="After a refutation search for the nearest strategies that are proved.",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Search every interleaving of guest, reports and host for a lost write.

    Profile rounds, with the policies that replays use, on guests of a few pages: either no order of
    steps loses a write, or a shortest one that does is shown, put on the clock and replayed. Ends
    with exit code 5 where a write can be lost, and where --steps leaves that undecided.
    """
    from analyses.commands.compiling import announce_compilation  # noqa: PLC0415 - heavy
    from analyses.interleavings import Bounds  # noqa: PLC0415
    from analyses.outputs import write_trace  # noqa: PLC0415
    from analyses.proof import prove as search  # noqa: PLC0415
    from analyses.proof import setting_of  # noqa: PLC0415
    from analyses.render.proof import show  # noqa: PLC0415
    from analyses.render.repair import offer  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit, remark  # noqa: PLC0415
    from analyses.repair import repairs  # noqa: PLC0415
    from replay.kernels import sweep  # noqa: PLC0415
    from replay.parameters import Parameters  # noqa: PLC0415
    from tracer.errors import CheckError  # noqa: PLC0415

    bounds = Bounds(pages, reports, steps, units.size(memory, "--memory"))
    axis = None if request is None else request.value
    setting = setting_of(strategy, axis, guest_runs=guest_runs)
    setting = replace(
        setting,
        log_mode=log_mode.value,
        hold=Parameters(guest_hold=guest_hold.value).hold(setting.strategy),
        hint_clears_log=hint_clears_log,
    )
    announce_compilation(sweep)
    with Bar() as bar:
        proof = search(setting, bounds, guest_runs=guest_runs, watch=bar, remark=remark)
    written = trace if proof.enactment is not None else None
    if written is not None and proof.enactment is not None:
        write_trace(written, proof.enactment.trace.meta, proof.enactment.tables, force=force)
    elif trace is not None:
        remark(f"{trace}: not written, as there is nothing that a replay could confirm")
    near = None
    if proof.course is not None and offer_repairs:
        # Within a smaller bound than the default more would pass for a repair than is one.
        wide = Bounds()
        near = repairs(
            setting,
            Bounds(max(pages, wide.pages), max(reports, wide.reports), None, _REPAIR_MEMORY),
        )
    if as_json:
        rows = [] if near is None else [repair.to_dict() for repair in near.found]
        emit(json.dumps({**proof.to_dict(), "repairs": rows}, indent=2) + "\n")
    else:
        show(proof, Page(), None if written is None else str(written))
        if near is not None:
            offer(near, Page())
    if proof.course is not None:
        raise CheckError(f"{strategy} can lose a write")
    if proof.verdict != "proved":
        raise CheckError(f"whether {strategy} can lose a write was not decided")
