"""How fast the sender was: what an import keeps of it, whatever pieces the log comes in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readers.test_qemu import PAGE, SYNC, folder, save, sync_end, write
from tracer import Trace
from tracer.readers import import_qemu, qemu_log
from tracer.readers.sender import Sender, measure_sender

DATA = Path(__file__).parent / "data"


def windows(count: int, *, late_us: int = 0) -> list[tuple[int, str]]:
    """Rows of a migration with so many windows of 40 pages, 164 us each.

    The last one but one ends so much later than the others.
    """
    rows = [(0, SYNC), (5, write(3 * PAGE)), (10, sync_end(0))]
    at = 100
    for number in range(count + 1):
        left = (10_000 - 40 * number) * PAGE
        rows.append((at, f"migrate_pending pending size {left} max 0 (pre = 0 compat=0 post=0)"))
        rows += [(at + 164 * n // 40, save(n)) for n in range(1, 41)]
        at += 100_050 + (late_us if number == count - 2 else 0)
    return rows


def imported(tmp_path: Path, rows: list[tuple[int, str]]) -> dict:
    report = import_qemu(folder(tmp_path / "in", rows), out=tmp_path / "a.trace", force=True)
    return Trace.open(report.out).migration["recorded"]


def test_an_import_keeps_how_fast_the_sender_was(tmp_path):
    recorded = imported(tmp_path, windows(12))
    rate = 40 * (PAGE + 8) * 10**6 // 164
    assert recorded["sender"] == {"line_rate": rate, "wake_ns": 50_000}


def test_a_few_windows_do_not_say_it(tmp_path):
    assert "sender" not in imported(tmp_path, windows(9))


@pytest.mark.parametrize(("late_us", "usual"), [(900, True), (951, False), (30_000, False)])
def test_what_the_host_delays_by_a_ms_is_not_the_usual_delay(tmp_path, late_us, usual):
    recorded = imported(tmp_path, windows(12, late_us=late_us))
    assert recorded["sender"]["wake_ns"] == 50_000 + (late_us * 1000 // 12 if usual else 0)


@pytest.mark.parametrize("at_once", [1, 2, 7, 100, 5000])
def test_pieces_of_a_log_say_what_the_whole_does(monkeypatch, at_once):
    log = qemu_log.read_qemu_log(DATA / "line" / "qemu.log.gz")
    try:
        whole = measure_sender(log, hinting=False)
        assert isinstance(whole, Sender)
        assert whole.windows == 5
        assert whole.zero_page_ns is not None
        monkeypatch.setattr(qemu_log, "_EVENTS_AT_ONCE", at_once)
        assert measure_sender(log, hinting=False) == whole
    finally:
        log.close()
