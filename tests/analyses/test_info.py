from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.info import describe
from analyses.windows import zero_at_start
from tests.analyses.traces import MS, endless, hidden, meta, race, unlisted, write
from tracer import Trace, TraceError
from tracer.format import SCHEMAS


def naive(pages, edges, dirty, freelist):
    """The same counts, page by page and row by row."""
    free, ever = set(), set()
    counts = []
    for begin, end in zip([-1, *edges], edges, strict=False):
        written, on_free, seen = 0, 0, set()
        start = end == edges[0] and not counts
        events = [(t, 0, row) for t, *row in freelist] + [(t, 1, row) for t, *row in dirty]
        for _, kind, row in sorted(
            (e for e in events if begin < e[0] <= end), key=lambda e: (e[0], e[1])
        ):
            run = range(row[0], row[0] + row[1])
            if kind == 0:
                free = free | set(run) if row[2] else free - set(run)
            elif not start:
                written += len(run)
                on_free += len(free & set(run))
                seen |= set(run)
        ever |= seen
        counts.append((written, len(seen), on_free, len(free)))
    return counts, len(ever)


@st.composite
def traces(draw):
    pages = draw(st.integers(1, 200))
    times = st.integers(0, 100)
    dirty = []
    for t in sorted(draw(st.lists(times, max_size=20))):
        page = draw(st.integers(0, pages - 1))
        dirty.append((t, page, draw(st.integers(1, pages - page))))
    freelist, free = [], np.zeros(pages, bool)
    for t in sorted(draw(st.lists(times, max_size=20))):
        page = draw(st.integers(0, pages - 1))
        same = 1
        while page + same < pages and free[page + same] == free[page]:
            same += 1
        count = draw(st.integers(1, same))
        freelist.append((t, page, count, not free[page]))
        free[page : page + count] ^= True
    return pages, dirty, freelist


def in_memory(pages, dirty, freelist, batch):
    tables = {}
    for name, rows in (("dirty", dirty), ("freelist", freelist)):
        columns = list(zip(*rows, strict=True)) if rows else [[] for _ in SCHEMAS[name]]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMAS[name], strict=True)]
        whole = pa.table(arrays, schema=SCHEMAS[name])
        tables[name] = pa.Table.from_batches(whole.to_batches(max_chunksize=batch), whole.schema)
    header = meta(pages=pages, blocks=(), duration_ns=100)
    return Trace.from_tables(header, **tables)


@given(traces(), st.integers(1, 7), st.integers(1, 9))
def test_counts_are_those_of_a_page_by_page_count(rows, batch, windows):
    pages, dirty, freelist = rows
    info = describe(in_memory(pages, dirty, freelist, batch), windows)
    edges = [100 * i // windows for i in range(windows + 1)]
    counts, ever = naive(pages, edges, dirty, freelist)
    assert [(w.pages_written, w.distinct_pages, w.free_pages) for w in info.windows] == [
        (written, distinct, free) for written, distinct, _, free in counts[1:]
    ]
    assert info.working_set_pages == ever
    assert info.writes_on_free_pages == sum(row[2] for row in counts)
    assert info.free_pages_at_start == counts[0][3]


def test_what_a_trace_says_of_itself(tmp_path):
    answer = {"status": "completed", "ram": {"normal": 5}, "parameters": {"a": 1}, "recorded": {}}
    path = write(
        tmp_path / "told.trace",
        meta(hinting=True),
        migration=answer,
        dirty=[(1, 0, 2)],
        freelist=[(0, 60, 4, True)],
        zero=[(0, 0, 10), (0, 5, 10), (5, 20, 1)],
        epochs=[(7,)],
    )
    trace = Trace.open(path)
    info = describe(trace)
    assert (info.trace, info.digest, info.size_bytes) == ("told", trace.digest, trace.size_bytes)
    assert info.rows == {"dirty": 1, "freelist": 1, "zero": 3, "epochs": 1}
    assert info.zero_pages_at_start == zero_at_start(trace) == 15
    assert info.migration == {"status": "completed", "ram": {"normal": 5}}
    assert info.hinting
    assert info.exact


def test_a_trace_without_a_free_list_says_so(tmp_path):
    info = describe(Trace.open(unlisted(tmp_path / "a.trace")))
    assert info.free_pages_at_start is None
    assert {window.free_pages for window in info.windows} == {None}
    assert info.writes_on_free_pages == 0


def test_no_time_no_windows(tmp_path):
    path = write(tmp_path / "a.trace", meta(duration_ns=0, freelist_resolution=None), dirty=[])
    assert describe(Trace.open(path)).windows == ()


def test_windows_meet_and_cover_the_trace(tmp_path):
    for make in (race, hidden, endless):
        windows = describe(Trace.open(make(tmp_path / f"{make.__name__}.trace"))).windows
        assert len(windows) == 20
        assert windows[0].start_ns == 0
        assert windows[-1].end_ns == 2_000 * MS
        assert all(a.end_ns == b.start_ns for a, b in pairwise(windows))


def test_rows_are_checked_before_they_are_counted():
    trace = in_memory(10, [(1, 9, 2)], [], 5)
    with pytest.raises(TraceError, match="row 0"):
        describe(trace)
