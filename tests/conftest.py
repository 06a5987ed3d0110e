"""What no test may hang on: how fast the machine is, and how the tests were started."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# The same examples each time, however long one takes; failing ones are kept nowhere.
settings.register_profile(
    "steady",
    max_examples=500,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

# A shell ignores Ctrl-C for what it starts in the background; what is started here would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What changes all that is printed; a test that is about one of them sets it.
for name in ("DIRTYLOG_TRACEBACK", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)
