"""Numbers and words in lines of bytes, for the compiled loops of the text readers.

Compiled loops are cached by the file that they stand in, and so keep these functions as they were
when they were compiled: never change what one of them does, add another.
"""

from __future__ import annotations

from numba import njit

_MAX_DIGITS = 16


@njit(cache=True, nogil=True)
def is_at(data, at, end, text):  # type: ignore[no-untyped-def]
    """Whether `text` stands at `at`, before `end`."""
    if at + len(text) > end:
        return False
    for i in range(len(text)):  # noqa: SIM110 - numba knows no all()
        if data[at + i] != text[i]:
            return False
    return True


@njit(cache=True, nogil=True)
def find(data, at, end, text):  # type: ignore[no-untyped-def]
    """Where the first `text` from `at` on ends; -1 where there is none."""
    for i in range(at, end - len(text) + 1):
        if data[i] == text[0] and is_at(data, i, end, text):
            return i + len(text)
    return -1


@njit(cache=True, nogil=True)
def decimal(data, at, end):  # type: ignore[no-untyped-def]
    """Return where digits end, their value, and whether there are 1 to 16 of them."""
    value, start = 0, at
    while at < end and 48 <= data[at] <= 57:
        value = value * 10 + (data[at] - 48)
        at += 1
    return at, value, start < at <= start + _MAX_DIGITS


@njit(cache=True, nogil=True)
def hexadecimal(data, at, end):  # type: ignore[no-untyped-def]
    """As `decimal`, for 1 to 15 hex digits (2^60 is beyond any guest's bytes)."""
    value, start = 0, at
    while at < end:
        c = data[at] | 32
        if 48 <= data[at] <= 57:
            digit = data[at] - 48
        elif 97 <= c <= 102:
            digit = c - 87
        else:
            break
        value = (value << 4) | digit
        at += 1
    return at, value, start < at < start + _MAX_DIGITS


@njit(cache=True, nogil=True)
def number(data, at, end):  # type: ignore[no-untyped-def]
    """As `decimal`, hexadecimal after 0x."""
    if at + 1 < end and data[at] == 48 and (data[at + 1] | 32) == 120:
        return hexadecimal(data, at + 2, end)
    return decimal(data, at, end)
