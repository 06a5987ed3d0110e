"""A table's times page by page: what is asked of a trace by whoever goes through single pages."""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated,no-untyped-def,no-untyped-call"

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tracer.compiled import compiled
from tracer.format import TableName
from tracer.rows import Flags, Int64s, Rows
from tracer.trace import Trace


@dataclass(frozen=True)
class Grouped:
    """Times of rows, page by page: of page p `t[first[p]:first[p + 1]]`, int64 ns, ascending."""

    first: Int64s
    t: Int64s


def grouped(trace: Trace, name: TableName, *, after: int) -> Grouped:
    """Return the rows after guest time `after`, runs taken apart; of the free list what enters it.

    Takes 8 bytes a page of the guest and 8 a page of a row.
    """
    first = np.zeros(trace.meta.pages + 1, np.int64)
    for rows, chosen in _chosen(trace, name, after):
        _count(first, rows.page, rows.count, chosen)
    np.cumsum(first, out=first)
    t, at = np.empty(int(first[-1]), np.int64), first[:-1].copy()
    for rows, chosen in _chosen(trace, name, after):
        _place(at, t, rows.t, rows.page, rows.count, chosen)
    return Grouped(first, t)


def _chosen(trace: Trace, name: TableName, after: int) -> Iterator[tuple[Rows, Flags]]:
    for rows in trace.rows(name):
        yield rows, (rows.t > after) & (rows.free if name == "freelist" else True)


@compiled
def _count(first, page, count, chosen):
    for i in range(len(page)):
        if chosen[i]:
            for p in range(page[i], page[i] + np.int64(count[i])):
                first[p + 1] += 1


@compiled
def _place(at, t, when, page, count, chosen):
    for i in range(len(page)):
        if chosen[i]:
            for p in range(page[i], page[i] + np.int64(count[i])):
                t[at[p]] = when[i]
                at[p] += 1
