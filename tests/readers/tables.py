"""What the tests of readers ask of every trace that one made."""

from __future__ import annotations

from typing import Any

from analyses.info import describe
from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import strategy
from tracer import Trace


def table(trace: Trace, name: str) -> list[tuple[Any, ...]]:
    """Return the rows of a table."""
    found: list[tuple[Any, ...]] = []
    for rows in trace.rows(name):  # type: ignore[arg-type]
        parts = [rows.t.tolist(), rows.page.tolist(), rows.count.tolist()]
        parts += [rows.free.tolist()] if name == "freelist" else []
        found += zip(*parts, strict=True)
    return found


def written(trace: Trace) -> list[tuple[int, int]]:
    """Return time and page of every write, runs taken apart."""
    return [(t, p) for t, page, n in table(trace, "dirty") for p in range(page, page + n)]


def opened(path: Any) -> Trace:
    """Open a trace, check it, let `info` describe it and replay it."""
    trace = Trace.open(path)
    trace.validate()
    assert describe(trace).pages == trace.meta.pages
    assert trace.meta.source["recorder"]
    names = ["precopy", *(["hint-tagged"] if "freelist" in trace else [])]
    for name in names:
        for run in replay(trace, strategy(name), Parameters(bandwidth=1 << 40)):
            assert run.result.rounds >= 1
    return trace
