"""Runs of set bits in little-endian words, found by one compiled loop over the words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from tracer.compiled import compiled
from tracer.rows import Int64s

#: Words that are taken apart at once; a word has up to 32 runs.
_WORDS = 1 << 15
_MOST = 32
_NONE = -1
#: A de Bruijn sequence: shifted by each number of bits its upper six bits differ, and so tell it.
_SEQUENCE = np.uint64(0x03F79D71B4CB0A89)
_PLACES = np.empty(64, np.int64)
_PLACES[(_SEQUENCE << np.arange(64, dtype=np.uint64)) >> np.uint64(58)] = np.arange(64)


def bit_runs(parts: Iterable[bytes]) -> Iterator[tuple[Int64s, Int64s]]:
    """Yield first bits and lengths, int64, of the runs of set bits, ascending.

    parts: the bytes of a bitmap, cut anywhere; bytes beyond the last whole word are left out.
    """
    open_, words = np.array([_NONE], np.int64), 0
    out = np.empty((2, _MOST * _WORDS + 1), np.int64)
    for part in _whole_words(parts):
        for at in range(0, len(part), _WORDS):
            some = part[at : at + _WORDS]
            runs = _runs(some, 64 * words, open_, out)
            words += len(some)
            if runs:
                yield out[0, :runs].copy(), out[1, :runs].copy()
    if open_[0] != _NONE:
        yield open_.copy(), 64 * words - open_


def _whole_words(parts: Iterable[bytes]) -> Iterator[npt.NDArray[np.uint64]]:
    rest = b""
    for part in parts:
        data = rest + part if rest else part
        whole = len(data) & ~7
        yield np.frombuffer(data, "<u8", whole // 8)
        rest = data[whole:]


@compiled
def _runs(words, base, open_, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the runs that end in these words; return how many do.

    base: number of the first bit. open_[0]: first bit of a run that goes on, `_NONE` without one.
    """
    rows, first = 0, open_[0]
    before = np.uint64(0) if first == _NONE else np.uint64(1)
    for i in range(len(words)):
        word = words[i]
        # A bit that differs from the one before it begins a run or ends one.
        edges = word ^ ((word << np.uint64(1)) | before)
        before = word >> np.uint64(63)
        while edges:
            lowest = edges & (~edges + np.uint64(1))
            bit = base + 64 * i + _PLACES[(lowest * _SEQUENCE) >> np.uint64(58)]
            edges ^= lowest
            if first == _NONE:
                first = bit
            else:
                out[0, rows], out[1, rows] = first, bit - first
                rows += 1
                first = _NONE
    open_[0] = first
    return rows
