"""`dirtylog record qemu`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands import units
from analyses.commands.making import Force, Output
from analyses.commands.record import Duration, make


def record_qemu(
    output: Output,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QEMU",
            show_default="none",
            help="With --launch: the guest's command line, last and behind --: -- "
            "qemu-system-x86_64 -accel tcg -m 4G ...; a plugin and a QMP monitor are added to it.",
        ),
    ] = None,
    launch: Annotated[
        bool,
        typer.Option(
            "--launch",
            help="Launch a guest under TCG and record every store of its vCPUs, by a plugin in its "
            "QEMU.",
        ),
    ] = False,
    qmp: Annotated[
        Path | None,
        typer.Option(
            metavar="SOCKET",
            show_default="none",
            help="Record a QEMU that runs already under KVM with a dirty ring, through this QMP "
            "socket.",
        ),
    ] = None,
    quantum: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            show_default="1ms",
            help="With --launch: a page's stores within so long are one row.",
        ),
    ] = None,
    round_time: Annotated[
        str | None,
        typer.Option(
            "--round",
            metavar="TIME",
            show_default="1s",
            help="With --qmp: one epoch, in whole seconds up to 60; between two rounds nothing is "
            "logged for some ms.",
        ),
    ] = None,
    qemu_log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="beside the trace",
            help="With --qmp: where QEMU writes its log meanwhile, for one that may not write "
            "beside the trace.",
        ),
    ] = None,
    duration: Duration = None,
    force: Force = False,
) -> None:
    """Record a QEMU guest without migrating it.

    With --launch every page that a vCPU stores to is there, once a quantum, from the guest's first
    instruction on; the guest is ended in the end. With --qmp the pages of KVM's dirty ring are
    there, epoch by epoch, and the guest runs on as it was; what else a QEMU cannot tell is said.
    """
    from tracer.errors import UsageError  # noqa: PLC0415 - its package is heavy
    from tracer.recorders.attached import record_attached  # noqa: PLC0415
    from tracer.recorders.launched import record_launched  # noqa: PLC0415

    if launch == (qmp is not None):
        raise UsageError("pass either --launch with QEMU's command line behind --, or --qmp SOCKET")
    if qmp is not None:
        if command:
            raise UsageError("--qmp records a QEMU that runs; leave its command line out")
        if quantum is not None:
            raise UsageError("--quantum has no effect with --qmp, where --round says how long")
        round_ns = units.duration(round_time or "1s", "--round")
        make(
            lambda wanted: record_attached(wanted, qmp, round_ns=round_ns, log=qemu_log),
            output,
            duration,
            force,
        )
        return
    for option, given in (("--round", round_time), ("--qemu-log", qemu_log)):
        if given is not None:
            raise UsageError(f"{option} has no effect with --launch; it is for --qmp")
    quantum_ns = units.duration(quantum or "1ms", "--quantum")
    make(
        lambda wanted: record_launched(wanted, command or [], quantum_ns=quantum_ns),
        output,
        duration,
        force,
    )
