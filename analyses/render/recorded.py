"""A recording under way and what it made, as words for stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

from rich.text import Text

from analyses.render.grid import labelled
from analyses.render.terminal import Page
from analyses.render.text import duration, pages, percent, plain
from tracer.recorders.session import Recorded

_INDENT = 16
#: The line is drawn anew after so long (s).
_PAUSE = 0.2


class Meter:
    """A line on stderr that tells how far a recording is, if stderr is a terminal."""

    def __init__(self) -> None:
        self._page = Page(stderr=True)
        self._drawn = 0.0
        self._last: tuple[int, int] | None = None

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._draw("")

    def __call__(self, elapsed_ns: int, written: int) -> None:
        """Show that so many ns are recorded, and so many pages were seen written."""
        now = time.monotonic()
        if now - self._drawn < _PAUSE:
            return
        before_ns, before = self._last or (0, 0)
        rate = (written - before) * 10**9 // max(elapsed_ns - before_ns, 1)
        self._drawn, self._last = now, (elapsed_ns, written)
        self._draw(
            f"recording: {duration(elapsed_ns)}, {pages(written)} written, {rate:,} pages/s; "
            "Ctrl-C ends it"
        )

    def doing(self, what: str, done: int, total: int) -> None:
        """Show that other work goes on, before or after the recording."""
        now = time.monotonic()
        if now - self._drawn >= _PAUSE:
            self._drawn, self._last = now, self._last or (0, 0)
            self._draw(f"{what}: {percent(done, total)}")

    def _draw(self, line: str) -> None:
        if self._page.is_terminal and (line or self._last is not None):
            self._page.file.write(f"\r\x1b[2K{line[: self._page.width - 1]}")
            self._page.file.flush()


def show(recorded: Recorded, page: Page) -> None:
    """Print what was recorded and what stays unknown."""
    page.lines([Text(plain(recorded.out), style="bold underline")])
    for label, body in _facts(recorded):
        page.lines(labelled(label, plain(body), page.prose, _INDENT))
    if recorded.notes:
        page.lines(["", Text("What stays unknown or was assumed", style="bold")])
        for note in recorded.notes:
            page.lines(labelled("-", plain(note), page.prose, 4))


def _facts(recorded: Recorded) -> Iterator[tuple[str, str]]:
    yield (
        "recorded",
        (
            f"{duration(recorded.duration_ns)} of a guest of {pages(recorded.pages)}, resolution "
            f"{recorded.resolution}; {recorded.ended}"
        ),
    )
    yield "written", pages(recorded.pages_written)
    yield "rows", ", ".join(f"{number:,} {name}" for name, number in recorded.rows.items())
