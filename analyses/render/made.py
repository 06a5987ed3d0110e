"""What a synthetic guest's trace holds, as lines for stderr."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from rich.text import Text

from analyses.render.grid import labelled
from analyses.render.terminal import Page
from analyses.render.text import duration, pages, percent, plain, size
from replay.parameters import Parameters
from tracer.synth.make import Made

_INDENT = 14


def show(made: Made, page: Page) -> None:
    """Print what was made, and of planted races what to look for."""
    page.lines([Text(plain(made.path), style="bold underline")])
    for label, body in _facts(made):
        page.lines(labelled(label, plain(body), page.prose, _INDENT))
    if made.planted is not None:
        page.lines(labelled("see", _command(made, made.planted), 1 << 12, _INDENT))


def _facts(made: Made) -> Iterator[tuple[str, str]]:
    meta = made.meta
    memory = size(meta.pages * meta.page_size)
    guest = f"{made.kind}, {memory} ({pages(meta.pages)} of {size(meta.page_size)})"
    yield "guest", f"{guest}, {duration(meta.duration_ns)}, seed {meta.source['seed']}"
    rows = (f"{number:,} {name} row{'s'[: number != 1]}" for name, number in made.rows.items())
    yield "made", ", ".join(rows)
    regions = meta.source["regions"]
    yield (
        "memory",
        ", ".join(f"{r['name']} {percent(r['pages'], meta.pages)}" for r in regions if r["pages"]),
    )
    if made.planted is not None:
        yield "planted", _planted(made.planted)


def _planted(planted: dict[str, Any]) -> str:
    number, names = len(planted["planted"]), ", ".join(planted["lost_under"])
    decoys = sum(len(sort["pages"]) for sort in planted["decoys"].values())
    return (
        f"{pages(number)} that {names} must lose, and no other strategy, in this replay; "
        f"{decoys:,} decoys that none may lose"
    )


def _command(made: Made, planted: dict[str, Any]) -> str:
    """Return the command that replays the trace as it was laid out, without what is default."""
    words = ["dirtylog", "replay", plain(made.path)]
    for name, value in planted["parameters"].items():
        if value != getattr(Parameters(), name):
            option = "--" + name.removesuffix("_ns").replace("_", "-")
            words += [option, _exact(name, value)]
    return shlex.join(words)


def _exact(name: str, value: int | str) -> str:
    if name == "bandwidth":
        return f"{value}B/s"
    if not name.endswith("_ns") or not isinstance(value, int):
        return str(value)
    for unit, length in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if value % length == 0:
            return f"{value // length}{unit}"
    return f"{value}ns"
