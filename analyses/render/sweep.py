"""A sweep on a terminal: how far it is, and what came out of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from analyses.render.grid import Column, Row, grid, labelled, wrap
from analyses.render.tables import STYLES
from analyses.render.terminal import Page, remark
from analyses.render.text import duration, plain
from analyses.sweep.run import State
from analyses.sweep.summary import Summary, median

_INDENT = 13
#: Where stderr is no terminal, how often a line is written, s.
_SELDOM = 30.0


class SweepBar:
    """Progress on stderr with the rate and the time left: a bar, or on a pipe a line at times."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._begin = self._told = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> SweepBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, state: State) -> None:
        """Show how far it is."""
        now = time.monotonic()
        words = _how_far(state, now - self._begin)
        if not self._console.is_terminal:
            if now - self._told >= _SELDOM:
                self._told = now
                remark(words)
            return
        if self._progress is None:
            self._progress = Progress(
                BarColumn(24),
                TextColumn("{task.description}", markup=False),
                console=self._console,
                transient=True,
            )
            self._progress.add_task(words, total=state.total)
            self._progress.start()
        self._progress.update(
            self._progress.task_ids[0], description=words, completed=state.settled
        )


def _how_far(state: State, seconds: float) -> str:
    parts = [f"{state.settled:,} of {state.total:,}"]
    here = state.settled - state.before
    if here and seconds > 0:
        rate = here / seconds
        # A rate below one a second reads better the other way round.
        parts.append(f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each")
        parts.append(f"{_left((state.total - state.settled) / rate)} left")
    if state.again:
        parts.append(f"{state.again} tried again")
    if state.failed:
        parts.append(f"{len(state.failed)} failed")
    if state.trouble:
        parts.append(state.trouble)
    return ", ".join(parts)


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show(state: State, summary: Summary, size: tuple[int, int], folder: str, page: Page) -> None:
    """Print what came out; `size` is traces and sets of parameters."""
    page.lines(_lines(state, summary, size, folder, page))


def _lines(
    state: State, summary: Summary, size: tuple[int, int], folder: str, page: Page
) -> Iterator[Text]:
    traces, sets = size
    swept = (
        f"{traces:,} {'trace' if traces == 1 else 'traces'}, {sets:,} "
        f"{'set' if sets == 1 else 'sets'} of parameters, {state.total:,} "
        f"{'task' if state.total == 1 else 'tasks'}"
    )
    done = f"{state.done:,} now"
    done += f", {state.before:,} before" if state.before else ""
    done += f", {len(state.failed):,} failed" if state.failed else ""
    done += f"; {state.again:,} tried again" if state.again else ""
    yield from labelled("swept", swept, page.prose, _INDENT)
    yield from labelled("done", done, page.prose, _INDENT)
    yield from labelled("results", plain(folder), page.prose, _INDENT)
    yield Text()
    columns = [Column("strategy", right=False), *map(Column, _COLUMNS)]
    rows: list[Row] = []
    for name, tally in summary.strategies.items():
        verdicts = [
            Text(f"{number:,}", style=STYLES[verdict] if number else "dim")
            for verdict in ("unsafe", "possible", "safe", "unknown")
            for number in [tally.verdicts[verdict]]
        ]
        times = [_time(median(tally.total_ns)), _time(median(tally.downtime_ns))]
        rows.append([Text(plain(name), style="bold"), *verdicts, f"{tally.converged:,}", *times])
    yield from grid(columns, rows)
    for line in wrap(_LEGEND, page.prose):
        yield Text(line, style="dim")


def _time(ns: int | None) -> str:
    return "-" if ns is None else duration(ns)


_LEGEND = (
    "verdicts: the gravest of a replay's scenarios. converged, total, downtime: of the recorded "
    "writes alone (scenario exact or recorded), the times as medians over all traces and "
    "parameters with a switchover."
)
_COLUMNS = ("unsafe", "possible", "safe", "unknown", "converged", "total", "downtime")
