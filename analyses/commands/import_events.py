"""`dirtylog import ftrace`, `kmem`, `lackey` and `simpletrace`: texts with an event a line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.choices import Compression
from analyses.commands.import_options import (
    Blocks,
    FrameSlots,
    Migration,
    PageSize,
    Slots,
    Text,
    run_import,
    signed_duration,
)
from analyses.commands.making import Compressed, Force, Output
from analyses.commands.units import duration


def import_ftrace(
    text: Text,
    output: Output,
    slots: FrameSlots = None,
    blocks: Blocks = None,
    pids: Annotated[
        list[int] | None,
        typer.Option(
            "--pid",
            metavar="PID",
            show_default="all: one guest",
            help="Process (or thread, where the text names no processes) whose events are read, "
            "can be repeated: for a host with several guests.",
        ),
    ] = None,
    page_size: PageSize = 4096,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make a trace of a host's kernel trace: KVM's dirty ring, or a probe on its dirty log.

    Reads ftrace's trace file, trace-cmd report, perf script and bpftrace. The input is made by
    `perf record -e kvm:kvm_dirty_ring_push -e kvm:kvm_dirty_ring_reset -p PID` and perf script, or
    by a program that `dirtylog import programs` prints.
    """
    from tracer.readers import import_ftrace as make  # noqa: PLC0415 - heavy

    run_import(
        "reading the text",
        lambda progress: make(
            text,
            out=output,
            slots=slots or (),
            blocks=blocks or (),
            pids=pids or (),
            page_size=page_size,
            force=force,
            compression=compression.value,
            progress=progress,
        ),
    )


def import_kmem(
    text: Text,
    output: Output,
    dirty: Annotated[
        Path | None,
        typer.Option(
            "--dirty",
            metavar="TRACE",
            show_default="none: a free list alone",
            help="The trace whose dirty pages the free list belongs to.",
        ),
    ] = None,
    offset: Annotated[
        str,
        typer.Option(
            "--offset",
            metavar="TIME",
            help="Added to the text's times to get those of the dirty pages' recording; may be "
            "negative (--offset=-1.5s).",
        ),
    ] = "0",
    freelist: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="samples in the text",
            help="Samples of the free list on the text's clock, for what no event tells.",
        ),
    ] = None,
    blocks: Blocks = None,
    allocations_write: Annotated[
        bool,
        typer.Option(
            "--allocations-write",
            help="Without --dirty: an allocated page counts as written then (init_on_alloc).",
        ),
    ] = False,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make the free list of a guest's own kmem:mm_page_alloc and mm_page_free.

    Reads ftrace's trace file, trace-cmd report, perf script and bpftrace. The input is made inside
    the guest by `perf record -a -e kmem:mm_page_alloc -e kmem:mm_page_free` and perf script, or by
    a program that `dirtylog import programs` prints.
    """
    from tracer.readers import import_kmem as make  # noqa: PLC0415 - heavy

    shift = signed_duration(offset, "--offset")
    run_import(
        "reading the text",
        lambda progress: make(
            text,
            out=output,
            dirty=dirty,
            offset_ns=shift,
            freelist=freelist,
            blocks=blocks or (),
            allocations_write=allocations_write,
            force=force,
            compression=compression.value,
            progress=progress,
        ),
    )


def import_lackey(
    text: Text,
    output: Output,
    instruction: Annotated[
        str,
        typer.Option(
            "--ns-per-instruction", metavar="NS", help="How long an instruction takes: the clock."
        ),
    ] = "1",
    quantum: Annotated[
        str,
        typer.Option(metavar="TIME", help="A page has one row in each quantum it is written in."),
    ] = "1ms",
    page_size: PageSize = 4096,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make a trace of every write of a process that ran under Valgrind's Lackey.

    The input is made by `valgrind --tool=lackey --trace-mem=yes --log-file=FILE PROGRAM`.
    """
    from tracer.errors import UsageError  # noqa: PLC0415 - heavy
    from tracer.readers import import_lackey as make  # noqa: PLC0415

    try:
        scale = Fraction(instruction)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--ns-per-instruction: {instruction!r} is no number like 0.5") from None
    cell = duration(quantum, "--quantum")
    run_import(
        "reading the text",
        lambda progress: make(
            text,
            out=output,
            ns_per_instruction=scale,
            quantum_ns=cell,
            page_size=page_size,
            force=force,
            compression=compression.value,
            progress=progress,
        ),
    )


def import_simpletrace(
    text: Text,
    output: Output,
    freelist: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="none",
            help="Samples of the guest's free list with the host's times; needs --start.",
        ),
    ] = None,
    migration: Migration = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS",
            show_default="unknown",
            help="When the first event was, in seconds since 1970: the text does not say it.",
        ),
    ] = None,
    slots: Slots = None,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make a trace of a QEMU migration that the simple trace backend recorded.

    The same events as for `dirtylog import qemu`. The input is made by QEMU's
    `scripts/simpletrace.py trace-events-all TRACE`.
    """
    from analyses.render.imported import show  # noqa: PLC0415 - heavy
    from analyses.render.terminal import Bar, Page, emit  # noqa: PLC0415
    from tracer.errors import UsageError  # noqa: PLC0415
    from tracer.readers import import_qemu, simpletrace_reader  # noqa: PLC0415

    if freelist is not None and start is None:
        raise UsageError("--freelist: its times are the host's, the text has none: pass --start")
    start_us = duration(f"{start}s", "--start") // 1000 if start is not None else 0
    with Bar() as bar:
        report = import_qemu(
            log=text,
            freelist=freelist,
            migration=migration,
            slots=slots or (),
            out=output,
            force=force,
            compression=compression.value,
            progress=lambda done, total: bar("reading the text", done, total),
            read=simpletrace_reader(start_us),
        )
    show(report, Page(stderr=True))
    emit(f"{report.out}\n")
