"""`dirtylog synth`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.commands import guests
from analyses.commands.choices import (
    Compression,
    FreeList,
    Kind,
    Plant,
    Resolution,
    metavar,
)
from analyses.commands.making import Compressed, Force, Output

_OWN = "each kind's own"
#: Bytes on disk that are worth a word beforehand.
_MUCH = 1 << 28


def _own(kinds: str, text: str, form: str) -> Any:
    """An option that some kinds have, with a default of their own."""
    return typer.Option(metavar=form, show_default=_OWN, help=f"{kinds}: {text}")


_Text = str | None


def synth(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="Kind of guest.")],
    output: Output,
    memory: Annotated[
        _Text,
        typer.Option(
            metavar="SIZE", show_default="4GiB, race 2GiB", help="Size of the guest's memory."
        ),
    ] = None,
    pages: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="none", help="Its size in pages instead."),
    ] = None,
    page_size: Annotated[str, typer.Option(metavar="SIZE", help="Size of a page.")] = "4KiB",
    duration: Annotated[
        _Text,
        typer.Option(metavar="TIME", show_default="60s, race 2s", help="Length of the trace."),
    ] = None,
    rate: Annotated[_Text, _own("All", "writes a second, like 500, 100k or 5M.", "N")] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="The same seed makes the same bytes.")
    ] = 0,
    resolution: Annotated[
        Resolution,
        typer.Option(
            metavar=metavar(Resolution),
            help="Record every write, the first after each harvest of the dirty log, or what each "
            "harvest finds.",
        ),
    ] = Resolution.write,
    epoch: Annotated[
        str, typer.Option(metavar="TIME", help="From one harvest to the next.")
    ] = "1s",
    free_list: Annotated[
        FreeList,
        typer.Option(
            metavar=metavar(FreeList), help="Record every move of the free list, or samples of it."
        ),
    ] = FreeList.event,
    sample_every: Annotated[
        str, typer.Option(metavar="TIME", help="From one sample of the free list to the next.")
    ] = "200ms",
    quantum: Annotated[
        str, typer.Option(metavar="TIME", help="Record times no finer than this.")
    ] = "1ns",
    init_on_alloc: Annotated[
        bool,
        typer.Option(
            "--init-on-alloc/--no-init-on-alloc",
            help="The kernel zeroes all that it hands out, or only what it hands to processes.",
        ),
    ] = True,
    alloc_order: Annotated[
        _Text, _own("All but race", "memory is taken and freed in extents of 2^N pages.", "N")
    ] = None,
    stale: Annotated[
        _Text,
        _own("All but race", "share of the free memory that holds old data, not zeros.", "SHARE"),
    ] = None,
    background: Annotated[
        _Text, _own("All but boot and race", "the kernel's own share of the writes.", "SHARE")
    ] = None,
    working_set: Annotated[
        _Text, _own("hot-cold, zipf, sweep, phases", "what is written.", "SIZE|SHARE%")
    ] = None,
    resident: Annotated[
        _Text,
        _own("hot-cold, zipf, sweep, java", "share of it in use at the start.", "SHARE"),
    ] = None,
    reclaim: Annotated[
        _Text, _own("hot-cold, zipf", "share of it freed each second, none of it hot.", "SHARE")
    ] = None,
    hot_share: Annotated[
        _Text, _own("hot-cold, phases", "share of the writes that fall on hot pages.", "SHARE")
    ] = None,
    hot_size: Annotated[
        _Text, _own("hot-cold, phases", "share of the working set that is hot.", "SHARE")
    ] = None,
    exponent: Annotated[
        _Text, _own("zipf", "page k is written in proportion to k^-X.", "X")
    ] = None,
    phases: Annotated[_Text, _own("phases", "how many.", "N")] = None,
    buffer: Annotated[_Text, _own("churn", "size of what is allocated.", "SIZE|SHARE%")] = None,
    kept: Annotated[_Text, _own("churn", "buffers kept before the oldest is freed.", "N")] = None,
    jobs: Annotated[_Text, _own("kernel-build", "processes at a time.", "N")] = None,
    process_size: Annotated[
        _Text,
        _own("kernel-build, idle, boot", "median size of a process.", "SIZE|SHARE%"),
    ] = None,
    cache_writes: Annotated[
        _Text, _own("kernel-build", "share of the writes to the page cache.", "SHARE")
    ] = None,
    cache_limit: Annotated[
        _Text, _own("kernel-build", "where the oldest page cache is freed.", "SIZE|SHARE%")
    ] = None,
    heap: Annotated[_Text, _own("java", "size of the heap.", "SIZE|SHARE%")] = None,
    eden: Annotated[_Text, _own("java", "share of the heap.", "SHARE")] = None,
    survival: Annotated[
        _Text, _own("java", "share of eden that survives a young collection.", "SHARE")
    ] = None,
    promotion: Annotated[
        _Text, _own("java", "share of the survivors that get old.", "SHARE")
    ] = None,
    old_writes: Annotated[
        _Text, _own("java", "share of the writes to the old generation and its cards.", "SHARE")
    ] = None,
    old_live: Annotated[
        _Text, _own("java", "share of it that a full collection keeps.", "SHARE")
    ] = None,
    free: Annotated[_Text, _own("idle", "share of the memory that is free.", "SHARE")] = None,
    initramfs: Annotated[
        _Text, _own("boot", "its size unpacked, freed afterwards.", "SIZE|SHARE%")
    ] = None,
    plant: Annotated[
        Plant | None,
        typer.Option(
            metavar=metavar(Plant),
            show_default=_OWN,
            help="race: the write between snapshot and handling is harvested before the handling "
            "(log mode legacy), or never (manual).",
        ),
    ] = None,
    races: Annotated[_Text, _own("race", "how many to plant.", "N")] = None,
    decoys: Annotated[_Text, _own("race", "pages of each sort that are not lost.", "N")] = None,
    bandwidth: Annotated[_Text, _own("race", "of the replay that loses them.", "RATE")] = None,
    downtime_limit: Annotated[_Text, _own("race", "of that replay.", "TIME")] = None,
    request_delay: Annotated[_Text, _own("race", "of that replay.", "TIME")] = None,
    report_delay: Annotated[_Text, _own("race", "of that replay.", "TIME")] = None,
    handle_delay: Annotated[_Text, _own("race", "of that replay.", "TIME")] = None,
    hint_interval: Annotated[_Text, _own("race", "of that replay.", "TIME")] = None,
    clear_chunk: Annotated[_Text, _own("race", "pages, of that replay.", "N")] = None,
    planted: Annotated[
        Path | None,
        typer.Option(
            metavar="X.json", show_default="none", help="race: write what was planted, as JSON."
        ),
    ] = None,
    compression: Compressed = Compression.zstd,
    force: Force = False,
) -> None:
    """Make the trace of a synthetic guest, of which everything is known.

    Every write, every move of the free list and every page that the guest zeroes, in constant
    memory. Rates do not count the zeroing of what is taken. Says on stderr what was made, on stdout
    the trace's path.
    """
    order = guests.order(kind.value, locals())
    if planted is not None and kind is not Kind.race:
        guests.refuse(f"--planted: {kind.value} plants nothing; only race does")

    from analyses.commands.compiling import announce_compilation  # noqa: PLC0415 - heavy
    from analyses.render.made import show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit, remark  # noqa: PLC0415
    from analyses.render.text import size  # noqa: PLC0415
    from tracer.checks import check_runs  # noqa: PLC0415
    from tracer.files import whole_file  # noqa: PLC0415
    from tracer.synth import builder_of  # noqa: PLC0415
    from tracer.synth.make import disk_needed, make  # noqa: PLC0415

    needed = disk_needed(order, output, compression.value)
    if needed >= _MUCH:
        remark(f"{order.writes:,} writes, up to {size(needed)} on disk")
    announce_compilation(check_runs)
    with Bar() as bar:
        made = make(
            order,
            builder_of(kind.value),
            output,
            compression=compression.value,
            force=force,
            progress=lambda done, total: bar("writing the trace", done, total),
        )
    if planted is not None:
        text = json.dumps({"trace": str(output), **(made.planted or {})}, indent=2) + "\n"
        with whole_file(planted) as beside:
            beside.write_text(text, encoding="utf-8")
    show(made, Page(stderr=True))
    emit(f"{made.path}\n")
