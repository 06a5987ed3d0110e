"""Predicted beside real, on a terminal: a table and the bytes that remain over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from analyses.accuracy import EPOCH, JUDGED, Accuracy, Curve, Row
from analyses.render.grid import Column, grid, labelled, wrap
from analyses.render.terminal import Page
from analyses.render.text import all_of, count, duration, plain, size
from replay.result import Scenario

_STEPS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII_STEPS = " .:-=+*#@"
_WIDEST = 100
#: A curve is followed past the end of the real one for this part of its length.
_PAST = 8


def show(found: Sequence[Accuracy], page: Page, tolerance: float | None) -> None:
    """Print what was foretold of each migration; of several, first all in a line each."""
    if len(found) > 1:
        page.lines([*grid(_SUMMARY, [_summary(one, tolerance) for one in found]), *_foot(), ""])
    for number, one in enumerate(found):
        if number:
            page.lines([""])
        page.lines([Text(plain(_title(one)), style="bold underline")])
        quantities = dict.fromkeys(row.quantity for row in one.rows)
        whole = [name for name in quantities if not name.startswith(EPOCH)]
        page.lines(_table(one, whole, page, tolerance))
        if picture := list(_picture(one.curves, page)):
            page.lines(["", *picture])
        for text in one.remarks:
            page.lines(labelled("note", plain(text.removeprefix(f"{one.trace}: ")), page.prose, 7))
        if each := [name for name in quantities if name.startswith(EPOCH)]:
            page.lines(["", *_table(one, each, page, tolerance)])


def _title(one: Accuracy) -> str:
    title = one.trace if one.source == one.trace else f"{one.trace} from {one.source}"
    return title if one.other is None else f"{title} as QEMU {one.other} does it"


_SUMMARY = (
    Column("migration", right=False),
    Column("normal pages"),
    Column("zero pages"),
    Column("bytes"),
    Column("syncs"),
    Column("total"),
)


def _summary(one: Accuracy, tolerance: float | None) -> list[Text | str]:
    """Return the errors of a migration's first scenario; of syncs, the numbers."""
    rows = one.of(one.scenarios[0]) if one.rows else {}
    cells: list[Text | str] = [Text(plain(_title(one)), style="bold")]
    for quantity in ("normal_pages", "zero_pages", "wire_bytes", "syncs", "total_ns"):
        row = rows.get(quantity)
        if row is None:
            cells.append("")
        elif quantity == "syncs":
            said = f"{count(row.predicted)} of {count(row.real)}"
            cells.append(Text(said, style=_style(row, tolerance)))
        else:
            cells.append(_error(row, tolerance))
    return cells


def _foot() -> Iterator[Text]:
    yield Text("predicted against real, in scenario expected or else the first", style="dim")


def _table(
    one: Accuracy, quantities: Sequence[str], page: Page, tolerance: float | None
) -> list[Text]:
    """Return one line a quantity: what is foretold in full, of the other scenarios what fits.

    That is all, or how far off they are; in the last resort they stand below each other.
    """
    first, *others = one.scenarios or ("expected",)
    for shown in (True, False):
        lines = _grid(one, (first,), others, quantities, tolerance, shown=shown)
        if lines[0].cell_len <= page.width:
            if others and not shown:
                lines.append(Text(f"{all_of(others)}: how far off these are", style="dim"))
            return lines
    stacked = [_grid(one, (name,), (), quantities, tolerance, shown=True) for name in one.scenarios]
    return [line for lines in stacked for line in (*lines, Text())][:-1]


def _grid(
    one: Accuracy,
    full: Sequence[Scenario],
    others: Sequence[Scenario],
    quantities: Sequence[str],
    tolerance: float | None,
    *,
    shown: bool,
) -> list[Text]:
    """Return a grid with the scenarios in full, and of the others the error, or (shown) all."""
    title = "normal pages" if quantities and quantities[0].startswith(EPOCH) else "quantity"
    columns = [Column(title, right=False), Column("real")]
    cells: list[list[Text | str]] = [[_name(q), ""] for q in quantities]
    for scenario in (*full, *others):
        rows = one.of(scenario)
        whole = shown or scenario in full
        columns += [Column(scenario), Column("error")] if whole else [Column(scenario)]
        spread = whole and any(row.spread for row in rows.values())
        columns += [Column("spread")] if spread else []
        for cell, quantity in zip(cells, quantities, strict=True):
            row = rows.get(quantity)
            if row is None:
                cell.extend([""] * (1 + whole + spread))
                continue
            cell[1] = _value(quantity, row.real)
            if whole:
                cell.append(_value(quantity, row.predicted))
            cell.append(_error(row, tolerance if scenario == one.scenarios[0] else None))
            if spread:
                cell.append(_percent(row.spread_percent, ""))
    return grid(columns, cells)


def _name(quantity: str) -> str:
    if quantity.startswith(EPOCH):
        return f"epoch {quantity.removeprefix(EPOCH)}"
    return quantity.removesuffix("_ns").replace("_", " ")


def _error(row: Row, tolerance: float | None) -> Text:
    return Text(_percent(row.error_percent, "+"), style=_style(row, tolerance))


def _percent(share: float | None, sign: str) -> str:
    """Return a percentage; none that is not 0 looks as if it were."""
    if share is None:
        return "-"
    if share and abs(share) < 0.005:
        return "<0.01 %"
    return f"{share:{sign},.2f} %" if share else "0 %"


def _style(row: Row, tolerance: float | None) -> str:
    if tolerance is None or row.quantity not in JUDGED:
        return ""
    return "green" if row.within(tolerance) else "red"


def _value(quantity: str, value: int | None) -> str:
    if quantity.endswith("_ns"):
        return duration(value)
    if quantity.endswith("_percent") and value is not None:
        return f"{value} %"
    return count(value)


def _picture(curves: Sequence[Curve], page: Page) -> Iterator[Text]:
    """Yield one line a curve: how many bytes remain, from left to right on one scale of time."""
    most = max((value for curve in curves for _, value in curve.points), default=0)
    if not most:
        return
    end = _axis_end(curves)
    label = max(len(curve.name) for curve in curves) + 2
    width = max(min(page.width - label - 3, _WIDEST), 10)
    steps = _STEPS if page.blocks else _ASCII_STEPS
    beyond = "\u2192" if page.blocks else ">"
    going_on = any(curve.points[-1][0] > end for curve in curves)
    said = f"remaining, up to {size(most)}, over {duration(end)}"
    said += f" ({beyond} goes on)" if going_on else ""
    if polled := next((curve.polled_ns for curve in curves if curve.polled_ns), None):
        said += f"; real: as QEMU answered every {duration(polled)}, the nearest answer"
    for line in wrap(said, page.prose):
        yield Text(line, style="dim")
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
    """Yield what remains at each of `width` equal steps of time, None after the curve's end.

    Of a polled curve the nearest answer is taken: the last one before would always be late.
    """
    at, last = 0, len(curve.points) - 1
    early = (curve.polled_ns or 0) // 2
    for column in range(width):
        moment = end * column // max(width - 1, 1)
        while at < last and curve.points[at + 1][0] - early <= moment:
            at += 1
        over = at == last and curve.points[at][0] < moment
        yield None if over else curve.points[at][1]
