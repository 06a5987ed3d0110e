"""Interrupts wait while a library is at work that cannot stand one.

Python runs a signal's handler in the main thread between any two steps. What it raises is dropped
when that is inside a callback from C, and leaves the compiler's objects half made otherwise: the
process then crashes.
"""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM that come meanwhile come when the block has ended.

    Only where a handler of Python's would run: in the main thread, for a signal that has one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    come: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        come.append(number)

    handlers = [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
    own = [(number, handler) for number, handler in handlers if callable(handler)]
    try:
        for number, _ in own:
            signal.signal(number, remember)
        yield
    finally:
        for number, handler in own:
            signal.signal(number, handler)
        for late in come:
            signal.raise_signal(late)


def whole(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function`, which an interrupt now finds not begun or done."""

    @functools.wraps(function)
    def shielded(*args: P.args, **kwargs: P.kwargs) -> R:
        with held_back():
            return function(*args, **kwargs)

    return shielded
