"""Numbers and names as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.words import duration, rate, setting, size

__all__ = [
    "all_of", "change", "count", "duration", "moment", "pages", "percent", "plain", "rate",
    "setting", "size",
]  # fmt: skip


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


def moment(ns: int) -> str:
    """Return a point in time in ms, to the microsecond: order must stay visible."""
    return f"{ns / 1_000_000:,.3f} ms"


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
