"""What an import of a foreign recording says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracer.format import Meta


@dataclass(frozen=True)
class ImportReport:
    """What an import read and made. Counts are of pages, rows or lines; times in ns or us.

    rows: by table. unknown_events: counts by name. cut: which inputs were cut short. notes: what
    stays unknown or had to be assumed, as sentences. zero_copies and copies are what the passes
    told, `..._reported` what QEMU counted (None where it did not say).
    """

    out: Path
    pages: int
    duration_ns: int
    resolution: str
    rows: Mapping[str, int]
    lines: int
    bytes_read: int
    unknown_events: Mapping[str, int] = field(default_factory=dict)
    other_text_lines: int = 0
    late_lines: int = 0
    latest_us: int = 0
    cut: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    straddling_writes: int = 0
    writes_left_out: int = 0
    throttle_percents: tuple[int, ...] = ()
    samples: int = 0
    samples_used: int = 0
    alignment_offset_us: int | None = None
    alignment_spread_us: int | None = None
    takes_moved: int = 0
    refreed: int = 0
    overruled: int = 0
    zero_at_start: int = 0
    assumed_zero: int = 0
    assumed_data: int = 0
    copies: int = 0
    copies_reported: int | None = None
    zero_copies: int | None = 0
    zero_copies_reported: int | None = None
    hidden_rewrites: int = 0


def milliseconds(ns: int) -> str:
    """Return a time as notes say it."""
    return f"{ns // 1_000_000:,}.{ns // 1000 % 1000:03d} ms"


@dataclass(frozen=True)
class ReadReport:
    """What an import of anything but QEMU's trace log read and made.

    read: what went in, as words and numbers (lines, files, events by name). rows: by table. cut:
    which inputs were cut short. notes: what stays unknown or had to be assumed, as sentences.
    """

    out: Path
    pages: int
    page_size: int
    duration_ns: int
    resolution: str
    rows: Mapping[str, int]
    read: Mapping[str, int]
    bytes_read: int
    passed_over: Mapping[str, int] = field(default_factory=dict)
    cut: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, out: Path, meta: Meta, **found: Any) -> ReadReport:
        """Return the report on the trace `out` with header `meta`; `found` are the other fields."""
        return cls(out, meta.pages, meta.page_size, meta.duration_ns, meta.resolution, **found)
