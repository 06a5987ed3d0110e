"""What is written: the tables of a comparison as Parquet files, and small traces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from analyses.compare import Comparison
from analyses.version import version
from replay.parameters import Parameters
from replay.result import ReportRow, Result, RoundRow, Row, UnsafeRow, table
from tracer.errors import UsageError
from tracer.format import Meta, TableName
from tracer.writer import TraceWriter

#: The key in each file's metadata; its value is the JSON text of `provenance`.
KEY = "dirtylog"
RESULTS = "results.parquet"


def provenance(comparisons: Sequence[Comparison], parameters: Parameters) -> str:
    """Return what the tables were made with, as JSON: version, parameters, trace digests."""
    return json.dumps(
        {
            "version": version(),
            "parameters": asdict(parameters),
            "qemu": {
                c.trace.name: str(parameters.loop(c.trace.meta).version)
                for c in comparisons
                if parameters.profile == "qemu"
            },
            "traces": {c.trace.name: c.trace.digest for c in comparisons},
            "strategies": {
                c.trace.name: [strategy.name for strategy in c.strategies] for c in comparisons
            },
        }
    )


def write_tables(
    directory: Path, comparisons: Sequence[Comparison], parameters: Parameters
) -> None:
    """Write results, rounds, reports and unsafe `.parquet` into an empty `directory`.

    `unsafe.parquet` has one row a lost page, with its witness. Same input, same bytes.
    """
    metadata = {KEY: provenance(comparisons, parameters)}
    replays = list(chain.from_iterable(c.replays for c in comparisons))
    tables: tuple[tuple[str, type[Row], Sequence[Row]], ...] = (
        (RESULTS, Result, [r.result for r in replays]),
        ("rounds.parquet", RoundRow, [row for r in replays for row in r.rounds]),
        ("reports.parquet", ReportRow, [row for r in replays for row in r.reports]),
        ("unsafe.parquet", UnsafeRow, [row for r in replays for row in r.unsafe]),
    )
    for name, kind, rows in tables:
        pq.write_table(table(kind, rows, metadata), directory / name, compression="zstd")


def write_trace(
    path: Path, meta: Meta, tables: Mapping[TableName, pa.Table], *, force: bool = False
) -> None:
    """Write a small trace that is in memory; force: even over an existing one."""
    with TraceWriter(path, force=force) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish(meta)


def replaceable(directory: Path) -> None:
    """Refuse to replace a directory that is not an earlier output, whatever the user forces.

    Raises UsageError: forcing an output onto a home directory must not empty it.
    """
    if directory.is_dir() and any(directory.iterdir()) and not (directory / RESULTS).is_file():
        raise UsageError(
            f"{directory}: holds something else than results of a replay and will not be "
            "replaced; choose another directory"
        )
