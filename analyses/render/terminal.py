"""Where words go: consoles for data (stdout) and for words and progress (stderr)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from analyses.render.text import plain

#: Work shorter than this (s) shows no progress bar.
_PATIENCE = 0.7
#: Prose is wrapped here at the latest; tables use the whole width.
_PROSE = 100


class ClosedPipe(Exception):  # noqa: N818 - a signal, not an error
    """Whoever read our output has gone: no error, but nothing more to say."""


class Page(Console):
    """A console that prints prepared lines as they are: nothing cut, marked up or guessed."""

    def __init__(self, *, stderr: bool = False):
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Leave quietly."""
        raise ClosedPipe from None

    def lines(self, lines: Iterable[Text | str]) -> None:
        """Print lines, without the spaces at their ends."""
        for line in lines:
            text = line.copy() if isinstance(line, Text) else Text(line)
            text.rstrip()
            self.print(text, soft_wrap=True)

    @property
    def prose(self) -> int:
        """The width at which prose is wrapped."""
        return min(self.width, _PROSE)

    @property
    def blocks(self) -> bool:
        """Whether the output can show block characters."""
        return self.encoding.lower().startswith("utf")


def emit(text: str) -> None:
    """Write data to stdout."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise ClosedPipe from None


def remark(text: str) -> None:
    """Say something on stderr that is neither data nor an error."""
    sys.stderr.write(f"dirtylog: {plain(text)}\n")
    sys.stderr.flush()


class Bar:
    """A progress bar on stderr for long work, if stderr is a terminal; use as context manager.

    Calling it with what is being done, the work done and the work in all moves it.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._begin = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` is done and that `what` is under way."""
        if not self._console.is_terminal:
            return
        if self._progress is None:
            if time.monotonic() - self._begin < _PATIENCE:
                return
            self._progress = self._start(plain(what), done, total)
        self._progress.update(
            self._progress.task_ids[0], description=plain(what), completed=done, total=total
        )

    def _start(self, what: str, done: int, total: int) -> Progress:
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        progress.add_task(what, completed=done, total=total)
        progress.start()
        return progress
