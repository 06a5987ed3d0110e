"""From a reference trace to the engine's, and a comparison of what the two say."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from replay.parameters import Parameters
from replay.replay import replay
from replay.result import Replay
from replay.strategies import strategy
from tests.reference import ReferenceParameters, ReferenceResult, ReferenceTrace
from tracer import Block, Meta, Trace
from tracer.format import SCHEMAS


def as_trace(reference: ReferenceTrace, *, batch: int | None = None) -> Trace:
    """Return the same trace in memory, in batches of `batch` rows (one batch for None)."""
    meta = Meta(
        page_size=reference.page_size,
        pages=reference.pages,
        duration_ns=reference.duration_ns,
        blocks=tuple(Block(f"ram{i}", *block) for i, block in enumerate(reference.blocks)),
        resolution=reference.resolution,  # type: ignore[arg-type]
        freelist_resolution="event",
    )
    columns = {
        "dirty": (reference.dirty, ["t_ns", "page", "count"]),
        "freelist": (reference.freelist, ["t_ns", "page", "count", "free"]),
        "zero": (reference.zero, ["t_ns", "page", "count"]),
        "epochs": ([(t,) for t in reference.epochs], ["t_ns"]),
    }
    tables = {}
    for name, (rows, names) in columns.items():
        data = [
            pa.array(np.array([row[i] for row in rows]), SCHEMAS[name].field(i).type)
            if rows
            else pa.array([], SCHEMAS[name].field(i).type)
            for i in range(len(names))
        ]
        table = pa.table(data, schema=SCHEMAS[name])
        if batch is not None:
            table = pa.Table.from_batches(table.to_batches(max_chunksize=batch), table.schema)
        tables[name] = table
    trace = Trace.from_tables(meta, **tables)
    trace.validate()
    return trace


def as_parameters(reference: ReferenceParameters) -> Parameters:
    return Parameters(**asdict(reference))


def run_engine(
    reference: ReferenceTrace,
    name: str,
    parameters: ReferenceParameters,
    scenario: str,
    batch: int | None = None,
) -> Replay:
    found = replay(as_trace(reference, batch=batch), strategy(name), as_parameters(parameters))
    wanted = "exact" if reference.resolution == "write" else scenario
    return next(one for one in found if one.result.scenario == wanted)


def differences(engine: Replay, reference: ReferenceResult) -> list[str]:
    """Say where engine and reference differ; empty where they agree number for number."""
    found = []
    ours: dict[str, Any] = engine.result.to_dict()
    for name, wanted in reference.row.items():
        if ours[name] != wanted:
            found.append(f"{name}: engine {ours[name]!r}, reference {wanted!r}")
    witnesses = [
        {
            k: getattr(row, k)
            for k in ("page", "t_snapshot", "t_written", "t_harvested", "t_skipped", "round")
        }
        for row in engine.unsafe
    ]
    if witnesses != reference.witnesses:
        found.append(f"witnesses: engine {witnesses}, reference {reference.witnesses}")
    rounds = [
        {
            "round": r.round,
            "start_ns": r.start_ns,
            "end_ns": r.end_ns,
            "pages_sent": r.pages_sent,
            "zero_pages_sent": r.zero_pages_sent,
            "pending_at_sync": r.pending_pages,
        }
        for r in engine.rounds
        if not r.stopped
    ]
    if rounds != reference.rounds:
        found.append(f"rounds: engine {rounds}, reference {reference.rounds}")
    reports = [
        {
            "requested_ns": r.requested_ns,
            "snapshot_ns": r.snapshot_ns,
            "arrived_ns": r.arrived_ns,
            "done_ns": r.done_ns,
            "outcome": r.outcome,
            "pages": r.pages if r.snapshot_ns is not None else None,
            "skipped": r.skipped_pages,
            "conflicts": r.hold_conflicts,
        }
        for r in engine.reports
    ]
    if reports != reference.reports:
        found.append(f"reports: engine {reports}, reference {reference.reports}")
    return found
