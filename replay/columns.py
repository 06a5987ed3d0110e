"""A trace's tables as whole columns, for what makes one trace out of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.format import TableName
from tracer.rows import Int64s
from tracer.trace import Trace

Columns = dict[str, npt.NDArray[Any]]


def columns_of(trace: Trace, name: TableName) -> Columns:
    """Return a table's columns by their names in the file, empty ones where it has no rows."""
    parts = list(trace.rows(name))
    columns: Columns = {"t_ns": _joined([rows.t for rows in parts])}
    if name != "epochs":
        columns["page"] = _joined([rows.page for rows in parts])
        columns["count"] = _joined([rows.count for rows in parts])
    if name == "freelist":
        columns["free"] = _joined([rows.free for rows in parts]).astype(np.bool_)
        if trace.meta.freelist_resolution == "sampled":
            columns["since_ns"] = _joined([rows.since for rows in parts])
    return columns


def merged(columns: Columns, t: Int64s | None = None, page: Int64s | None = None) -> pa.Table:
    """Return columns as a table, with one-page rows more if given, in order of time."""
    if t is not None and page is not None and len(t):
        more = {"t_ns": t, "page": page, "count": np.ones(len(t), np.int64)}
        columns = {key: np.concatenate([column, more[key]]) for key, column in columns.items()}
    order = np.argsort(columns["t_ns"], kind="stable")
    return pa.table({key: column[order] for key, column in columns.items()})


def one_page_each(trace: Trace, name: TableName) -> tuple[Int64s, Int64s]:
    """Return times and pages of a table, runs taken apart; of the free list what enters it."""
    columns = columns_of(trace, name) if name in trace else {}
    if not columns:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    t, first, count = (columns[key].astype(np.int64) for key in ("t_ns", "page", "count"))
    if name == "freelist":
        enters = columns["free"]
        t, first, count = t[enters], first[enters], count[enters]
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(t, count), np.repeat(first, count) + within


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
