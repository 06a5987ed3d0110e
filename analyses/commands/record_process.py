"""`dirtylog record process`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import units
from analyses.commands.choices import ProcessMethod, metavar
from analyses.commands.making import Force, Output
from analyses.commands.record import Duration, make

if TYPE_CHECKING:
    from tracer.recorders.mappings import Region


def record_process(
    output: Output,
    pid: Annotated[
        int | None,
        typer.Option(
            metavar="N", show_default="the one at SOCKET", help="The virtual machine's process."
        ),
    ] = None,
    qmp: Annotated[
        Path | None,
        typer.Option(
            metavar="SOCKET",
            show_default="none",
            help="QMP socket of the QEMU to record: it tells where it has its RAM, block by block.",
        ),
    ] = None,
    ram: Annotated[
        list[str] | None,
        typer.Option(
            metavar="START-END|NAME",
            show_default="by QEMU's -m, else the largest mapping",
            help="Addresses of the guest's RAM in the process, hex, or part of its name in "
            "/proc/N/maps; can be repeated.",
        ),
    ] = None,
    ram_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            show_default="none",
            help="Look for the guest's RAM by its size, such as 4GiB: one mapping or two.",
        ),
    ] = None,
    method: Annotated[
        ProcessMethod,
        typer.Option(
            metavar=metavar(ProcessMethod),
            help="How written pages are told: by write protection (Linux 6.7 and on), or by "
            "soft-dirty bits, for which the process stands still during each harvest.",
        ),
    ] = ProcessMethod.auto,
    interval: Annotated[
        str, typer.Option(metavar="TIME", help="From one harvest to the next.")
    ] = "1s",
    zeros: Annotated[
        bool,
        typer.Option(
            "--zeros/--no-zeros",
            help="Read the guest's pages, all of them once and then those written, to tell which "
            "are zero.",
        ),
    ] = True,
    duration: Duration = None,
    force: Force = False,
) -> None:
    """Record any virtual machine from outside: the pages that its process writes.

    Works for KVM and emulators alike and leaves them as they were. Sees what devices write too, but
    not what passes the process' page tables, such as DMA of passed-through devices.
    """
    from tracer.recorders.process import record_process as record  # noqa: PLC0415 - heavy

    number, regions, notes = _where(pid, qmp, ram or [], ram_size)
    make(
        lambda wanted: record(
            wanted,
            number,
            regions,
            method=method.value,
            interval_ns=units.duration(interval, "--interval"),
            zeros=zeros,
            notes=notes,
        ),
        output,
        duration,
        force,
    )


def _where(
    pid: int | None, qmp: Path | None, ram: list[str], ram_size: str | None
) -> tuple[int, list[Region], list[str]]:
    """Return the process, its regions of RAM, and what is to be said of them."""
    from tracer.errors import UsageError  # noqa: PLC0415 - its package is heavy
    from tracer.recorders.mappings import find_ram  # noqa: PLC0415
    from tracer.recorders.ramblocks import ask_qemu  # noqa: PLC0415

    if (qmp is not None) + bool(ram) + (ram_size is not None) > 1:
        raise UsageError("--qmp, --ram and --ram-size each say where the RAM is; pass one of them")
    if qmp is not None:
        if pid is not None:
            raise UsageError("--qmp tells the process by itself; leave --pid out")
        return ask_qemu(qmp)
    if pid is None:
        raise UsageError("nothing to record; pass --pid N, or --qmp SOCKET")
    size = None if ram_size is None else units.size(ram_size, "--ram-size")
    return pid, find_ram(pid, ram, size), []
