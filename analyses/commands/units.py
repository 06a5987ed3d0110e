"""Sizes and durations as people write them, to exact integers."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NoReturn

_NUMBER = r"(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?)"
_RATE = re.compile(_NUMBER + r" ?(?P<prefix>[kKMGT]i?)?(?P<unit>B|bit)/s")
_SIZE = re.compile(_NUMBER + r" ?(?P<prefix>[kKMGT]i?)?B")
_DURATION = re.compile(_NUMBER + r" ?(?P<unit>ns|us|\u00b5s|\u03bcs|ms|s|min)")

_PREFIXES: dict[str | None, int] = {
    None: 1,
    **{letter: 10 ** (3 * power) for power, letter in enumerate("kMGT", 1)},
    **{f"{letter}i": 1 << (10 * power) for power, letter in enumerate("KMGT", 1)},
    "K": 10**3,
    "ki": 1 << 10,
}
#: Both characters that are written as micro mean it.
_TIMES = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
}


def bandwidth(text: str, option: str) -> int:
    """Return bytes/s for a text like 10Gbit/s, 1.5GiB/s or 800MB/s; `option` is for the error.

    k, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024. Raises UsageError for anything else,
    and for what is no whole number of bytes/s.
    """
    found = _RATE.fullmatch(text.strip())
    examples = "like 10Gbit/s, 1.5GiB/s, 800MB/s or 64KiB/s"
    if found is None:
        _refuse(f"{option}: {text!r} is no bandwidth; write a number and a unit {examples}")
    bits = 8 if found["unit"] == "B" else 1
    value = Fraction(found["number"]) * _PREFIXES[found["prefix"]] * bits / 8
    if value.denominator != 1:
        _refuse(f"{option}: {text!r} is no whole number of bytes/s; write it {examples}")
    if not value:
        _refuse(f"{option}: {text!r} would never end; write it {examples}")
    return int(value)


def duration(text: str, option: str) -> int:
    """Return ns for a text like 300ms, 1.5s or 0; `option` is for the error.

    The units are ns, us, ms, s and min. Raises UsageError for anything else, and for what is no
    whole number of ns.
    """
    if text.strip() == "0":
        return 0
    found = _DURATION.fullmatch(text.strip())
    examples = "like 300ms, 1.5s, 250us or 2min"
    if found is None:
        _refuse(f"{option}: {text!r} is no duration; write a number and a unit {examples}")
    value = Fraction(found["number"]) * _TIMES[found["unit"]]
    if value.denominator != 1:
        _refuse(f"{option}: {text!r} is no whole number of ns; write it {examples}")
    return int(value)


def size(text: str, option: str) -> int:
    """Return bytes for a text like 4GiB, 512MiB or 16GB; `option` is for the error.

    k, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024. Raises UsageError for anything else,
    and for what is no whole number of bytes.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        _refuse(f"{option}: {text!r} is no size; write a number and a unit like 4GiB or 512MiB")
    value = Fraction(found["number"]) * _PREFIXES[found["prefix"]]
    if value.denominator != 1 or not value:
        _refuse(f"{option}: {text!r} is no whole number of bytes; write it like 4GiB or 512MiB")
    return int(value)


def _refuse(message: str) -> NoReturn:
    from tracer.errors import UsageError  # noqa: PLC0415 - its package is heavy

    raise UsageError(message)
