"""`dirtylog record migration` and `dirtylog record sampler`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.making import Force, Output
from analyses.commands.units import bandwidth as to_bandwidth
from analyses.commands.units import duration


def record_migration(
    output: Output,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QEMU",
            show_default="none",
            help="The guest's command line, last and behind --: -- qemu-system-x86_64 -m 4G ...; a "
            "QMP monitor and timestamps are added to it.",
        ),
    ] = None,
    qmp: Annotated[
        Path | None,
        typer.Option(
            metavar="SOCKET",
            show_default="none",
            help="Record a QEMU that runs already, through this QMP socket; it must have been "
            "started with -msg timestamp=on.",
        ),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="nowhere|second|URI",
            help="Where to migrate: throw the pages away, to a second QEMU started here, or to a "
            "URI such as tcp:HOST:PORT or exec:COMMAND.",
        ),
    ] = "nowhere",
    bandwidth: Annotated[
        str | None,
        typer.Option(metavar="RATE", show_default="QEMU's", help="max-bandwidth of the migration."),
    ] = None,
    downtime_limit: Annotated[
        str | None,
        typer.Option(metavar="TIME", show_default="QEMU's", help="downtime-limit, in whole ms."),
    ] = None,
    auto_converge: Annotated[
        bool, typer.Option("--auto-converge", help="Throttle the guest where it does not converge.")
    ] = False,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=on|off]",
            show_default="none",
            help="Capability of the migration, can be repeated.",
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            show_default="none",
            help="Parameter of the migration, can be repeated.",
        ),
    ] = None,
    free_page_hint: Annotated[
        bool,
        typer.Option(
            "--free-page-hint",
            help="The guest's balloon hints free pages; a launched guest gets one if it has none.",
        ),
    ] = False,
    freelist: Annotated[
        str | None,
        typer.Option(
            metavar="virtio|serial|unix:PATH|exec:COMMAND",
            show_default="none",
            help="Where the guest's sampler prints (dirtylog record sampler): a port added to a "
            "launched guest, a socket, or a command's output such as 'exec:ssh guest freelist'.",
        ),
    ] = None,
    start_when: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            show_default="none",
            help="Migrate when a line that QEMU prints (-serial stdio, -nographic) has this in it.",
        ),
    ] = None,
    start_after: Annotated[
        str, typer.Option(metavar="TIME", help="Let the guest run on so long before that.")
    ] = "0",
    cancel_after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            show_default="never",
            help="Cancel a migration that takes longer; Ctrl-C does so at once.",
        ),
    ] = None,
    keep_log: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="none",
            help="Keep QEMU's log, its answers and the guest's lines in this new folder, as input "
            "of dirtylog import qemu.",
        ),
    ] = None,
    qemu_log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="beside the trace",
            help="Where QEMU writes its log, for one that may not write beside the trace.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Migrate a QEMU guest for real, record it, and make a trace of it.

    Launches the guest and puts it away in the end, or uses one that runs. Ctrl-C cancels the
    migration and keeps what was recorded. The trace's path goes to stdout, words to stderr.
    """
    from analyses.render.imported import show  # noqa: PLC0415 - heavy
    from analyses.render.recording import Ticker, told  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit, remark  # noqa: PLC0415
    from tracer.files import check_free  # noqa: PLC0415
    from tracer.readers import import_qemu  # noqa: PLC0415
    from tracer.recorders.folder import Folder  # noqa: PLC0415
    from tracer.recorders.migration import record_migration as record  # noqa: PLC0415
    from tracer.recorders.wanted import Wanted  # noqa: PLC0415
    from tracer.writer import TraceWriter  # noqa: PLC0415

    converge = {"auto-converge": True} if auto_converge else {}
    wanted = Wanted(
        command=tuple(command or ()),
        qmp=qmp,
        to=to,
        parameters={**_limits(bandwidth, downtime_limit), **_pairs(parameter or [])},
        capabilities={**converge, **_states(capability or [])},
        freelist=freelist,
        free_page_hint=free_page_hint,
        start_when=start_when,
        start_after_s=_seconds(start_after, "--start-after") or 0.0,
        cancel_after_s=_seconds(cancel_after, "--cancel-after"),
        qemu_log=None if qemu_log is None else qemu_log.absolute(),
    )
    # What stands in the way of the trace is said before the guest is started.
    TraceWriter(output)
    check_free(output, force=force)
    folder = Folder(
        keep_log or output.with_name(f"{output.name}.log"), force=force and not keep_log
    )
    try:
        with Ticker() as ticker:
            ending = record(wanted, folder, ticker)
        for text in (told(ending), *ending.left):
            remark(text)
        with Bar() as bar:
            report = import_qemu(
                folder.path,
                out=output,
                force=force,
                progress=lambda done, total: bar("reading the log", done, total),
            )
            if keep_log is not None:
                folder.compress(lambda done, total: bar("compressing the log", done, total))
    except BaseException:
        if folder.worth_keeping:
            remark(f"{folder.path}: keeps what was recorded; dirtylog import qemu reads it")
        elif keep_log is None:
            folder.remove()
        raise
    if keep_log is None:
        folder.remove()
    show(report, Page(stderr=True))
    emit(f"{report.out}\n")


def sampler(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The program to make.")
    ] = Path("freelist"),
    source: Annotated[
        bool, typer.Option("--source", help="Print its C source instead of compiling it.")
    ] = False,
    compiler: Annotated[
        str, typer.Option("--cc", metavar="COMMAND", help="C compiler for the guest's processor.")
    ] = "cc",
) -> None:
    """Make the program that samples the free list inside a Linux guest.

    One static file without dependencies, to be copied into the guest and run as root: `freelist -o
    /dev/virtio-ports/org.dirtylog.freelist`; -p sets the pause between two samples in ms, -s
    streams every page taken and given back as ftrace's text.
    """
    from analyses.render.terminal import emit  # noqa: PLC0415
    from tracer.recorders.sampler import SOURCE, compile_sampler  # noqa: PLC0415

    if source:
        emit(SOURCE.read_text(encoding="utf-8"))
    else:
        compile_sampler(output, compiler)
        emit(f"{output}\n")


def _limits(rate: str | None, limit: str | None) -> dict[str, int]:
    limits = {}
    if rate is not None:
        limits["max-bandwidth"] = to_bandwidth(rate, "--bandwidth")
    if limit is not None:
        ns = duration(limit, "--downtime-limit")
        if ns % 1_000_000:
            raise typer.BadParameter(f"--downtime-limit: {limit!r} is no whole number of ms")
        limits["downtime-limit"] = ns // 1_000_000
    return limits


def _seconds(text: str | None, option: str) -> float | None:
    return None if text is None else duration(text, option) / 1e9


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not (name and given):
            raise typer.BadParameter(f"--parameter: {text!r} is no NAME=VALUE")
        pairs[name] = value
    return pairs


def _states(texts: list[str]) -> dict[str, bool]:
    states = {}
    for text in texts:
        name, _, state = text.partition("=")
        if not name or state not in ("", "on", "off"):
            raise typer.BadParameter(f"--capability: {text!r}; wanted NAME, NAME=on or NAME=off")
        states[name] = state != "off"
    return states
