"""How much of its vCPUs' time a recorded guest's work took, and its trace without its throttle."""

from __future__ import annotations

from contextlib import suppress

from analyses.recording import Recording
from replay.pacing import FULL_LOAD, at_work, load_of
from replay.parameters import Parameters
from tracer.errors import TraceError
from tracer.trace import Trace


def as_worked(trace: Trace, parameters: Parameters) -> Trace:
    """Return a trace as a guest of the parameters' load worked, were it not for its own throttle.

    A guest that needs less than all of its vCPUs' time wrote as it does anyway while it was
    throttled: by guest time faster than it would have without. One of full load did not.
    """
    load = parameters.guest_load
    if load == FULL_LOAD or trace.migration is None or trace.meta.clock != "guest":
        return trace
    with suppress(TraceError):  # what was recorded along may be of no use for a replay
        throttles = Recording.of(trace).throttles
        return at_work(trace, throttles, load) if throttles else trace
    return trace


def shown_load(recording: Recording) -> int | None:
    """Return the guest's load (percent) as a recording shows it, None where it shows none."""
    if not recording.throttles or recording.trace.meta.resolution != "first-write":
        return None
    return load_of(recording.trace, recording.throttles)
