"""CRIU's page maps, as its images have them and as `crit decode` prints them.

`pagemap-PID.img` is two magic words, then entries of a 32-bit length and a protobuf message
(images/pagemap.proto): the head `{pages_id=1}`, then `{vaddr=1, nr_pages=2 or 5, in_parent=3,
flags=4}`, flags being 1 in the parent, 2 lazy, 4 present. The contents stand in
`pages-ID.img`, in the order of the entries that are present.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from tracer.errors import TraceError
from tracer.rows import Int64s

if TYPE_CHECKING:
    import numpy.typing as npt

PARENT, PRESENT = 1, 4

_COMMON, _PAGEMAP = 0x54564319, 0x56084025
_FLAGS = {"PE_PARENT": 1, "PE_LAZY": 2, "PE_PRESENT": 4}
#: As many pages as a row of a trace can have.
_MOST_PAGES = (1 << 32) - 1
#: Entries of a part.
_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class PageMap:
    """Some entries of a page map, in order: first virtual pages, counts and flags, int64."""

    path: Path
    pages_id: int
    page: Int64s
    count: Int64s
    flags: Int64s


def read_pagemap(path: Path, page_size: int) -> Iterator[PageMap]:
    """Yield a page map part by part, one at least; binary or `crit`'s JSON.

    Raises TraceError for what is none.
    """
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    except OSError as error:
        raise TraceError(f"{path}: cannot be opened ({error.strerror})") from None
    head = data[:1].tobytes()
    json_text = head.isspace() or head == b"{"
    parts = [_from_json(path, data.tobytes())] if json_text else _from_image(path, data)
    for pages_id, (address, count, flags) in parts:
        if np.any(address % page_size) or np.any((count < 0) | (count > _MOST_PAGES)):
            raise TraceError(
                f"{path}: an entry's address or count is none of {page_size}-byte pages"
            )
        yield PageMap(path, pages_id, address // page_size, count, flags)


def _from_image(
    path: Path, data: npt.NDArray[np.uint8]
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    magic = [int.from_bytes(data[at : at + 4].tobytes(), "little") for at in (0, 4)]
    # Before CRIU 2.0 there was no common magic.
    start = 8 if magic == [_COMMON, _PAGEMAP] else 4 if magic[0] == _PAGEMAP else 0
    if not start:
        raise TraceError(f"{path}: begins with {magic[0]:#010x}; this is no page map of CRIU")
    pages_id = None
    while pages_id is None or start < len(data):
        table = np.empty((4, _AT_ONCE), np.int64)
        rows, start, good = _entries(data, start, table)
        if not good:
            raise TraceError(f"{path}, byte {start}: cut short, or no entry of a page map")
        if not rows:
            raise TraceError(f"{path}: has no head; the dump was cut short")
        head = pages_id is None
        pages_id = int(table[0, 0]) if pages_id is None else pages_id
        yield pages_id, table[1:, int(head) : rows]


def _from_json(path: Path, data: bytes) -> tuple[int, npt.NDArray[np.int64]]:
    try:
        body = json.loads(data)
        head, *entries = body["entries"]
        if body["magic"] != "PAGEMAP":
            raise TraceError(f"{path}: crit decoded a {body['magic']} image, no PAGEMAP")
        rows = [(_integer(e["vaddr"]), _integer(e["nr_pages"]), _flags(e)) for e in entries]
        table = np.array(rows, np.int64).reshape(-1, 3).T
        return int(head["pages_id"]), table
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise TraceError(
            f"{path}: no JSON that crit decode prints of a page map ({error})"
        ) from None


def _integer(value: Any) -> int:
    return int(value, 0) if isinstance(value, str) else int(value)


def _flags(entry: dict[str, Any]) -> int:
    value = entry.get("flags")
    if value is None:
        return PARENT if entry.get("in_parent") else PRESENT
    if isinstance(value, str) and not value[:1].isdigit():
        return sum(_FLAGS[word.strip()] for word in value.split("|") if word.strip())
    return _integer(value)


@njit(cache=True, nogil=True)
def _varint(data, at, end):  # type: ignore[no-untyped-def]
    """Return where a varint ends and its value; (-1, 0) for one that does not end."""
    value, shift = np.uint64(0), 0
    while at < end and shift < 64:
        byte = data[at]
        value |= np.uint64(byte & 127) << np.uint64(shift)
        at += 1
        if byte < 128:
            return at, np.int64(value)
        shift += 7
    return -1, np.int64(0)


@njit(cache=True, nogil=True)
def _entries(data, at, table):  # type: ignore[no-untyped-def]
    """Fill columns (first field, address, count, flags) of entries, as many as there is room for.

    Returns the rows, where the next entry begins, and whether all were entries.
    """
    rows = 0
    while at < len(data) and rows < table.shape[1]:
        start = at
        if at + 4 > len(data):
            return rows, start, False
        size = 0
        for i in range(4):
            size |= int(data[at + i]) << (8 * i)
        at += 4
        end = at + size
        if end > len(data):
            return rows, start, False
        first, count, wide, parent, flags = 0, 0, -1, 0, -1
        while at < end:
            at, key = _varint(data, at, end)
            if at < 0 or key & 7 != 0:  # every field of a page map is a varint
                return rows, start, False
            at, value = _varint(data, at, end)
            if at < 0:
                return rows, start, False
            field = key >> 3
            if field == 1:
                first = value
            elif field == 2:
                count = value
            elif field == 3:
                parent = value
            elif field == 4:
                flags = value
            elif field == 5:
                wide = value
        if flags < 0:
            flags = PARENT if parent else PRESENT
        table[0, rows], table[1, rows] = first, first
        table[2, rows], table[3, rows] = (wide if wide >= 0 else count), flags
        rows += 1
    return rows, at, True
