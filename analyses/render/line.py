"""How fast QEMU's sender was, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from analyses.line import Line
from analyses.render.grid import Column, Row, grid, labelled
from analyses.render.terminal import Page
from analyses.render.text import count, plain, rate, setting


def show(lines: Sequence[Line], page: Page) -> None:
    """Print each recording's measurements, and the options that replay with them."""
    rows: list[Row] = [
        [
            Text(plain(one.name), style="bold"),
            count(one.windows),
            "-" if one.line_rate is None else rate(one.line_rate),
            "-" if one.zero_page_ns is None else setting(one.zero_page_ns),
            "-" if one.wake_ns is None else setting(one.wake_ns),
            "-" if one.stop_ns is None else setting(one.stop_ns),
        ]
        for one in lines
    ]
    columns = [Column("recording", right=False)]
    titles = ("windows", "line rate", "zero page", "wake-up", "stop")
    columns += [Column(title) for title in titles]
    page.lines([*grid(columns, rows), ""])
    page.lines([Text("To replay with them (replay --profile qemu, accuracy):", style="bold")])
    for one in lines:
        page.lines(labelled(plain(one.name), _options(one), page.prose, 4))


def _options(one: Line) -> str:
    words = []
    if one.line_rate is not None:
        words.append(f"--line-rate {one.line_rate}B/s")
    if one.zero_page_ns is not None:
        words.append(f"--zero-page-time {one.zero_page_ns}ns")
    if one.wake_ns is not None:
        words.append(f"--wake-up {one.wake_ns}ns")
    if one.stop_ns is not None:
        # Measured with the time that the devices' state took, whose size is in no log.
        words.append(f"--stop-time {one.stop_ns}ns --device-state 0")
    return " ".join(words) or "-"
