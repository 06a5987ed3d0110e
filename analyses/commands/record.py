"""What the commands under `dirtylog record` share: where to, how long, and how they end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import units

if TYPE_CHECKING:
    from tracer.recorders.session import Recorded, Wanted

Duration = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", show_default="until Ctrl-C", help="How long to record: ns, us, ms, s, min."
    ),
]


def make(
    recorder: Callable[[Wanted], Recorded], output: Path, duration: str | None, force: bool
) -> None:
    """Run a recorder to its end, a first Ctrl-C or a SIGTERM, and tell what it made.

    A second Ctrl-C leaves the trace unfinished.
    """
    from analyses.render.recorded import Meter, show  # noqa: PLC0415 - heavy
    from analyses.render.terminal import Page, emit  # noqa: PLC0415
    from tracer.recorders.session import Wanted  # noqa: PLC0415

    with Meter() as meter, stop_signal() as stop:
        recorded = recorder(
            Wanted(
                out=output,
                duration_ns=None if duration is None else units.duration(duration, "--duration"),
                force=force,
                stop=stop,
                watch=meter,
                doing=meter.doing,
            )
        )
    show(recorded, Page(stderr=True))
    emit(f"{recorded.out}\n")


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Give an event that the first SIGINT or SIGTERM sets; the second interrupts as ever."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, ask)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
