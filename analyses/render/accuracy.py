"""Predicted beside real, on a terminal: a table and the bytes that remain over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from analyses.accuracy import JUDGED, Accuracy, Curve, Row
from analyses.render.grid import Column, grid, labelled
from analyses.render.terminal import Page
from analyses.render.text import count, duration, plain, size

_COLUMNS = (
    Column("scenario", right=False),
    Column("quantity", right=False),
    Column("real"),
    Column("predicted"),
    Column("error"),
)
_SPREAD = (Column("spread"),)
_STEPS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII_STEPS = " .:-=+*#@"
_WIDEST = 100
#: A curve is followed past the end of the real one for this part of its length.
_PAST = 8


def show(found: Sequence[Accuracy], page: Page, tolerance: float | None) -> None:
    """Print what was foretold of each migration."""
    for number, one in enumerate(found):
        if number:
            page.lines([""])
        origin = "" if one.source == one.trace else f" from {one.source}"
        page.lines([Text(plain(one.trace + origin), style="bold underline")])
        spread = _SPREAD if any(row.spread for row in one.rows) else ()
        lines = [_line(row, tolerance)[: len(_COLUMNS + spread)] for row in one.rows]
        page.lines(grid((*_COLUMNS, *spread), lines))
        page.lines(["", *_picture(one.curves, page)])
        for text in one.remarks:
            page.lines(labelled("note", plain(text), page.prose, 7))


def _line(row: Row, tolerance: float | None) -> tuple[str | Text, ...]:
    error = row.error_percent
    shown = "-" if error is None else f"{error:+.2f} %"
    style = ""
    if tolerance is not None and row.quantity in JUDGED:
        style = "green" if row.within(tolerance) else "red"
    name = row.quantity.removesuffix("_ns").replace("_", " ")
    return (
        row.scenario,
        name,
        _value(row.quantity, row.real),
        _value(row.quantity, row.predicted),
        Text(shown, style=style),
        "-" if row.spread_percent is None else f"{row.spread_percent:.2f} %",
    )


def _value(quantity: str, value: int | None) -> str:
    if quantity.endswith("_ns"):
        return duration(value)
    if quantity.endswith("_percent") and value is not None:
        return f"{value} %"
    return count(value)


def _picture(curves: Sequence[Curve], page: Page) -> Iterator[Text]:
    """Yield one line a curve: how many bytes remain, from left to right on one scale of time."""
    if not curves:
        return
    end = _axis_end(curves)
    most = max((value for curve in curves for _, value in curve.points), default=0)
    label = max(len(curve.name) for curve in curves) + 2
    width = max(min(page.width - label - 3, _WIDEST), 10)
    steps = _STEPS if page.blocks else _ASCII_STEPS
    beyond = "\u2192" if page.blocks else ">"
    going_on = any(curve.points[-1][0] > end for curve in curves)
    said = f"remaining, up to {size(most)}, over {duration(end)}"
    yield Text(said + (f" ({beyond} goes on)" if going_on else ""), style="dim")
    for curve in curves:
        marks = "".join(_mark(value, most, steps) for value in _sample(curve, end, width))
        if curve.points[-1][0] > end:
            marks += beyond
        yield Text(f"  {curve.name:<{label}}").append(marks)


def _axis_end(curves: Sequence[Curve]) -> int:
    """Return where the axis of time ends: a little past the real one, which others may outlast."""
    longest = max(curve.points[-1][0] for curve in curves)
    real = next((curve.points[-1][0] for curve in curves if curve.name == "real"), longest)
    return min(longest, real + real // _PAST)


def _mark(value: int | None, most: int, steps: str) -> str:
    """Return a mark of fitting height; what remains at all shows."""
    if value is None:
        return " "
    return steps[-(-value * (len(steps) - 1) // max(most, 1))]


def _sample(curve: Curve, end: int, width: int) -> Iterator[int | None]:
    """Yield what remains at each of `width` equal steps of time, None after the curve's end."""
    at = 0
    for column in range(width):
        moment = end * column // max(width - 1, 1)
        while at + 1 < len(curve.points) and curve.points[at + 1][0] <= moment:
            at += 1
        over = at + 1 == len(curve.points) and curve.points[at][0] < moment
        yield None if over else curve.points[at][1]
