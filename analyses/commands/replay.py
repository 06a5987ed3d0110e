"""`dirtylog replay`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import units
from analyses.commands.choices import AtEnd, GuestHold, LogMode, Profile, RequestAxis, metavar

if TYPE_CHECKING:
    from replay.parameters import Parameters


def replay(
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE", help="Trace directories.")],
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            "-s",
            metavar="NAME",
            show_default="all that the trace has data for",
            help="Strategy to replay, can be repeated; `dirtylog strategies` lists them.",
        ),
    ] = None,
    bandwidth: Annotated[
        str,
        typer.Option(metavar="RATE", help="Bandwidth of the link: B/s, kB/s, MiB/s, Gbit/s, ..."),
    ] = "10Gbit/s",
    downtime_limit: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Switch over when what is pending can be sent within this time: ns, us, ms, s, "
            "min.",
        ),
    ] = "300ms",
    profile: Annotated[
        Profile,
        typer.Option(metavar=metavar(Profile), help="Loop profile: when to copy, sync and stop."),
    ] = Profile.rounds,
    log_mode: Annotated[
        LogMode,
        typer.Option(
            metavar=metavar(LogMode),
            help="Dirty log: cleared at each sync, or by hand and chunk by chunk "
            "(KVM_DIRTY_LOG_MANUAL_PROTECT2).",
        ),
    ] = LogMode.legacy,
    clear_chunk: Annotated[
        int,
        typer.Option(metavar="PAGES", help="Pages in a chunk of log mode manual."),
    ] = 1 << 18,
    hint_clears_log: Annotated[
        bool,
        typer.Option(
            "--hint-clears-log/--no-hint-clears-log",
            help="In log mode manual a handled report clears the log of the chunks that it names "
            "(QEMU 6.1 and later).",
        ),
    ] = True,
    request: Annotated[
        RequestAxis | None,
        typer.Option(
            metavar=metavar(RequestAxis),
            show_default="each strategy's own",
            help="When reports are requested, for every strategy with hints.",
        ),
    ] = None,
    request_delay: Annotated[
        str,
        typer.Option(metavar="TIME", help="From a request to the guest's snapshot."),
    ] = "1ms",
    report_delay: Annotated[
        str,
        typer.Option(metavar="TIME", help="From the snapshot to the report's arrival."),
    ] = "10ms",
    handle_delay: Annotated[
        str,
        typer.Option(metavar="TIME", help="From the arrival to the handling by the host."),
    ] = "1ms",
    hint_interval: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Between the requests of periodic and the ticks of resubmit."
        ),
    ] = "100ms",
    guest_hold: Annotated[
        GuestHold,
        typer.Option(
            metavar=metavar(GuestHold),
            help="How long the guest keeps off reported pages: not at all, until the report is "
            "handled, for good; auto is each strategy's own.",
        ),
    ] = GuestHold.auto,
    min_order: Annotated[
        int,
        typer.Option(metavar="N", help="Report only aligned, wholly free blocks of 2^N pages."),
    ] = 0,
    max_rounds: Annotated[
        int | None,
        typer.Option(
            metavar="N", show_default="no limit", help="Switch over after N rounds at the latest."
        ),
    ] = None,
    at_end: Annotated[
        AtEnd,
        typer.Option(
            metavar=metavar(AtEnd),
            help="When the trace ends before the switchover: stop the replay, or start the trace "
            "over.",
        ),
    ] = AtEnd.stop,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Replay even a trace that was recorded with hinting on."),
    ] = False,
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
    times = {
        "--downtime-limit": downtime_limit,
        "--request-delay": request_delay,
        "--report-delay": report_delay,
        "--handle-delay": handle_delay,
        "--hint-interval": hint_interval,
    }
    ns = {option: units.duration(text, option) for option, text in times.items()}
    rate = units.bandwidth(bandwidth, "--bandwidth")

    from replay.parameters import Parameters  # noqa: PLC0415 - heavy

    _replay(
        traces,
        strategy or [],
        Parameters(
            bandwidth=rate,
            downtime_limit_ns=ns["--downtime-limit"],
            profile=profile.value,
            log_mode=log_mode.value,
            clear_chunk=clear_chunk,
            hint_clears_log=hint_clears_log,
            request=request.value if request is not None else None,
            request_delay_ns=ns["--request-delay"],
            report_delay_ns=ns["--report-delay"],
            handle_delay_ns=ns["--handle-delay"],
            hint_interval_ns=ns["--hint-interval"],
            guest_hold=guest_hold.value,
            min_order=min_order,
            max_rounds=max_rounds,
            at_end=at_end.value,
        ),
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
    from analyses.outputs import replaceable, write_tables  # noqa: PLC0415
    from analyses.render.report import show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit, remark  # noqa: PLC0415
    from tracer.files import whole_directory  # noqa: PLC0415

    work = plan(traces, names, parameters, anyway=anyway)
    for text in work.remarks:
        remark(text)
    if output is not None:
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
