"""The strategies, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from analyses.render.grid import Column, Row, grid, labelled
from analyses.render.terminal import Page
from analyses.render.text import plain

_COLUMNS = ("strategy", "start", "request", "accept", "sync", "drain", "guest", "hold")


def show(strategies: Sequence[dict[str, Any]], page: Page) -> None:
    """Print each strategy's composition, and below it where it comes from."""
    rows: list[Row] = [
        [
            Text(plain(one["name"]), style="bold"),
            one["start"],
            one["request"] or "-",
            one["accept"] or "-",
            one["sync"],
            "drain" if one["drain"] else "-",
            "stopped" if one["stop_guest"] else "runs",
            one["hold"] if one["request"] else "-",
        ]
        for one in strategies
    ]
    header, *lines = grid([Column(title, right=False) for title in _COLUMNS], rows)
    page.lines([header])
    for one, line in zip(strategies, lines, strict=True):
        page.lines([line, *labelled("", plain(one["origin"]), page.prose, 4)])
