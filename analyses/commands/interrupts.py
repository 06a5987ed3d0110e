"""Ctrl-C and SIGTERM end the work, also where a library would swallow them.

Python drops an exception that is raised inside a callback from C or a destructor, and says so on
stderr: an interrupt would be lost there. (Where it would do harm, it is not raised at all: see
`tracer.interrupts`.)
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

#: How soon an interrupt that was swallowed is sent again (s).
_SOON = 0.01
#: The signal that has come, if any.
_come: int | None = None


def end_by_signals() -> None:
    """Let SIGINT raise KeyboardInterrupt and SIGTERM SystemExit in the main thread until one ends.

    A SIGINT that is ignored from the beginning (`nohup`, a shell's background) stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise)
    signal.signal(signal.SIGTERM, _raise)
    sys.unraisablehook = _unraisable


def _raise(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    global _come  # noqa: PLW0603 - there is one process, and it ends by it
    _come = number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _unraisable(dropped: sys.UnraisableHookArgs) -> None:
    """Send a swallowed interrupt again; of what it left half made nothing need be said."""
    if _come is None:
        sys.__unraisablehook__(dropped)
    elif issubclass(dropped.exc_type, (KeyboardInterrupt, SystemExit)):
        main = threading.main_thread().ident
        assert main is not None
        again = threading.Timer(_SOON, signal.pthread_kill, (main, _come))
        again.daemon = True
        again.start()
