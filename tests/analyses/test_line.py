"""The sender's speed, measured from logs: by hand, and from a piece of a real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analyses.commands import run
from analyses.line import Line, measure_folder
from tracer import TraceError

REAL = Path(__file__).parents[1] / "readers" / "data" / "line"
PAGE = 4096
SYNC = "migration_bitmap_sync_start "


def log(path: Path, rows: list[tuple[int, str]]) -> Path:
    path.mkdir()
    lines = [f"1@{1_795_397_374 + us // 10**6}.{us % 10**6:06d}:{text}\n" for us, text in rows]
    (path / "qemu.log").write_text("".join(lines))
    return path


def pending(pages: int) -> str:
    return f"migrate_pending pending size {pages * PAGE} max 0 (pre = 0 compat=0 post=0)"


def save(page: int) -> str:
    return f"ram_save_page pc.ram: offset: 0x{page * PAGE:x} host: 0x7fd9c3e00000"


def window(start: int, before: int, after: int, sent: int, last: int) -> list[tuple[int, str]]:
    """Rows from a window's start (us) to the next: pages sent, the last `last` us after it."""
    saved = [(start + last * n // sent, save(n)) for n in range(1, sent + 1)]
    return [(start, pending(before)), *saved, (start + 100_080, pending(after))]


def by_hand(folder: Path, rows: list[tuple[int, str]], **answers) -> Line:
    path = log(folder, rows)
    if answers:
        (path / "migrate.json").write_text(json.dumps({"polls": [], **answers}))
    return measure_folder(path)


def test_by_hand(tmp_path):
    """40 pages in 164 us are 1 GB/s; the second window, which the host held up, is not the usual.

    And the fourth has too few pages to say anything.
    """
    rows = window(0, 1000, 960, 40, 164)
    rows += window(100_080, 960, 920, 40, 4100)[1:] + window(200_160, 920, 880, 40, 164)[1:]
    rows += window(300_240, 880, 850, 30, 30)[1:]
    found = by_hand(tmp_path / "hand", rows)
    assert found == Line("hand", 4, 40 * (PAGE + 8) * 10**6 // 164, None, 80_000)


def first_pass(*, zeros: int, us: int) -> list[tuple[int, str]]:
    """A window of pages, and one with so many zero pages between two, in so many us."""
    rows = [(0, SYNC), *window(0, 1000, 960, 40, 164)]
    between = [(100_090, save(41)), (100_094, save(42)), (100_094 + us, save(43 + zeros))]
    # What follows the last page with content is in the count but in no time that is known.
    return [*rows, *between, (200_160, pending(960 - 3 - zeros - 50))]


def test_a_zero_page_by_hand(tmp_path):
    """Of 54 us the page that follows takes 4.1, and 100 zero pages the rest."""
    found = by_hand(tmp_path / "hand", first_pass(zeros=100, us=54))
    assert found.windows == 2
    assert found.zero_page_ns == 499


def test_a_stall_among_zero_pages_is_the_hosts(tmp_path):
    """300 of 600 pages take 500 ns each, 100 take 200 ns and 200 as long as a stall of 40 ms."""
    rows, at, page = [(0, SYNC), *window(0, 1000, 960, 40, 164)], 100_090, 41
    rows.append((at, save(page)))
    for zeros, us in ((100, 24), (200, 40_000), (300, 154)):
        at, page = at + us, page + 1 + zeros
        rows.append((at, save(page)))
    rows.append((200_160, pending(960 - 4 - 600)))
    assert by_hand(tmp_path / "hand", rows).zero_page_ns == 499


@pytest.mark.parametrize(
    ("rows", "hint"),
    [
        (first_pass(zeros=10, us=54), False),  # too few in a row
        ([(0, SYNC), *first_pass(zeros=100, us=54)], False),  # they may have been sent before
        (first_pass(zeros=100, us=54), True),  # they may have been hinted away
    ],
)
def test_what_says_nothing_of_zero_pages(tmp_path, rows, hint):
    found = by_hand(tmp_path / "hand", rows, **{"free-page-hint": hint})
    assert found.line_rate is not None
    assert found.zero_page_ns is None


STOPPED = [
    (300_000, "migration_completion_vm_stop ret 0"),
    (300_010, SYNC),
    (300_030, "migration_bitmap_sync_end dirty_pages 24"),
    *((300_030 + 4 * n, save(n)) for n in range(1, 11)),
]


def test_the_stop_by_hand(tmp_path):
    """Of a downtime of 3 ms the copies take 40 us."""
    rows = [*window(0, 1000, 960, 40, 164), *STOPPED]
    completed = {"status": "completed", "downtime": 3}
    assert by_hand(tmp_path / "a", rows, final=completed).stop_ns == 2_960_000
    assert by_hand(tmp_path / "b", rows[:-10], final=completed).stop_ns == 3_000_000
    for number, final in enumerate(({}, {**completed, "status": "failed"}, {"downtime": 3})):
        assert by_hand(tmp_path / f"c{number}", rows, final=final).stop_ns is None
    assert by_hand(tmp_path / "d", rows[:-13], final=completed).stop_ns is None


def test_a_window_with_a_sync_says_nothing(tmp_path):
    first, second = window(0, 1000, 960, 40, 164), window(100_080, 960, 820, 40, 214)[1:]
    second.insert(3, (second[2][0], SYNC))
    found = measure_folder(log(tmp_path / "hand", first + second))
    assert (found.windows, found.zero_page_ns) == (1, None)


def test_a_log_without_what_is_needed(tmp_path):
    with pytest.raises(TraceError, match="record with these events"):
        measure_folder(log(tmp_path / "bare", [(0, "migration_bitmap_sync_start ")]))
    with pytest.raises(TraceError, match="does not exist"):
        measure_folder(tmp_path / "nowhere")


def test_the_command(capsys):
    assert run(["line", str(REAL), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["name"] == "line"
    assert found["windows"] >= 4
    assert 500_000_000 < found["line_rate"] < 5_000_000_000
    assert found["wake_ns"] < 1_000_000
    assert run(["line", str(REAL / "qemu.log.gz"), str(REAL)]) == 0
    shown = capsys.readouterr().out
    assert "line rate" in shown
    assert f"--line-rate {found['line_rate']}B/s" in shown


def test_a_trace_keeps_what_its_log_said(capsys):
    trace = Path(__file__).parents[2] / "sample_traces" / "seq.40.trace"
    assert run(["line", str(trace)]) == 0
    shown = capsys.readouterr().out
    assert "--line-rate 1234299071B/s --zero-page-time 180ns" in " ".join(shown.split())
    assert run(["line", str(trace.with_name("race.trace"))]) == 3
    assert "the folder with the log that it was imported from" in capsys.readouterr().err


def test_no_window_that_says_the_rate(tmp_path, capsys):
    """Zero pages in every window: shown, and an exit code of its own."""
    folder = log(tmp_path / "zeros", window(0, 1000, 880, 10, 91))
    assert run(["line", str(folder)]) == 5
    shown = capsys.readouterr()
    assert "zeros" in shown.out
    assert "no window without zero pages" in shown.err
