"""What a comparison of a replay with a real migration needs of their recordings."""

from __future__ import annotations

from analyses.recording import Recording
from tracer.errors import TraceError
from tracer.trace import Trace


def check_needed(recorded: Trace, source: Trace, *, even_host: bool) -> None:
    """Raise TraceError, by name, for what the log of either recording lacks.

    recorded: the migration that is foretold. source: the trace that it is foretold from. Of a trace
    whose header does not say what was in a log nothing is asked.
    """
    for trace in (recorded, source):
        if trace.migration is None:
            continue
        recording = Recording.of(trace)
        sent, syncs = recording.counter("normal"), recording.recorded.get("syncs")
        if sent and syncs and not sum(sync.get("normal", 0) for sync in syncs):
            raise TraceError(
                f"{trace.path}: QEMU sent {sent} pages with content and its log names none "
                "(ram_save_page; with multifd no page is logged): what they held is not known, and "
                "so not what a migration sends"
            )
        iterations = recording.recorded.get("iterations")
        looked = not isinstance(iterations, dict) or any(iterations.values())
        if not even_host and not looked:
            raise TraceError(
                f"{trace.path}: its log has no looks at what is pending (migrate_pending up to "
                "QEMU 7.2, migrate_pending_estimate and migrate_pending_exact up to 10, "
                "qemu_savevm_query_pending from 11 on): when the sender ran is not known; record "
                "them, or leave the host out with --even-host"
            )
