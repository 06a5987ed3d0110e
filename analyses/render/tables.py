"""The tables of a replay report: who is safe and how long it took, what was sent and wasted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from analyses.compare import Comparison
from analyses.render import bars
from analyses.render.grid import Column, Row, Span, beside, grid, wrap
from analyses.render.terminal import Page
from analyses.render.text import change, count, duration, percent, plain, size
from analyses.waste import SHARES, Cost, costs
from replay.parameters import LONGEST
from replay.result import Result

STYLES = {"safe": "bold green", "possible": "bold yellow", "unsafe": "bold red", "unknown": "bold"}
#: From this width on the two tables stand side by side.
_WIDE = 132
#: And from this width on, what was sent is also given in bytes.
_WIDEST = 148
_BAR, _LONGEST_BAR = 12, 48

_SAFETY = (
    Column("verdict", right=False),
    Column("lost"),
    Column("near"),
    Column("total"),
    Column("downtime"),
    Column("time vs."),
)
_WASTE = (Column("pages sent"), Column("pages vs."), Column("wasted"))


def tables(comparison: Comparison, page: Page) -> Iterator[Text]:
    """Yield the two tables, side by side where there is room."""
    spent = costs(comparison)
    columns, names = _who(comparison)
    safety = _safety_rows(comparison, spent)
    first = grid((*columns, *_SAFETY), [[*n, *row] for n, row in zip(names, safety, strict=True)])
    side = page.width >= _WIDE
    left = first if side else grid(columns, names)
    figures = grid(_WASTE, [_waste_row(cost) for cost in spent])
    if page.width >= _WIDEST:
        page_size = comparison.trace.meta.page_size
        sizes = grid([Column("sent")], [[size(cost.sent * page_size)] for cost in spent])
        figures = beside(sizes, figures)
    room = page.width - left[0].cell_len - figures[0].cell_len - 4
    drawn = [Text(), *_bars(spent, min(max(room, _BAR), _LONGEST_BAR), page)]
    if not side:
        yield from first
        yield Text()
    yield from beside(left, figures, drawn)
    yield from _legend(spent, page)
    if words := _words(comparison):
        for line in wrap(words, page.prose):
            yield Text(line, style="dim")


def _words(comparison: Comparison) -> str:
    words = []
    if any(strategy.hints for strategy in comparison.strategies):
        words.append("near: pages lost right after a report that healed before the switchover.")
    if comparison.baseline(comparison.scenarios[0]) and len(comparison.strategies) > 1:
        words.append("vs.: against precopy in the same scenario.")
    return " ".join(words)


def _who(comparison: Comparison) -> tuple[tuple[Column, ...], list[list[Text]]]:
    """The columns that say whose row it is; a strategy is named in its first row only."""
    several = len(comparison.scenarios) > 1
    rows = []
    for result in comparison.results:
        leading = result.scenario == comparison.scenarios[0]
        name = Text(plain(result.strategy) if leading else "", style="bold")
        rows.append([name, Text(result.scenario, style="" if leading else "dim")][: 1 + several])
    columns = (Column("strategy", right=False), Column("scenario", right=False))
    return columns[: 1 + several], rows


def _safety_rows(comparison: Comparison, spent: Sequence[Cost]) -> list[Row]:
    rows: list[Row] = []
    for result, cost in zip(comparison.results, spent, strict=True):
        leading = result.scenario == comparison.scenarios[0]
        verdict = Text(result.verdict, style=STYLES[result.verdict] if leading else "dim")
        if not result.completed:
            said = no_switchover(result, comparison.parameters.at_end)
            rows.append([verdict, Span(Text(said, style="italic"))])
            continue
        lost = Text(count(result.lost), style=STYLES["unsafe"] if result.lost else "")
        rows.append(
            [
                verdict,
                lost,
                count(result.near_misses),
                duration(result.total_ns),
                duration(result.downtime_ns),
                change(result.total_ns, cost.precopy_ns),
            ]
        )
    return rows


def no_switchover(result: Result, at_end: str) -> str:
    """Say why a replay ended without a switchover. at_end: of its parameters."""
    why = result.reason
    if why == "trace-exhausted":
        why = "trace is over" if at_end == "stop" else f"{LONGEST} x trace"
    return f"no switchover in {duration(result.total_ns)}: {why}"


def _waste_row(cost: Cost) -> Row:
    wasted = percent(cost.wasted, cost.sent)
    return [
        count(cost.sent),
        change(cost.sent, cost.precopy_sent),
        f"\u2265 {wasted}" if cost.at_least else wasted,
    ]


def _drawn(spent: Sequence[Cost]) -> list[Cost]:
    """Replays without a switchover send until the trace ends, and would dwarf all others."""
    return [cost for cost in spent if not cost.at_least] or list(spent)


def _bars(spent: Sequence[Cost], width: int, page: Page) -> Iterator[Text]:
    """Yield bars of one scale."""
    drawn = _drawn(spent)
    scale = max(cost.sent for cost in drawn)
    for cost in spent:
        if cost in drawn:
            yield bars.partition(cost.parts, scale, width, blocks=page.blocks)
        else:
            yield Text("no switchover", style="italic")


def _legend(spent: Sequence[Cost], page: Page) -> Iterator[Text]:
    drawn = _drawn(spent)
    shown = [share for i, share in enumerate(SHARES) if any(cost.parts[i] for cost in drawn)]
    line = Text()
    for entry in bars.legend(shown, blocks=page.blocks):
        if line and line.cell_len + 3 + entry.cell_len > page.width:
            yield line
            line = Text()
        line = Text("   ").join([line, entry]) if line else entry
    yield line
