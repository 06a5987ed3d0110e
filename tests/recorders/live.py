"""Recordings under way: what they have so far is waited for, however fast the machine is."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tracer import Trace

#: How long (s) anything is waited for: on a machine at a quarter of its speed it comes by then.
PATIENCE = 300
#: For a recording that `ended_when` ends: only one that never has enough lasts so long.
UNTIL_ENDED = ("--duration", f"{PATIENCE}s")


def wait_until(true: Callable[[], object]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pages_of(trace: Trace) -> dict[int, set[int]]:
    """Return the pages of each epoch, by when it ended."""
    found: dict[int, set[int]] = {t: set() for t in trace.epochs[1:].tolist()}
    for rows in trace.rows("dirty"):
        for t, first, count in zip(
            rows.t.tolist(), rows.page.tolist(), rows.count.tolist(), strict=True
        ):
            found[t].update(range(first, first + count))
    return found


def all_pages(trace: Trace) -> set[int]:
    """Return the pages of all epochs."""
    return set().union(*pages_of(trace).values())


@contextmanager
def ended_when(out: Path, enough: Callable[[Trace], object]) -> Iterator[None]:
    """Send Ctrl-C to the recording that the block runs, once its trace has enough.

    An older trace that it replaces does not count.
    """
    before = _inode(out)
    over, main = threading.Event(), threading.main_thread().ident
    assert main is not None

    def watch() -> None:
        while not over.wait(0.05):
            if _inode(out) not in (None, before) and enough(Trace.open(out)):
                signal.pthread_kill(main, signal.SIGINT)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
