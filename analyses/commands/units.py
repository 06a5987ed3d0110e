"""Sizes and durations as people write them, to exact integers."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NoReturn

_NUMBER = r"(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?)"
_RATE = re.compile(_NUMBER + r" ?(?P<prefix>[kKMGT]i?)?(?P<unit>B|bit)/s")
_SIZE = re.compile(_NUMBER + r" ?(?P<prefix>[kKMGT]i?)?B")
_DURATION = re.compile(_NUMBER + r" ?(?P<unit>ns|us|\u00b5s|\u03bcs|ms|s|min)")

_COUNT = re.compile(_NUMBER + r" ?(?P<prefix>[kMG])?")
_SHARE = re.compile(_NUMBER + r" ?(?P<percent>%)?")

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


def size(text: str, option: str) -> int:
    """Return bytes for a text like 1GiB or 500MB; `option` is for the error.

    Prefixes are those of `bandwidth`. Raises UsageError for anything else, and for what is no whole
    number of bytes.
    """
    found = _SIZE.fullmatch(text.strip())
    examples = "like 1GiB, 500MB or 64KiB"
    if found is None:
        _refuse(f"{option}: {text!r} is no size; write a number and a unit {examples}")
    value = Fraction(found["number"]) * _PREFIXES[found["prefix"]]
    if value.denominator != 1 or not value:
        _refuse(f"{option}: {text!r} is no whole number of bytes above 0; write it {examples}")
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


def count(text: str, option: str) -> int:
    """Return a whole number for a text like 500, 100k or 2.5M; `option` is for the error."""
    found = _COUNT.fullmatch(text.strip())
    value = Fraction(found["number"]) * _PREFIXES[found["prefix"]] if found else Fraction(1, 2)
    if value.denominator != 1:
        _refuse(f"{option}: {text!r} is no whole number; write it like 500, 100k or 2.5M")
    return int(value)


def share(text: str, option: str) -> Fraction:
    """Return a share from 0 to 1 for a text like 25% or 0.25; `option` is for the error."""
    found = _SHARE.fullmatch(text.strip())
    value = Fraction(found["number"]) / (100 if found["percent"] else 1) if found else Fraction(2)
    if value > 1:
        _refuse(f"{option}: {text!r} is no share; write it like 25% or 0.25, at most 100%")
    return value


def amount(text: str, option: str) -> int | Fraction:
    """Return bytes for a size like 16GiB, or a Fraction for a share of something like 25%."""
    if text.strip().endswith("%"):
        return share(text, option)
    if not text.strip().endswith("B"):
        _refuse(f"{option}: {text!r} is no amount of memory; write it like 16GiB or 25%")
    return size(text, option)


def number(text: str, option: str) -> Fraction:
    """Return an exact number for a text like 1.2; `option` is for the error."""
    if not re.fullmatch(_NUMBER, text.strip()):
        _refuse(f"{option}: {text!r} is no number; write it like 1.2")
    return Fraction(text.strip())


def _refuse(message: str) -> NoReturn:
    from tracer.errors import UsageError  # noqa: PLC0415 - its package is heavy

    raise UsageError(message)
