"""`dirtylog info`."""

from __future__ import annotations

import json

from analyses.commands.options import AsJson, OneTrace


def info(
    trace: OneTrace,
    as_json: AsJson = False,
) -> None:
    """Check a trace and show what it holds.

    Size, duration, resolution, dirty rate by window, working set, free share over time, source.
    """
    from analyses.commands.compiling import announce_compilation  # noqa: PLC0415 - heavy
    from analyses.info import describe  # noqa: PLC0415
    from analyses.render.facts import show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit  # noqa: PLC0415
    from analyses.windows import account  # noqa: PLC0415
    from tracer.trace import Trace  # noqa: PLC0415

    opened = Trace.open(trace)
    announce_compilation(account)
    with Bar() as bar:
        found = describe(opened, watch=bar)
    if as_json:
        emit(json.dumps(found.to_dict(), indent=2) + "\n")
    else:
        show(found, Page())
