"""`dirtylog accuracy`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from analyses.commands import units
from analyses.commands.qemu_options import (
    DeviceState,
    GuestLoad,
    LineRate,
    Qemu,
    StopTime,
    WakeUp,
    ZeroPageTime,
    line_parameters,
    qemu_version,
)

if TYPE_CHECKING:
    from analyses.accuracy import Accuracy
    from analyses.recording import Recording
    from tracer.errors import DirtylogError

Item = TypeVar("Item")
Done = TypeVar("Done")


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
            metavar="RATE",
            show_default="as recorded",
            help="max-bandwidth of the migrations, where it was not recorded.",
        ),
    ] = None,
    downtime_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            show_default="as recorded, else 300ms",
            help="downtime-limit of the migrations, where it was not recorded.",
        ),
    ] = None,
    line_rate: LineRate = None,
    zero_page_time: ZeroPageTime = None,
    wake_up: WakeUp = None,
    stop_time: StopTime = None,
    device_state: DeviceState = None,
    guest_load: GuestLoad = None,
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

    unfit: list[DirtylogError] = []
    opened = list(_each(Trace.open, traces, unfit))
    if any(trace.migration is not None for trace in opened):
        for trace in (one for one in opened if one.migration is None):
            remark(f"{trace.path}: left out: no migration was recorded along (no migration.json)")
        opened = [one for one in opened if one.migration is not None]
    recordings = list(_each(Recording.of, opened, unfit))
    origin = None if source is None else Trace.open(source)
    if recordings:
        compile_kernels()

    def foretold(recording: Recording) -> Accuracy:
        if origin is None:
            check(recording.trace, bar)
        return measure(
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

    with Bar() as bar:
        if origin is not None:
            check(origin, bar)
        found = list(_each(foretold, recordings, unfit))
    if as_json and found:
        emit(json.dumps([row.to_dict() for one in found for row in one.rows], indent=2) + "\n")
        for text in (text for one in found for text in one.remarks):
            remark(text)
    elif found:
        show(found, Page(), tolerance)
    unfit.sort(key=lambda error: error.exit_code)
    missed = [row for one in found for row in one.missed(tolerance or 0)]
    if tolerance is not None and missed:
        names = ", ".join(f"{row.trace} {row.quantity}" for row in missed)
        unfit.insert(0, CheckError(f"off by more than {tolerance:g} %: {names}"))
    # The last of them says how it ends: a corrupt trace goes before one that does not fit, and
    # that before a miss.
    for error in unfit[:-1]:
        remark(str(error))
    if unfit:
        raise unfit[-1]


def _each(
    deed: Callable[[Item], Done], items: Iterable[Item], unfit: list[DirtylogError]
) -> Iterator[Done]:
    """Yield what comes of each; what does not fit is told apart, and the others are done."""
    from tracer.errors import DirtylogError  # noqa: PLC0415 - its package is heavy

    for item in items:
        try:
            yield deed(item)
        except DirtylogError as error:
            unfit.append(error)
