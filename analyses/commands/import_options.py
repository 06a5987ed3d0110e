"""What the importers' command lines have in common."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands.choices import metavar
from analyses.commands.units import duration

if TYPE_CHECKING:
    from tracer.readers.report import ReadReport
    from tracer.readers.streams import Progress

Text = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="The text: plain, gzip or zstd; - is standard input.", allow_dash=True
    ),
]
Migration = Annotated[
    Path | None,
    typer.Option(
        "--migration",
        metavar="FILE",
        show_default="none, or the one in DIR",
        help="The answers of query-migrate and the migration's parameters.",
    ),
]
Blocks = Annotated[
    list[str] | None,
    typer.Option(
        "--block",
        metavar="NAME:FIRST_FRAME:PAGES",
        show_default="found as stderr says",
        help="Part of the guest's RAM, in migration order, can be repeated: PAGES is a number or a "
        "size (ram:0:3GiB, ram:0x100000:1GiB).",
    ),
]
FrameSlots = Annotated[
    list[str] | None,
    typer.Option(
        "--slot",
        metavar="ID:FIRST_FRAME:PAGES",
        show_default="each slot is a block",
        help="Memory slot of KVM, can be repeated (0:0:0xa0, 1:0x100:1023MiB).",
    ),
]
Slots = Annotated[
    list[str] | None,
    typer.Option(
        "--slot",
        metavar="ID:FIRST_PAGE:PAGES",
        show_default="as the log says, else those of a PC",
        help="Memory slot of KVM, for a dirty ring: where in the guest's RAM its pages lie, can be "
        "repeated (0:0:0xa0, 1:0x100:1023MiB).",
    ),
]
PageSize = Annotated[int, typer.Option("--page-size", metavar="BYTES", help="Size of a page.")]
Interval = Annotated[
    str | None,
    typer.Option(
        "--interval",
        metavar="TIME",
        show_default="that of the first two",
        help="How long an epoch is: of every file, or, with --times, of the first.",
    ),
]


class TimesOf(StrEnum):
    """Where the ends of epochs are found."""

    names = "names"
    mtimes = "mtimes"
    interval = "interval"


EpochTimes = Annotated[
    TimesOf | None,
    typer.Option(
        "--times",
        metavar=metavar(TimesOf),
        show_default="interval with --interval, else mtimes",
        help="When a file's epoch ended: the last number in its name, when it was last written, or "
        "after equal intervals.",
    ),
]
NameUnit = Annotated[
    str, typer.Option("--unit", metavar="TIME", help="With --times names: the unit of the number.")
]


def time_or_none(text: str | None, option: str) -> int | None:
    """Return ns for a duration that may be missing."""
    return None if text is None else duration(text, option)


def signed_duration(text: str, option: str) -> int:
    """Return ns for a duration that may begin with a sign."""
    body = text.strip()
    sign = -1 if body.startswith("-") else 1
    return sign * duration(body.removeprefix("-").removeprefix("+"), option)


def run_import(what: str, make: Callable[[Progress], ReadReport]) -> None:
    """Import with a progress bar that says `what`, show the report, print the trace's path."""
    from analyses.render.imported import show_read  # noqa: PLC0415 - heavy
    from analyses.render.terminal import Bar, Page, emit  # noqa: PLC0415

    with Bar() as bar:
        report = make(lambda done, total: bar(what, done, total))
    show_read(report, Page(stderr=True))
    emit(f"{report.out}\n")
