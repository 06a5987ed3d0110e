"""The tables of measured accuracy in Markdown, over all recorded migrations in some folders.

`python -m analyses.commands.measured FOLDER...` prints them; ARCHITECTURE.md shows those of the
recordings that `python -m tests.guest.battery` makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from analyses.measured import Line, crossed, grouped, others, own
from analyses.recording import Recording
from tracer.trace import Trace


def markdown(folders: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of the tables: own parameters, the same on an even host, another's."""
    found = [Trace.open(path) for folder in folders for path in sorted(folder.glob("*.trace"))]
    repeats = grouped(Recording.of(trace) for trace in found if trace.migration is not None)
    head = "| pages sent, spread | time, spread | syncs | pages | bytes | time | syncs |"
    for even_host in (False, True):
        yield "| migration " + head
        yield "|---" * 8 + "|"
        for one in repeats:
            yield f"| {one.name} | " + " | ".join(_cells(own(one, even_host=even_host))) + " |"
        yield ""
    yield "| migration | from " + head
    yield "|---" * 9 + "|"
    for one in repeats:
        for source in others(one, repeats):
            lines = crossed(one, source)
            yield f"| {one.name} | {source.name} | " + " | ".join(_cells(lines)) + " |"


def _cells(lines: list[Line]) -> Iterator[str]:
    pages, size, time, syncs = lines
    known = [value for value in pages.real if value is not None]
    yield f"{sum(known) // len(known):,}{_spread(pages)}"
    lasted = [value for value in time.real if value is not None]
    yield f"{sum(lasted) / len(lasted) / 1e9:.2f} s{_spread(time)}" if lasted else "cancelled"
    yield ", ".join(str(value) for value in syncs.real)
    for line in (pages, size, time):
        yield "-" if line.error_percent is None else f"{line.error_percent:+.2f} %"
    yield ", ".join(str(value) for value in syncs.told)


def _spread(line: Line) -> str:
    return "" if line.spread_percent is None else f", {line.spread_percent:.1f} %"


if __name__ == "__main__":
    from analyses.render.terminal import emit

    for text in markdown([Path(name) for name in sys.argv[1:]]):
        emit(text + "\n")
