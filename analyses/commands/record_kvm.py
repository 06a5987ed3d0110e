"""`dirtylog record kvm`."""

from __future__ import annotations

from typing import Annotated

import typer

from analyses.commands import units
from analyses.commands.choices import KvmDemo, KvmLog, metavar
from analyses.commands.making import Force, Output
from analyses.commands.record import Duration, make


def record_kvm(
    output: Output,
    demo: Annotated[
        KvmDemo,
        typer.Option(
            metavar=metavar(KvmDemo),
            help="Guest program: every page in order; a few pages always and the others in turn; "
            "pages drawn at random.",
        ),
    ] = KvmDemo.sweep,
    log: Annotated[
        KvmLog,
        typer.Option(
            metavar=metavar(KvmLog),
            help="KVM's dirty log: the bitmap (KVM_GET_DIRTY_LOG), the bitmap cleared by hand "
            "(KVM_CLEAR_DIRTY_LOG), the dirty ring.",
        ),
    ] = KvmLog.bitmap,
    ring: Annotated[
        int, typer.Option(metavar="N", help="Entries of the dirty ring, a power of two.")
    ] = 4096,
    interval: Annotated[
        str,
        typer.Option(metavar="TIME", help="Guest time from one harvest of the log to the next."),
    ] = "100ms",
    duration: Duration = None,
    force: Force = False,
) -> None:
    """Record a small guest program under KVM through KVM's own dirty log.

    Shows what the log of this machine's KVM says of pages that are known to be written. For a
    virtual machine of your own use tracer.recorders.kvm_log from Python.
    """
    from tracer.recorders.kvm import record_kvm as record  # noqa: PLC0415 - heavy

    make(
        lambda wanted: record(
            wanted,
            demo=demo.value,
            mode=log.value,
            interval_ns=units.duration(interval, "--interval"),
            ring_entries=ring,
        ),
        output,
        duration,
        force,
    )
