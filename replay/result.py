"""What a replay gives back: plain rows with the model's names (section 4), and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyarrow as pa

Scenario = Literal["exact", "recorded", "expected", "saturated"]
Verdict = Literal["safe", "possible", "unsafe", "unknown"]


@dataclass(frozen=True)
class Result:
    """One replay of one trace under one strategy in one scenario (the model, section 4).

    Counts are of pages, times ns of host time, `wire_bytes` bytes. Where no switchover happened
    the fields that need one are None.
    """

    trace: str
    strategy: str
    profile: str
    log_mode: str
    scenario: Scenario
    verdict: Verdict
    completed: bool
    converged: bool
    reason: str
    rounds: int
    syncs: int
    pages_sent: int
    zero_pages_sent: int
    wire_bytes: int
    redundant: int
    free: int
    superseded: int
    freed_later: int | None
    needed: int | None
    wasted: int | None
    total_ns: int
    downtime_ns: int | None
    vcpu_stopped_ns: int
    reports_requested: int
    reports_handled: int
    reports_dropped: int
    skipped_pages: int
    hold_conflicts: int
    lost: int | None
    unwritten: int | None
    stale_free: int | None
    old_bytes: int | None
    near_misses: int | None
    assumptions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON takes it."""
        return {**asdict(self), "assumptions": list(self.assumptions)}


@dataclass(frozen=True)
class RoundRow:
    """One sweep of the cursor, or (`stopped`) the copying after the guest stopped."""

    trace: str
    strategy: str
    scenario: Scenario
    round: int
    stopped: bool
    start_ns: int
    end_ns: int
    pages_sent: int
    zero_pages_sent: int
    wire_bytes: int
    redundant: int
    free: int
    pending_pages: int | None


@dataclass(frozen=True)
class ReportRow:
    """One free page report; `outcome` is handled, dropped or in-flight.

    `missed` counts the pages that were lost right after its handling.
    """

    trace: str
    strategy: str
    scenario: Scenario
    report: int
    requested_ns: int
    snapshot_ns: int | None
    arrived_ns: int | None
    done_ns: int | None
    outcome: str
    pages: int
    skipped_pages: int
    hold_conflicts: int
    missed: int


@dataclass(frozen=True)
class UnsafeRow:
    """The witness of one lost page; times are host ns since the migration's start.

    t_written: the first write that was not carried. t_harvested: the sync that swallowed its
    record, None where the log had none.
    """

    trace: str
    strategy: str
    scenario: Scenario
    page: int
    t_snapshot: int
    t_written: int
    t_harvested: int | None
    t_skipped: int
    round: int


@dataclass(frozen=True)
class Replay:
    """A result with what lies behind it."""

    result: Result
    rounds: tuple[RoundRow, ...]
    reports: tuple[ReportRow, ...]
    unsafe: tuple[UnsafeRow, ...]


Row = Result | RoundRow | ReportRow | UnsafeRow

_TYPES = {"str": pa.string(), "int": pa.int64(), "bool": pa.bool_(), "tuple": pa.list_(pa.string())}


def schema(kind: type[Row]) -> pa.Schema:
    """Return the Arrow schema of a kind of row; only fields that can be None are nullable."""
    columns = []
    for field in fields(kind):
        name = str(field.type)
        base = name.partition("[")[0].partition(" ")[0]
        columns.append(
            pa.field(field.name, _TYPES.get(base, pa.string()), nullable=name.endswith("None"))
        )
    return pa.schema(columns)


def table(kind: type[Row], rows: Sequence[Row], metadata: dict[str, str] | None = None) -> pa.Table:
    """Return rows of one kind as an Arrow table, also where there are none."""
    shape = schema(kind).with_metadata(metadata)
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=shape)
