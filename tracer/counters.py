"""What `query-migrate` counts, looked at before anything is compared with it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tracer.errors import TraceError

#: Of its object `ram`, and beside that (ms).
_RAM = ("normal", "duplicate", "transferred", "remaining", "dirty-sync-count")
_TIMES = ("total-time", "downtime")
_MOST = (1 << 63) - 1
#: Of a trace's own `recorded`: which columns the rows of the course must have.
_COURSE = {
    "syncs": (),
    "polls": ("t_host_ns", "remaining"),
    "throttles": ("t_host_ns", "percent"),
}
_MOST_PERCENT = 99
_MOMENTS = ("t_host_ns", "end_host_ns")


def check_migration(body: Mapping[str, Any], where: str) -> None:
    """Raise TraceError, beginning with `where`, for a `migration.json` that cannot be one."""
    if not isinstance(body.get("ram"), Mapping):
        raise TraceError(
            f"{where}: no counters of RAM; the answers of query-migrate (migrate.json or qmp.txt) "
            "were not there when the migration was imported, so there is nothing to compare with"
        )
    check_answer(body, where)
    for key in ("parameters", "capabilities", "recorded"):
        if not isinstance(body.get(key) or {}, Mapping):
            raise TraceError(f'{where}: "{key}" is no object')
    for name, on in (body.get("capabilities") or {}).items():
        if not isinstance(on, bool):
            raise TraceError(
                f'{where}: "capabilities.{name}" is {json.dumps(on)}; wanted true or false'
            )
    recorded = body.get("recorded") or {}
    for name, columns in _COURSE.items():
        _check_rows(recorded.get(name) or (), columns, f'{where}: "recorded.{name}"')


def check_answer(answer: Mapping[str, Any], where: str) -> None:
    """Raise TraceError, beginning with `where`, for a counter that QEMU cannot have answered.

    A counter may be missing; one that is there is a whole number of at least 0.
    """
    check_counts(answer, _TIMES, where)
    ram = answer.get("ram")
    if isinstance(ram, Mapping):
        check_counts(ram, _RAM, where, "ram.")
    seconds = answer.get("t", 0)
    if type(seconds) not in (int, float) or not math.isfinite(seconds):
        raise TraceError(f'{where}: "t" is {seconds!r}; wanted seconds since 1970')


def check_counts(part: Mapping[str, Any], names: Iterable[str], where: str, of: str = "") -> None:
    """Raise TraceError where one of these is there and no whole number of at least 0."""
    for name in names:
        if name in part and not _is_count(part[name]):
            raise TraceError(
                f'{where}: "{of}{name}" is {json.dumps(part[name])}; wanted a whole number of at '
                "least 0"
            )


def _check_rows(rows: object, columns: tuple[str, ...], where: str) -> None:
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise TraceError(f"{where} is no list of objects")
    for number, row in enumerate(rows, 1):
        at = f"{where}, row {number}"
        lacking = [name for name in columns if name not in row]
        if lacking:
            raise TraceError(f'{at}: no "{lacking[0]}"')
        # What was polled before the first sync has a time below 0.
        plain = {k: abs(v) if k in _MOMENTS and type(v) is int else v for k, v in row.items()}
        check_counts(plain, plain, at)
        if plain.get("percent", 0) > _MOST_PERCENT:
            raise TraceError(f'{at}: "percent" is {row["percent"]}; wanted at most 99')


def _is_count(value: object) -> bool:
    """Whether it is a whole number from 0 to what 64 bits hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
