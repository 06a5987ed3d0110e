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

#: Columns whose names are others in `Rows`.
_ATTRIBUTES = {"t_ns": "t", "since_ns": "since"}


def columns_of(trace: Trace, name: TableName) -> Columns:
    """Return a table's columns by their names in the file, empty ones where it has no rows."""
    kinds: dict[str, npt.DTypeLike] = {"t_ns": np.int64}
    if name != "epochs":
        kinds |= {"page": np.int64, "count": np.uint32 if name == "dirty" else np.int64}
    if name == "freelist":
        kinds |= {"free": np.bool_}
        if trace.meta.freelist_resolution == "sampled":
            kinds |= {"since_ns": np.int64}
    size = trace.num_rows(name)
    columns: Columns = {key: np.empty(size, kind) for key, kind in kinds.items()}
    at = 0
    for rows in trace.rows(name):
        part = slice(at, at + len(rows.t))
        for key, column in columns.items():
            column[part] = getattr(rows, _ATTRIBUTES.get(key, key))
        at = part.stop
    return columns


def merged(columns: Columns, t: Int64s | None = None, page: Int64s | None = None) -> pa.Table:
    """Return columns as a table, with one-page rows more if given, in order of time.

    Takes them out of `columns` one after the other: both at once may be more than fits.
    """
    more: Columns = {}
    if t is not None and page is not None and len(t):
        more = {"t_ns": t, "page": page, "count": np.ones(len(t), np.uint32)}

    def whole(key: str) -> npt.NDArray[Any]:
        if not more:
            return columns.pop(key)
        column = columns.pop(key)
        return np.concatenate([column, more.pop(key).astype(column.dtype, copy=False)])

    names = list(columns)
    times = whole("t_ns")
    order = np.argsort(times, kind="stable")
    made = {"t_ns": pa.array(times[order])}
    del times
    for key in names[1:]:
        column = whole(key)[order]
        made[key] = pa.array(column.view(np.uint64) if key == "page" else column)
    return pa.table(made)
