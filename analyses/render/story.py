"""A story as a timeline on a terminal: one line a step, and what the bitmaps held after it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from analyses.render.grid import Cell, Column, Row, grid, wrap
from analyses.render.terminal import Page
from analyses.render.text import count
from analyses.story import Event, Moment, PageView, Story

_LEGEND = "of each page: u in use or f free, P pending, L logged, what the destination holds of it"
_AWAITING = "; l: harvested already, the bit goes with its chunk and a write leaves no new record"
_CLOCK = "; cursor: where the search for pending pages goes on"
_AGREE = "; one column of times: host and guest time agree"
_DECISIVE = "yellow"
#: Stories shorter than this (ns) are told in ns.
_SHORT = 1_000_000


def timeline(story: Story, page: Page) -> Iterator[Text]:
    """Yield one line or more for each step; the words take what room the rest leaves."""
    clock = _Clock(story)
    titles = [f"page {number}" for number in story.pages]
    rows = [[*clock.cells(event), event.what, *map(_view, event.pages)] for event in story.events]
    taken = [max(map(len, column)) for column in zip(*rows, strict=True)]
    what = len(clock.columns)
    others = [*clock.columns, *(Column(title) for title in titles)]
    wide = [w for i, w in enumerate(taken) if i != what]
    used = sum(max(len(c.title), w) + 2 for c, w in zip(others, wide, strict=True))
    columns = [
        *clock.columns,
        Column("what happens", right=False),
        *(Column(title, right=False) for title in titles),
    ]
    lines: list[Row] = []
    for event, cells in zip(story.events, rows, strict=True):
        style = _DECISIVE if event.decisive else ""
        if event.left_out:
            gap = f"... {count(event.left_out)} step{'s'[: event.left_out > 1]} left out ..."
            lines.append([*[""] * what, Text(gap, style="dim"), *[""] * len(titles)])
        first, *more = wrap(cells[what], max(20, page.width - used))
        told: list[Cell] = [*cells[:what], first, *cells[what + 1 :]]
        lines.append([Text(str(cell), style=style) for cell in told])
        lines += [[*[""] * what, Text(other, style=style), *[""] * len(titles)] for other in more]
    yield from grid(columns, lines)


def legend(stories: list[Story], page: Page) -> Iterator[Text]:
    """Yield what the signs mean that the stories hold."""
    views = [view for story in stories for event in story.events for view in event.pages]
    said = _LEGEND + _AWAITING * any(view.awaiting for view in views)
    clocks = [_Clock(story) for story in stories]
    said += _CLOCK * any(clock.timed for clock in clocks)
    said += _AGREE * any(clock.timed and not clock.apart for clock in clocks)
    for line in wrap(said, page.prose, first=2, others=2):
        yield Text(line, style="dim")


class _Clock:
    """The columns that come before the words: steps, or times, sweep and cursor.

    timed: whether there are times; apart: whether host and guest time differ somewhere.
    """

    def __init__(self, story: Story):
        moments = [event.moment for event in story.events if event.moment is not None]
        self.timed = bool(moments)
        self.apart = any(m.host_ns != m.guest_ns for m in moments)
        self._short = all(m.host_ns < _SHORT for m in moments)
        unit = "ns" if self._short else "ms"
        self.columns = [Column("step")]
        if moments:
            times = [f"host {unit}", f"guest {unit}"] if self.apart else [unit]
            self.columns = [*map(Column, times), Column("pass"), Column("cursor")]

    def cells(self, event: Event) -> list[str]:
        """Return the event's cells."""
        if event.moment is None:
            return [str(event.number)]
        at = event.moment
        times = [at.host_ns, at.guest_ns] if self.apart else [at.host_ns]
        return [*map(self._time, times), *_where(at)]

    def _time(self, ns: int) -> str:
        return count(ns) if self._short else f"{ns / 1_000_000:,.3f}"


def _where(at: Moment) -> tuple[str, str]:
    return str(at.pass_ or "-"), "" if at.cursor is None else str(at.cursor)


def _view(view: PageView) -> str:
    logged = ("l" if view.awaiting else "L") if view.logged else "-"
    return f"{'f' if view.free else 'u'}{'P' if view.pending else '-'}{logged} {view.destination}"
