"""`dirtylog accuracy`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from analyses.commands import units
from analyses.commands.qemu_options import (
    DeviceState,
    LineRate,
    Qemu,
    StopTime,
    WakeUp,
    ZeroPageTime,
    line_parameters,
    qemu_version,
)


def accuracy(
    traces: Annotated[
        list[Path],
        typer.Argument(metavar="TRACE", help="Traces with a recorded migration (migration.json)."),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="TRACE",
            show_default="each trace itself",
            help="Foretell the migrations from this trace, recorded under other parameters.",
        ),
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            metavar="RATE", show_default="as recorded", help="max-bandwidth of the migrations."
        ),
    ] = None,
    downtime_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", show_default="as recorded", help="downtime-limit of the migrations."
        ),
    ] = None,
    line_rate: LineRate = None,
    zero_page_time: ZeroPageTime = None,
    wake_up: WakeUp = None,
    stop_time: StopTime = None,
    device_state: DeviceState = None,
    guest_load: Annotated[
        int | None,
        typer.Option(
            metavar="PCT",
            min=1,
            max=100,
            show_default="as its recording shows, else 100",
            help="Share of its vCPUs' time that the guest's work takes; a throttle slows it only "
            "where less is left.",
        ),
    ] = None,
    qemu: Qemu = None,
    even_host: Annotated[
        bool,
        typer.Option(
            "--even-host",
            help="Foretell for a host that keeps the sender from nothing, not for the recorded "
            "one: what the model knows by itself.",
        ),
    ] = False,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Foretell with so many seeds, and show how far apart the predictions are.",
        ),
    ] = 1,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="PCT",
            min=0,
            show_default="none",
            help="End with exit code 5 where what is foretold (expected, or the first scenario) is "
            "off by more: pages, bytes, syncs, throttle, or total time by more than 100 ms too.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the rows as one JSON list instead.")
    ] = False,
) -> None:
    """Foretell recorded migrations and set predicted against real.

    Replays each trace with profile qemu under the parameters of the migration that was recorded
    along with it: pages, bytes, syncs, times, throttle and pages per epoch.
    """
    rate = None if bandwidth is None else units.bandwidth(bandwidth, "--bandwidth")
    limit = None if downtime_limit is None else units.duration(downtime_limit, "--downtime-limit")
    line = line_parameters(
        line_rate=line_rate,
        zero_page_time=zero_page_time,
        wake_up=wake_up,
        stop_time=stop_time,
        device_state=device_state,
    )

    from analyses.accuracy import measure  # noqa: PLC0415 - heavy
    from analyses.commands.compiling import compile_kernels  # noqa: PLC0415
    from analyses.compare import check  # noqa: PLC0415
    from analyses.recording import Recording  # noqa: PLC0415
    from analyses.render.accuracy import show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit, remark  # noqa: PLC0415
    from tracer.errors import CheckError  # noqa: PLC0415
    from tracer.trace import Trace  # noqa: PLC0415

    opened = [Trace.open(path) for path in traces]
    lacking = [trace for trace in opened if trace.migration is None]
    if len(lacking) == len(opened):
        Recording.of(opened[0])
    for trace in lacking:
        remark(f"{trace.path}: left out, as no migration was recorded along (no migration.json)")
    recordings = [Recording.of(trace) for trace in opened if trace not in lacking]
    origin = None if source is None else Trace.open(source)
    compile_kernels()
    with Bar() as bar:
        for trace in [*(r.trace for r in recordings)] if origin is None else [origin]:
            check(trace, bar)
        found = [
            measure(
                recording,
                origin,
                bandwidth=rate,
                downtime_ns=limit,
                line=line,
                guest_load=guest_load,
                version=None if qemu is None else qemu_version(qemu),
                even_host=even_host,
                seeds=seeds,
            )
            for recording in recordings
        ]
    if as_json:
        emit(json.dumps([row.to_dict() for one in found for row in one.rows], indent=2) + "\n")
        for text in (text for one in found for text in one.remarks):
            remark(text)
    else:
        show(found, Page(), tolerance)
    if tolerance is not None:
        missed = [row for one in found for row in one.missed(tolerance)]
        if missed:
            names = ", ".join(f"{row.trace} {row.quantity}" for row in missed)
            raise CheckError(f"off by more than {tolerance:g} %: {names}")
