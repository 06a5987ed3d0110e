"""Times, sizes and rates as a person reads them."""

from __future__ import annotations

from decimal import Decimal

_TIMES = (("s", 10**9), ("ms", 10**6), ("us", 10**3))
_SIZES = (("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
#: As bytes/s in eighths, so that bits are whole.
_RATES = (
    ("GiB/s", 8 << 30),
    ("MiB/s", 8 << 20),
    ("KiB/s", 8 << 10),
    ("Gbit/s", 10**9),
    ("Mbit/s", 10**6),
    ("kbit/s", 10**3),
)
#: A figure with more digits is rounded instead.
_SHORT = 4


def duration(ns: int | None) -> str:
    """Return a time in ns to three digits in a fitting unit, a dash for None."""
    if ns is None:
        return "-"
    for unit, length in _TIMES:
        value = ns / length
        if value >= 0.9995:
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:,.{digits}f} {unit}"
    return f"{ns} ns" if ns else "0 s"


def setting(ns: int) -> str:
    """Return a time that somebody chose, in the largest unit in which it is short."""
    for unit, length in _TIMES:
        value = (Decimal(ns) / length).normalize()
        if value >= 1 and len(value.as_tuple().digits) <= _SHORT:
            return f"{value:,f} {unit}"
    return duration(ns)


def size(number: int) -> str:
    """Return bytes in a fitting binary unit."""
    for unit, length in _SIZES:
        if number >= length:
            return f"{number / length:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{number} B"


def rate(bytes_per_second: int) -> str:
    """Return a bandwidth in the unit in which it is short, or else rounded."""
    eighths = bytes_per_second * 8
    for unit, length in _RATES:
        value = (Decimal(eighths) / length).normalize()
        if value >= 1 and len(value.as_tuple().digits) <= _SHORT and value * length == eighths:
            return f"{value:f} {unit}"
    for unit, length in _RATES:
        if unit.endswith("iB/s") and eighths >= length:
            return f"{eighths / length:.2f} {unit}"
    return f"{bytes_per_second} B/s"


def whole_size(number: int) -> str:
    """Return bytes in the largest binary unit that leaves nothing out: to be given back as said."""
    for unit, length in _SIZES:
        if number >= length and number % length == 0:
            return f"{number // length:,} {unit}"
    return f"{number:,} B"
