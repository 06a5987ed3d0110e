"""The table of proofs in Markdown: every strategy by log mode and guest hold.

`python -m analyses.commands.proofs` prints it; ARCHITECTURE.md holds it word for word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from analyses.interleavings import Bounds, Setting
from analyses.proof import prove, setting_of
from replay.parameters import LogMode
from replay.strategies import Hold, registered

#: Title of a column, log mode, whether a report clears the log.
MODES: tuple[tuple[str, LogMode, bool], ...] = (
    ("legacy", "legacy", True),
    ("manual", "manual", True),
    ("manual, log left", "manual", False),
)
HOLDS: tuple[Hold, ...] = ("none", "ack", "done")

_Cells = tuple[tuple[LogMode, bool, Hold], ...]
CELLS: _Cells = tuple((mode, clears, hold) for _, mode, clears in MODES for hold in HOLDS)


def markdown() -> str:
    """Return the whole table."""
    titles = [f"{title}, {hold}" for title, _, _ in MODES for hold in HOLDS]
    head = ["| " + " | ".join(["strategy", *titles]) + " |", "|---" * (len(titles) + 1) + "|"]
    return "\n".join([*head, *rows()]) + "\n"


def rows() -> Iterator[str]:
    """Yield a line for each strategy, one whose guest is stopped once more with it running."""
    for name, strategy in registered().items():
        for guest_runs in (False, True) if strategy.stop_guest else (False,):
            title = f"{name}, guest runs" if guest_runs else name
            setting = setting_of(name, guest_runs=guest_runs)
            cells = [cell(setting, *which) for which in CELLS]
            yield f"| {title} | " + " | ".join(cells) + " |"


def cell(setting: Setting, mode: LogMode, clears: bool, hold: Hold) -> str:
    """Return one cell: the states of a proof, or in bold the steps to the loss of a page."""
    if not setting.strategy.hints and hold != "none":
        return ""
    chosen = replace(setting, log_mode=mode, hint_clears_log=clears, hold=hold)
    proof = prove(chosen, Bounds())
    if proof.course is None:
        return f"{proof.states:,}"
    unconfirmed = "" if proof.enactment is not None else " (no replay)"
    return f"**lost in {len(proof.course.labels)}**{unconfirmed}"


if __name__ == "__main__":
    from analyses.render.terminal import emit

    emit(markdown())
