"""Numbers and names as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
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


def all_of(names: Sequence[str]) -> str:
    """Return names as a sentence has them."""
    *several, last = names
    return f"{', '.join(several)} and {last}" if several else last


def count(number: int | None) -> str:
    """Return a count with thousands separators, a dash for None."""
    return "-" if number is None else f"{number:,}"


def pages(number: int) -> str:
    """Return a count of pages with its noun."""
    return f"{number:,} page" if number == 1 else f"{number:,} pages"


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


def moment(ns: int) -> str:
    """Return a point in time in ms, to the microsecond: order must stay visible."""
    return f"{ns / 1_000_000:,.3f} ms"


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


def percent(part: int, whole: int) -> str:
    """Return a share, never rounded to nothing or to all."""
    if not whole or not part:
        return "0 %"
    if part == whole:
        return "100 %"
    share = 100 * part / whole
    if share < 1:
        return "<1 %"
    return ">99 %" if share > 99 else f"{share:.0f} %"


def change(new: int, old: int | None) -> str:
    """Return the difference from `old` in percent of it; nothing where there is no old."""
    if not old:
        return ""
    if new == old:
        return "0 %"
    difference = 100 * (new - old) / old
    digits = 0 if abs(difference) >= 0.95 else 1 if abs(difference) >= 0.05 else 2
    return f"{difference:+,.{digits}f} %"


def plain(text: object) -> str:
    """Return text on one line that can do a terminal no harm; file names may hold anything."""
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "?" for c in str(text))
