"""What is in a trace, on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from analyses.info import Info, Window
from analyses.render import bars
from analyses.render.grid import Cell, Column, Row, beside, grid, labelled
from analyses.render.terminal import Page
from analyses.render.text import count, duration, pages, percent, plain, setting, size
from tracer.format import META

_INDENT = 18
#: Longer facts of a trace's source are left to its header.
_LONG = 400
_LONGEST_BAR = 40

#: What is shown of the migration that was recorded along: QEMU's name, ours, how to read it.
_MIGRATION = (
    ("total-time", "total time", lambda ms: duration(ms * 1_000_000)),
    ("downtime", "downtime", lambda ms: duration(ms * 1_000_000)),
    ("ram.dirty-sync-count", "dirty-sync-count", count),
    ("ram.transferred", "sent", size),
    ("ram.normal", "pages", count),
    ("ram.duplicate", "zero pages", count),
)


def show(info: Info, page: Page) -> None:
    """Print what a trace holds."""
    page.lines([Text(plain(info.trace), style="bold underline")])
    for label, body in _facts(info):
        page.lines(labelled(label, plain(body), page.prose, _INDENT))
    if info.windows:
        page.lines(["", *_windows(info, page)])
    notes = info.source.get("notes")
    if isinstance(notes, list | tuple) and notes:
        page.lines(["", Text("What the recording left open", style="bold")])
        for note in notes:
            page.lines(labelled("-", plain(note), page.prose, 4))


def _facts(info: Info) -> Iterator[tuple[str, str]]:
    blocks = info.blocks[0]["name"]
    yield (
        "guest",
        (
            f"{size(info.guest_bytes)}: {pages(info.pages)} of {size(info.page_size)} in "
            + (f"the block {blocks}" if len(info.blocks) == 1 else f"{len(info.blocks)} blocks")
        ),
    )
    yield (
        "duration",
        (
            f"{duration(info.duration_ns)} of guest time (clock: {info.clock}), in steps of "
            f"{setting(info.quantum_ns)}"
        ),
    )
    yield "on disk", f"{size(info.size_bytes)}: {_rows(info.rows)}"
    yield "resolution", _resolution(info)
    yield "dirty rate", _rate(info)
    yield (
        "working set",
        (
            f"{pages(info.working_set_pages)} ({size(info.working_set_pages * info.page_size)}, "
            f"{percent(info.working_set_pages, info.pages)} of the guest) written at least once"
        ),
    )
    yield "free list", _free(info)
    if info.zero_pages_at_start is None:
        yield "zero pages", "none known (no zero.arrow)"
    else:
        share = percent(info.zero_pages_at_start, info.pages)
        yield "zero pages", f"{pages(info.zero_pages_at_start)} ({share}) at the start"
    yield (
        "hinting",
        (
            "on while recording: the trace holds what hinting did to the guest"
            if info.hinting
            else "off while recording"
        ),
    )
    yield "source", _source(info.source)
    if info.migration is not None:
        yield "recorded along", _migration(info.migration)
    yield "digest", info.digest


def _rows(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name} row{'s'[: number != 1]}" for name, number in rows.items())


def _resolution(info: Info) -> str:
    epochs = f", {info.epochs:,} epochs" if info.epochs else ""
    meaning = {
        "write": "every write is there",
        "first-write": "a page's later writes in an epoch are hidden",
        "epoch": "a page was written at some time in its epoch",
    }
    listed = info.freelist_resolution or "absent"
    return f"{info.resolution} ({meaning[info.resolution]}{epochs}); free list: {listed}"


def _rate(info: Info) -> str:
    if not info.duration_ns:
        return "unknown: the trace lasts no time"
    mean = info.pages_written * 10**9 // info.duration_ns
    peak = max(_per_second(window) for window in info.windows)
    what = (
        "written, every write recorded"
        if info.resolution == "write"
        else "recorded (others are hidden)"
    )
    return (
        f"{mean:,} pages/s on average, {peak:,} pages/s at most; {pages(info.pages_written)} {what}"
    )


def _free(info: Info) -> str:
    if info.free_pages_at_start is None:
        return "none (no freelist.arrow)"
    share = percent(info.free_pages_at_start, info.pages)
    said = f"{pages(info.free_pages_at_start)} ({share}) free at the start"
    if info.windows:
        end = info.windows[-1].free_pages or 0
        said += f", {pages(end)} ({percent(end, info.pages)}) at the end"
    return f"{said}; {pages(info.writes_on_free_pages)} written while free"


def _source(source: Mapping[str, Any]) -> str:
    told = [f"{key}: {_value(value)}" for key, value in source.items() if key != "notes"]
    return "; ".join(told) or "not told"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONG or isinstance(value, str) else f"in {META}"


def _migration(answer: Mapping[str, Any]) -> str:
    told = [str(answer.get("status", "status unknown"))]
    for key, name, read in _MIGRATION:
        found: Any = answer
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, int) and not isinstance(found, bool):
            told.append(f"{name} {read(found)}")
    return ", ".join(told)


def _per_second(window: Window) -> int:
    return window.pages_written * 10**9 // (window.end_ns - window.start_ns)


def _windows(info: Info, page: Page) -> Iterator[Text]:
    """Yield one line for each window: when, how fast pages were written, how many were free."""
    listed = info.free_pages_at_start is not None
    columns = [Column("until"), Column("pages/s"), Column("distinct")]
    left: list[Row] = [
        [duration(w.end_ns), f"{_per_second(w):,}", count(w.distinct_pages)] for w in info.windows
    ]
    figures = grid(columns, left)
    share: list[Row] = [[percent(w.free_pages or 0, info.pages)] for w in info.windows]
    free = grid([Column("free")], share)
    used = figures[0].cell_len + free[0].cell_len + 6 if listed else figures[0].cell_len + 2
    room = max(8, min((page.width - used) // (1 + listed), _LONGEST_BAR))
    top = max(_per_second(w) for w in info.windows)
    rates: list[Cell] = [
        bars.level(_per_second(w), top, room, blocks=page.blocks, style="yellow")
        for w in info.windows
    ]
    parts = [figures, grid([Column("".ljust(room), right=False)], [[rate] for rate in rates])]
    if listed:
        parts += [free, [Text(), *(
            bars.level(w.free_pages or 0, info.pages, room, blocks=page.blocks, style="bright_blue")
            for w in info.windows
        )]]  # fmt: skip
    yield from beside(*parts)
