"""`dirtylog import bitmaps`, `firecracker`, `criu` and `page-ranges`: an epoch a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.choices import Compression, GuestArch, metavar
from analyses.commands.import_options import (
    Blocks,
    EpochTimes,
    FrameSlots,
    Interval,
    NameUnit,
    PageSize,
    run_import,
    time_or_none,
)
from analyses.commands.making import Compressed, Force, Output
from analyses.commands.units import duration


def import_bitmaps(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Bitmaps in order, or a folder; .gz and .zst too."),
    ],
    output: Output,
    times: EpochTimes = None,
    unit: NameUnit = "1s",
    interval: Interval = None,
    slots: FrameSlots = None,
    blocks: Blocks = None,
    page_size: PageSize = 4096,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make a trace of raw dirty bitmaps: what KVM_GET_DIRTY_LOG fills in, one file an epoch.

    Little-endian words of 64 bits, bit i is frame i: of the guest, or of a memory slot where names
    say slot-N (`epoch-7.slot-1.bin`, `slot-1/epoch-7.bin`), an epoch then has a file for each slot.
    Names like Qemu-DPT's (`qemu.bm-PID.SECONDS`, from `dpt_start` in its monitor) tell the times by
    themselves.
    """
    from tracer.readers import import_bitmaps as make  # noqa: PLC0415 - heavy

    length, step = time_or_none(interval, "--interval"), duration(unit, "--unit")
    run_import(
        "reading bitmaps",
        lambda progress: make(
            paths,
            out=output,
            times=None if times is None else times.value,
            unit_ns=step,
            interval_ns=length,
            slots=slots or (),
            blocks=blocks or (),
            page_size=page_size,
            force=force,
            compression=compression.value,
            progress=progress,
        ),
    )


def import_firecracker(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", help="Memory files of diff snapshots in order, or a folder."
        ),
    ],
    output: Output,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="none",
            help="Memory file of the full snapshot before them: time zero, and what was zero then.",
        ),
    ] = None,
    times: EpochTimes = None,
    unit: NameUnit = "1s",
    interval: Interval = None,
    blocks: Blocks = None,
    arch: Annotated[
        GuestArch,
        typer.Option(
            metavar=metavar(GuestArch),
            help="Of the guest: which guest frames the file's pages are, for import kmem --dirty.",
        ),
    ] = GuestArch.x86_64,
    page_size: PageSize = 4096,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make a trace of Firecracker's diff snapshots: sparse files of the pages that changed.

    The input is made, with `"track_dirty_pages": true` in the machine's configuration, by
    `PUT /snapshot/create` with `{"snapshot_type": "Diff", "mem_file_path": ...}` again and again.
    The trace's pages, and those of --block, are pages of the file: it leaves out the hole below 4
    GiB that an x86-64 guest of more than 3 GiB has.
    """
    from tracer.readers import import_firecracker as make  # noqa: PLC0415 - heavy

    length, step = time_or_none(interval, "--interval"), duration(unit, "--unit")
    run_import(
        "reading snapshots",
        lambda progress: make(
            paths,
            out=output,
            base=base,
            times=None if times is None else times.value,
            unit_ns=step,
            interval_ns=length,
            blocks=blocks or (),
            arch=arch.value,
            page_size=page_size,
            force=force,
            compression=compression.value,
            progress=progress,
        ),
    )


def import_criu(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR",
            help="Folders of images, oldest first; or the newest, whose parent links are followed.",
        ),
    ],
    output: Output,
    pid: Annotated[
        int | None,
        typer.Option(
            metavar="PID", show_default="the only one", help="The process, where there are several."
        ),
    ] = None,
    times: EpochTimes = None,
    interval: Interval = None,
    page_size: PageSize = 4096,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make a trace of CRIU's dumps of a process: its page maps, as images or as crit's JSON.

    The input is made by `criu pre-dump --track-mem -t PID -D 1`, then again and again with
    `-D 2 --prev-images-dir ../1`.
    """
    from tracer.readers import import_criu as make  # noqa: PLC0415 - heavy

    length = time_or_none(interval, "--interval")
    run_import(
        "reading dumps",
        lambda progress: make(
            paths,
            out=output,
            pid=pid,
            times=None if times is None else times.value,
            interval_ns=length,
            page_size=page_size,
            force=force,
            compression=compression.value,
            progress=progress,
        ),
    )


def import_page_ranges(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            allow_dash=True,
            help="One text (plain, gzip, zstd; - is standard input), or binary files in order, or "
            "a folder of them.",
        ),
    ],
    output: Output,
    times: EpochTimes = None,
    unit: NameUnit = "1s",
    interval: Interval = None,
    page_size: PageSize = 4096,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make a trace of scans of a process's pages, as ioctl(PAGEMAP_SCAN) answers.

    A text has lines `SECONDS START-END [CATEGORIES]`, addresses in hex, categories a number or
    names like `written|present`; lines of one time are one scan. A binary file is one scan: an
    array of struct page_region (start, end, categories), as the ioctl fills it in with
    PM_SCAN_WP_MATCHING.
    """
    from tracer.readers import import_page_ranges as make  # noqa: PLC0415 - heavy

    length, step = time_or_none(interval, "--interval"), duration(unit, "--unit")
    run_import(
        "reading scans",
        lambda progress: make(
            paths,
            out=output,
            times=None if times is None else times.value,
            unit_ns=step,
            interval_ns=length,
            page_size=page_size,
            force=force,
            compression=compression.value,
            progress=progress,
        ),
    )
