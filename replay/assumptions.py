"""What a result rests on, in words: whatever the recording could not say (the model, section 7)."""

from __future__ import annotations

from collections.abc import Iterator

from replay.doubt import Doubt
from replay.engine import Migration
from replay.parameters import LONGEST, Parameters
from replay.result import Scenario
from tracer.format import Meta
from tracer.words import duration, setting, size

_USUAL_STOP = (Parameters.stop_ns, Parameters.device_bytes)


def assumptions(
    migration: Migration, scenario: Scenario, doubt: Doubt | None, stopped_ns: int
) -> Iterator[str]:
    """Yield the assumptions behind one result, and what its figures leave out.

    stopped_ns: how long the vCPUs stood still before the switchover began.
    """
    meta, parameters = migration.trace.meta, migration.parameters
    if scenario == "recorded":
        if meta.resolution != "write":
            yield f"only the recorded instants ({meta.resolution} resolution) are writes"
        if meta.freelist_resolution == "sampled":
            yield "free-list transitions happen at the end of their sampling window"
        if meta.quantum_ns > 1:
            yield f"rows within one quantum of {setting(meta.quantum_ns)} happen in file order"
    if scenario == "saturated":
        yield "a written page is written without pause until its epoch ends"
    if "zero" not in migration.trace:
        yield "no page is zero: the trace has no zero.arrow"
    if meta.hinting:
        yield "the trace was recorded with hinting on and contains what hinting did to the guest"
    throttles = meta.source.get("throttle_percents")
    if throttles and meta.clock == "guest":
        yield (
            f"the guest was throttled while recording, by up to {max(throttles)} %: it is taken to "
            "work at guest time, as one does that computes; one that keeps a pace of its own wrote "
            "faster by that clock than it would have without"
        )
    if parameters.at_end == "loop":
        yield f"a trace that ends is repeated, at most {LONGEST} times, contents kept at the seam"
    if parameters.profile == "qemu":
        yield _about_the_stop(meta, parameters)
    if stopped_ns:
        yield (
            f"the guest stands still for {duration(stopped_ns)} before the switchover begins, "
            "which the downtime leaves out"
        )
    if migration.strategy.hints:
        yield from _about_hints(migration, doubt)


def _about_the_stop(meta: Meta, parameters: Parameters) -> str:
    taken = (parameters.stop_ns, parameters.device_bytes)
    usual = " (as measured on small guests)" if taken == _USUAL_STOP else ""
    return (
        f"the loop is that of QEMU {parameters.loop(meta).version}; the switchover takes "
        f"{setting(parameters.stop_ns)} besides what is sent, and sends "
        f"{size(parameters.device_bytes)} of device state after the memory{usual}"
    )


def _about_hints(migration: Migration, doubt: Doubt | None) -> Iterator[str]:
    hold = migration.hold
    if hold == "none":
        yield "the guest may reuse a reported page at once (guest hold none)"
    elif hold == "ack":
        yield "the guest reuses no reported page before the host has handled it (guest hold ack)"
    else:
        yield "the guest never reuses a reported page (guest hold done)"
    if hold != "none":
        yield "pages the recorded guest took while held are left out: allocated elsewhere instead"
    if hold == "none" and migration.parameters.log_mode == "manual":
        yield (
            "log mode manual is judged for a guest that reuses reported pages before the host has "
            "handled them; Linux's driver does so only under memory pressure"
        )
    if doubt is not None and doubt.proved:
        yield f"page {doubt.page} is lost in an order that the recording allows"
    elif doubt is not None:
        yield f"the search gave up on page {doubt.page}: too many orders are possible"
