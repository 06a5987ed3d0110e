"""Rows of a trace as arrays: the form in which everything after the file sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.errors import TraceError

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NO_TIMES: Int64s = np.empty(0, np.int64)
NO_FLAGS: Flags = np.empty(0, np.bool_)


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one table as arrays of equal length, in file order.

    t: int64, ns of guest time. page: int64, dense page index. count: uint32 (dirty) or int64.
    free: bool and since: int64 ns, empty where the table has no such column.
    """

    t: Int64s
    page: Int64s = field(default_factory=lambda: NO_TIMES)
    count: npt.NDArray[Any] = field(default_factory=lambda: NO_TIMES)
    free: Flags = field(default_factory=lambda: NO_FLAGS)
    since: Int64s = field(default_factory=lambda: NO_TIMES)

    def part(self, low: int, high: int) -> Rows:
        """Return rows `low` to `high`, without a copy."""
        some = slice(low, high)
        return Rows(
            self.t[some], self.page[some], self.count[some], self.free[some], self.since[some]
        )


def rows_of(batch: pa.RecordBatch, where: str, first: int) -> Rows:
    """Return the rows of an Arrow batch, read-only and without a copy but of `free`.

    `where` and the number of the first row are for errors.
    """
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count:
            row = first + column.is_null().to_pylist().index(True)
            raise TraceError(f"{where} {row}: column {name!r} has a null; every row is whole")
        array = column.to_numpy(zero_copy_only=name != "free")
        array.flags.writeable = False
        # Signed pages keep compiled index arithmetic in integers; checks bound them before use.
        columns[name] = array.view(np.int64) if array.dtype == np.uint64 else array
    return Rows(
        t=columns["t_ns"],
        **{key: columns[key] for key in ("page", "count", "free") if key in columns},
        since=columns.get("since_ns", NO_TIMES),
    )
