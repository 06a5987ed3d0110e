"""The same migration in the words of QEMU 7.2, 10 and 11, whose trace events differ."""

from __future__ import annotations

from typing import Any

import pytest

from tests.readers.simple import simpletrace
from tests.readers.test_qemu import (
    PAGE,
    STOP,
    SYNC,
    T0,
    folder,
    iso_style,
    run,
    save,
    sync_end,
    text,
    write,
)
from tracer import Trace
from tracer.readers import import_qemu, simpletrace_reader

MS = 1000


def look(version: int, pages: int, *, exact: bool = False, final: bool = False) -> str:
    """Return what a QEMU prints of a look at what is pending."""
    size = pages * PAGE
    if version < 8:
        return f"migrate_pending pending size {size} max 0 (pre = {size} compat=0 post=0)"
    if version < 11:
        name = "exact" if exact else "estimate"
        return f"migrate_pending_{name} {name} pending size {size} (pre = {size} post=0)"
    return (
        f"qemu_savevm_query_pending exact={exact:d}, final={final:d}, precopy={size}, stopcopy=0, "
        f"postcopy=0, total={size}, collected switchover ack pending=0, "
        "total switchover ack pending=0"
    )


def migration(version: int) -> list[tuple[int, str]]:
    """Return the log of one migration, as a QEMU of that version prints it."""
    log = [
        (0, SYNC), (4, sync_end(0)), (5, write(PAGE)), (10, look(version, 256)),
        (20, save(0)), (31, save(9)),
        (100 * MS, look(version, 150)), (100 * MS + 3, save(10)),
    ]  # fmt: skip
    log += [(199 * MS, look(version, 140))] if version >= 8 else []
    log += [
        (200 * MS, SYNC), (201 * MS, sync_end(7)), (202 * MS, look(version, 147, exact=True)),
        (203 * MS, save(11)),
    ]  # fmt: skip
    log += [(300 * MS, look(version, 5))] if version >= 8 else []
    log += [
        (301 * MS, SYNC), (302 * MS, sync_end(8)), (303 * MS, look(version, 6, exact=True)),
        (304 * MS, STOP), (304 * MS + 1, SYNC), (304 * MS + 2, sync_end(8)),
    ]  # fmt: skip
    log += [(304 * MS + 3, look(version, 6, exact=True, final=True))] if version >= 11 else []
    return [*log, (305 * MS, save(12))]


@pytest.mark.parametrize("version", [7, 10, 11])
@pytest.mark.parametrize("kind", ["log", "iso", "simple"])
def test_the_sender_s_iterations_are_the_same(tmp_path: Any, version: int, kind: str) -> None:
    if kind == "simple":
        (tmp_path / "simple.txt").write_text(
            "".join(simpletrace(text(migration(version)).decode().splitlines()))
        )
        report = import_qemu(
            log=tmp_path / "simple.txt", out=tmp_path / "t.trace", read=simpletrace_reader(T0),
            migration=folder(tmp_path / "in") / "migrate.json",
        )  # fmt: skip
    else:
        log = text(migration(version), iso_style) if kind == "iso" else migration(version)
        report = run(tmp_path, log)
    assert not report.unknown_events
    recorded = (Trace.open(report.out).migration or {})["recorded"]
    times = [10, 100 * MS, 202 * MS, 303 * MS, 304 * MS + 2]
    assert recorded["iterations"] == {
        "t_host_ns": [us * 1000 for us in times],
        "until_host_ns": [us * 1000 for us in (31, 100 * MS + 3, 203 * MS, 303 * MS, 305 * MS)],
        "normal": [2, 1, 1, 0, 1],
        "zero": [104, 9, 141, 0, 5],
    }
    assert [sync["normal"] for sync in recorded["syncs"]] == [3, 1, 0, 1]


@pytest.mark.parametrize("version", [10, 11])
def test_a_sync_in_the_middle_of_an_iteration_ends_none(tmp_path: Any, version: int) -> None:
    """From 10 on a timer syncs under auto-converge, whatever the sender does meanwhile."""
    log = [
        (0, SYNC), (4, sync_end(0)), (5, write(PAGE)), (10, look(version, 256)),
        (20, save(0)), (21, SYNC), (22, sync_end(9)), (31, save(9)), (40, save(12)),
        (100 * MS, look(version, 200)), (101 * MS, save(13)),
    ]  # fmt: skip
    recorded = (Trace.open(run(tmp_path, log).out).migration or {})["recorded"]
    assert recorded["iterations"] == {
        "t_host_ns": [10_000, 100_000_000],
        "until_host_ns": [40_000, 101_000_000],
        "normal": [3, 1],
        # 256 + 9 - 3 - 200 of the first; of the last nothing is known.
        "zero": [62, 0],
    }


def test_the_throttle_is_what_the_log_says(tmp_path: Any) -> None:
    """No guess from the parameters, no note on what they hide: `cpu_throttle_set` names it."""
    log = [
        (0, SYNC), (1, write(PAGE)), (5, sync_end(0)),
        (1000, "migration_throttle "), (1001, "cpu_throttle_set set guest CPU throttled by 20%"),
        (2000, "migration_throttle "), (2001, "cpu_throttle_set set guest CPU throttled by 23%"),
        (3001, write(2 * PAGE)),
    ]  # fmt: skip
    report = run(tmp_path, log, parameters={"cpu-throttle-tailslow": True})
    assert report.throttle_percents == (20, 23)
    assert not any("tailslow" in note for note in report.notes)
    # 1,001 us in full, 1,000 us at 80 %, 1,000 us at 77 %.
    assert report.duration_ns == 1_001_000 + 800_000 + 770_000
