"""Which pages of a file or a buffer hold nothing but zeros."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_CHUNK = 8 << 20


def zero_pages(data: bytes | memoryview, page_size: int) -> npt.NDArray[np.bool_]:
    """Return a flag for each page of `data`, whose length is a whole number of pages."""
    words = np.frombuffer(data, np.uint64).reshape(-1, page_size // 8)
    # Nearly every page that has content has some in its first words.
    zero: npt.NDArray[np.bool_] = np.logical_not(words[:, :8].any(axis=1))
    zero[zero] = np.logical_not(words[zero].any(axis=1))
    return zero


def read_pages(
    file: int, start: int, end: int, page_size: int
) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Yield offsets and flags of zero pages of the bytes `start` to `end` of an open file.

    Both are multiples of `page_size`; it ends early where the file does.
    """
    at = start
    while at < end:
        data = os.pread(file, min(_CHUNK // page_size * page_size or page_size, end - at), at)
        data = data[: len(data) // page_size * page_size]
        if not data:
            return
        yield at, zero_pages(data, page_size)
        at += len(data)
