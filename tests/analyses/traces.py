"""Tiny traces on disk for the tests of the analyses and of the command line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tracer import Block, Meta, TraceWriter
from tracer.format import SAMPLED_FREELIST, SCHEMAS

MS = 1_000_000
PAGES = 64
PAGE_SIZE = 8 << 20


def meta(**other) -> Meta:
    settings = {
        "page_size": PAGE_SIZE,
        "pages": PAGES,
        "duration_ns": 2_000 * MS,
        "blocks": (Block("ram", 0, PAGES),),
        "resolution": "write",
        "freelist_resolution": "event",
        "source": {"recorder": "a test"},
    }
    return Meta(**{**settings, **other})


def write(path: Path, header: Meta, *, migration=None, **tables) -> Path:
    """Write a trace; each table is a list of rows as tuples in the schema's order."""
    sampled = header.freelist_resolution == "sampled"
    with TraceWriter(path, sampled=sampled) as writer:
        for name, rows in tables.items():
            schema = SAMPLED_FREELIST if name == "freelist" and sampled else SCHEMAS[name]
            columns = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.append(name, pa.table(arrays, schema=schema))
        writer.finish(header, migration)
    return path


def race(path: Path, **other) -> Path:
    """Write a trace in which a page is reported free, taken, written, harvested, then skipped.

    With the defaults of a replay `hint-async` loses page 60 and `hint-first-pass` loses none.
    """
    return write(
        path,
        meta(**other),
        dirty=[(MS // 2, 0, 50), (4 * MS, 60, 1)],
        freelist=[(0, 59, 2, True), (3 * MS, 60, 1, False)],
        zero=[(0, 0, 63)],
    )


def hidden(path: Path, **other) -> Path:
    """Write the same as a recording that hides rewrites, with a sampled free list."""
    header = meta(
        **{"resolution": "first-write", "freelist_resolution": "sampled", "quantum_ns": 1000}
        | other
    )
    return write(
        path,
        header,
        dirty=[(MS // 2, 0, 50), (4 * MS, 60, 1)],
        freelist=[(0, 59, 2, True, 0), (3 * MS, 60, 1, False, 2 * MS)],
        zero=[(0, 0, 63)],
        epochs=[(100 * MS,)],
    )


def unlisted(path: Path) -> Path:
    """Write a trace without a free list."""
    return write(path, meta(freelist_resolution=None), dirty=[(MS, 1, 1)], zero=[(0, 0, 63)])


def endless(path: Path) -> Path:
    """Write a trace that is over before any switchover, replayed at 64 MiB/s."""
    rows = [(t * MS, 0, 60) for t in range(1, 2_000, 10)]
    return write(path, meta(freelist_resolution=None), dirty=rows)
