"""A recording under way: one line on stderr, rewritten on a terminal, now and then on a pipe."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from analyses.render.terminal import remark
from analyses.render.text import duration, plain, size
from tracer.recorders.wanted import Ending, Stage

#: Where nothing can be rewritten, a line each time the stage changes or so many seconds passed.
_EVERY = 10.0


class Ticker:
    """Shows the stages of a recording; use as context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._said, self._at = "", 0.0

    def __enter__(self) -> Ticker:
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, stage: Stage) -> None:
        """Show where the recording is."""
        if self._live is not None:
            self._live.update(Text(line(stage), no_wrap=True, overflow="ellipsis"))
            return
        now = time.monotonic()
        if stage.what != self._said or now - self._at >= _EVERY:
            self._said, self._at = stage.what, now
            remark(line(stage))


def line(stage: Stage) -> str:
    """Return a stage in one line."""
    parts = [f"{stage.seconds:.0f} s: {plain(stage.what)}"]
    ram = stage.answer.get("ram")
    if isinstance(ram, dict):
        parts += [
            f"{size(ram['remaining'])} of {size(ram['total'])} left",
            f"{size(ram['transferred'])} sent",
            f"sync {ram['dirty-sync-count']}",
        ]
    if stage.answer.get("cpu-throttle-percentage"):
        parts.append(f"throttled {stage.answer['cpu-throttle-percentage']} %")
    if stage.samples:
        noun = "sample" if stage.samples == 1 else "samples"
        parts.append(f"{stage.samples:,} {noun}")
    return ", ".join(parts)


def told(ending: Ending) -> str:
    """Return how a migration ended in one line."""
    answer = ending.answer
    said = {"cancelled": "was cancelled", "none": "was taken back"}
    words = [f"the migration {said.get(ending.status, ending.status)}"]
    words.append(f"after {duration(round(ending.seconds * 1_000_000_000))}")
    if "downtime" in answer:
        words.append(f"with {duration(answer['downtime'] * 1_000_000)} downtime")
    ram = answer.get("ram")
    if isinstance(ram, dict):
        words.append(f"and {ram['normal']:,} normal pages in {ram['dirty-sync-count']} syncs")
    return " ".join(words)
