"""Imports of recorded QEMU migrations: small logs made by hand, simulated ones, real excerpts."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from analyses.recording import Recording
from tracer import Trace, TraceError, UsageError
from tracer.readers import ImportReport, import_qemu

DATA = Path(__file__).parent / "data"
#: Host time zero of the logs made here, in us since 1970.
T0 = 1_795_397_374_312_520
PAGE = 4096
US = 1000

Log = list[tuple[int, str]]


def old_style(us: int, body: str) -> str:
    return f"20104@{(T0 + us) // 10**6}.{(T0 + us) % 10**6:06d}:{body}\n"


def iso_style(us: int, body: str) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=T0 + us)
    fraction = f".{moment.microsecond:06d}" if moment.microsecond else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z {body}\n"


def text(log: Log, style: Callable[[int, str], str] = old_style) -> bytes:
    return "".join(style(us, body) for us, body in log).encode()


def write(address: int, size: int = 8) -> str:
    return f"memory_notdirty_write_access 0xffff8b129f406014 ram_addr 0x{address:x} size {size}"


def save(page: int, block: str = "pc.ram") -> str:
    return f"ram_save_page {block}: offset: 0x{page * PAGE:x} host: 0x7fd9c3e00000"


def clear(page: int, block: str = "pc.ram") -> str:
    return f"migration_bitmap_clear_dirty rb {block} start 0x0 size 0x40000000 page 0x{page:x}"


def sync_end(dirty: int) -> str:
    return f"migration_bitmap_sync_end dirty_pages {dirty}"


SYNC = "migration_bitmap_sync_start "
STOP = "migration_completion_vm_stop ret 0"
PENDING = "migrate_pending pending size 4096 max 0 (pre = 4096 compat=0 post=0)"

#: A whole migration of 256 pages. Page 3 is zeroed at 5 us and 10 at 150 us; 9 and 10 are written
#: by one access at 70 us; pages 0, 5, 9 and 10 have content.
SMALL: Log = [
    (0, SYNC),
    (5, write(3 * PAGE + 8)),
    (10, sync_end(0)),
    (20, clear(0)),
    (30, save(0)),
    (40, save(5)),
    (60, save(9)),
    (61, save(10)),
    (70, write(10 * PAGE - 4, 8)),
    (100, SYNC),
    (105, sync_end(3)),
    (110, clear(3)),
    (120, save(9)),
    (121, save(10)),
    (150, write(10 * PAGE, 4)),
    (200, SYNC),
    (205, sync_end(1)),
    (206, STOP),
    (207, SYNC),
    (208, sync_end(1)),
    (210, clear(10)),
]
SMALL_DIRTY = [(5 * US, 3, 1), (70 * US, 9, 2), (150 * US, 10, 1)]
SMALL_ZERO = [
    (0, 1, 2),
    (0, 4, 1),
    (0, 6, 3),
    (0, 11, 245),
    (5 * US, 3, 1),
    (150 * US, 10, 1),
]
SMALL_EPOCHS = [0, 100 * US, 200 * US, 206 * US]
#: Zero copies: 1-4 and 6-8, 11-255, 3 again, 10 after the stop. Copies: 0, 5, 9, 10, 9, 10.
SMALL_RAM = {"total": 256 * PAGE, "page-size": PAGE, "normal": 6, "duplicate": 254}


def folder(
    path: Path,
    log: bytes | Log = SMALL,
    *,
    name: str = "qemu.log",
    freelist: str | None = None,
    **migration: Any,
) -> Path:
    path.mkdir(exist_ok=True)
    (path / name).write_bytes(log if isinstance(log, bytes) else text(log))
    if freelist is not None:
        (path / "freelist.log").write_text(freelist)
    body = {"guest_mb": 1, "final": {"status": "completed", "ram": SMALL_RAM}} | migration
    (path / "migrate.json").write_text(json.dumps(body))
    return path


def run(tmp_path: Path, *args: Any, out: str = "t.trace", **options: Any) -> ImportReport:
    return import_qemu(folder(tmp_path / "in", *args, **options), out=tmp_path / out, force=True)


def table(report: ImportReport, name: str) -> list[tuple[Any, ...]]:
    columns: list[tuple[Any, ...]] = []
    trace = Trace.open(report.out)
    trace.validate()
    for rows in trace.rows(name):  # type: ignore[arg-type]
        parts = [rows.t.tolist(), rows.page.tolist(), rows.count.tolist()]
        if name == "freelist":
            parts += [rows.free.tolist(), rows.since.tolist()]
        columns += zip(*parts, strict=True)
    return columns


def assert_small(report: ImportReport) -> None:
    trace = Trace.open(report.out)
    assert table(report, "dirty") == SMALL_DIRTY
    assert table(report, "zero") == SMALL_ZERO
    assert trace.epochs.tolist() == SMALL_EPOCHS
    assert trace.meta.duration_ns == 206 * US
    assert trace.meta.resolution == "first-write"


def test_a_small_migration_by_hand(tmp_path: Path) -> None:
    report = run(tmp_path)
    assert_small(report)
    assert report.straddling_writes == 1
    assert (report.copies, report.zero_copies) == (6, 254)
    assert (report.copies_reported, report.zero_copies_reported) == (6, 254)
    meta = Trace.open(report.out).meta
    assert [(b.name, b.first_page, b.pages) for b in meta.blocks] == [("pc.ram", 0, 256)]
    assert (meta.quantum_ns, meta.hinting, meta.freelist_resolution) == (1000, False, None)
    # Page 3 was written before the first pass reached it; without a free list it had content.
    assert (report.assumed_zero, report.assumed_data) == (0, 1)
    assert any("1 pages held at the start" in note for note in report.notes)


def test_both_timestamp_styles_and_gzip_give_the_same_rows(tmp_path: Path) -> None:
    assert_small(run(tmp_path, text(SMALL, iso_style)))
    (tmp_path / "in" / "qemu.log").unlink()
    assert_small(run(tmp_path, gzip.compress(text(SMALL)), name="qemu.log.gz"))
    two_members = gzip.compress(text(SMALL[:9])) + gzip.compress(text(SMALL[9:], iso_style))
    report = run(tmp_path, two_members, name="qemu.log.gz")
    assert_small(report)
    assert report.cut == ()


def test_iso_times_may_lack_a_fraction_or_have_a_zone(tmp_path: Path) -> None:
    # 02:58:34.000000 UTC is written without its fraction by GLib; +01:00 is one hour earlier.
    log = [
        f"2026-11-23T02:58:34Z {SYNC}",
        f"2026-11-23T03:58:34.000007+01:00 {write(0)}",
        f"2026-11-23T02:58:34.000009Z {save(1)}",
        f"2026-11-22T21:28:34.000011-0530 {write(4096)}",
    ]
    report = run(tmp_path, ("\n".join(log) + "\n").encode())
    assert table(report, "dirty") == [(7 * US, 0, 1), (11 * US, 1, 1)]


def test_a_cut_last_line_and_a_cut_gzip_are_tolerated_and_said(tmp_path: Path) -> None:
    whole = text(SMALL)
    report = run(tmp_path, whole[:-3])
    assert table(report, "dirty") == SMALL_DIRTY
    assert report.cut[0].endswith(f"qemu.log: line {len(SMALL)} is cut short and was left out")
    (tmp_path / "in" / "qemu.log").unlink()
    report = run(tmp_path, gzip.compress(whole)[:-30], name="qemu.log.gz")
    assert "the gzip breaks off" in report.cut[0]
    assert 0 < report.lines < len(SMALL)


def test_a_log_with_fewer_copies_than_qemu_counted_is_said(tmp_path: Path) -> None:
    """One that was cut at the end of a line shows it by nothing else."""
    said = "the log has 6 of the 9 copies of pages that QEMU counted: lines are missing"
    for counted, noted in ((6, 0), (9, 1), (5, 0)):
        final = {"status": "completed", "ram": SMALL_RAM | {"normal": counted}}
        report = run(tmp_path, final=final)
        assert sum(said in note for note in report.notes) == noted


def test_unknown_events_and_other_text_are_counted(tmp_path: Path) -> None:
    log = text(SMALL).splitlines(keepends=True)
    log[4:4] = [
        b"qemu-system-x86_64: warning: host doesn't support requested feature\n",
        old_style(25, "virtio_balloon_bad_addr 0x1000").encode(),
        old_style(26, "savevm_state_iterate ").encode(),
        old_style(27, "savevm_state_iterate ").encode(),
        b"\r\n",
    ]
    report = run(tmp_path, b"".join(log))
    assert_small(report)
    assert report.unknown_events == {"savevm_state_iterate": 2, "virtio_balloon_bad_addr": 1}
    assert report.other_text_lines == 2
    assert report.lines == len(SMALL) + 5


def test_a_late_line_gets_the_time_of_the_line_before(tmp_path: Path) -> None:
    log = [*SMALL[:9], (66, write(40 * PAGE)), *SMALL[9:]]
    report = run(tmp_path, log)
    assert (70 * US, 40, 1) in table(report, "dirty")
    assert (report.late_lines, report.latest_us) == (1, 4)


def test_throttled_guest_time(tmp_path: Path) -> None:
    log = [
        (0, SYNC),
        (100, write(0)),
        (1000, "migration_throttle "),
        (1100, write(PAGE)),  # 1000 us + 100 us at 80 %
        (2000, "migration_throttle "),
        (2010, write(2 * PAGE)),  # 1800 us + 10 us at 70 %
        (3000, "migration_throttle "),
        (3100, write(3 * PAGE)),  # 2500 us + 100 us at 65 %, the most allowed here
        (4000, SYNC),  # 2500 us + 1000 us at 65 %
        (4100, save(0)),
    ]
    parameters = {"cpu-throttle-initial": 20, "cpu-throttle-increment": 10, "max-cpu-throttle": 35}
    report = run(tmp_path, log, parameters=parameters)
    assert [t for t, _, _ in table(report, "dirty")] == [100_000, 1_080_000, 1_807_000, 2_565_000]
    assert Trace.open(report.out).epochs.tolist() == [0, 3_150_000]
    assert report.duration_ns == 3_215_000
    assert report.throttle_percents == (20, 30, 35)
    recorded = (Trace.open(report.out).migration or {})["recorded"]
    assert recorded["throttles"][1] == {"t_host_ns": 2_000_000, "percent": 30}
    assert [sync["normal"] for sync in recorded["syncs"]] == [0, 1]


def test_the_throttle_is_what_was_answered_where_someone_asked(tmp_path: Path) -> None:
    """Smaller steps of cpu-throttle-tailslow are in no log; an answer may be older than a row."""
    rows = [1_000, 2_000, 3_000, 4_000]
    log = [(0, SYNC), (100, write(0)), *((t, "migration_throttle ") for t in rows), (5000, SYNC)]
    told = [(1500, 20), (2500, 24), (3001, 24), (4500, 200)]
    polls = [{"t": (T0 + us) / 10**6, "cpu-throttle-percentage": percent} for us, percent in told]
    report = run(tmp_path, log, parameters={"cpu-throttle-tailslow": True}, polls=polls)
    assert report.throttle_percents == (20, 24, 34, 44)
    assert not any("tailslow" in note for note in report.notes)
    report = run(tmp_path, log, parameters={"cpu-throttle-tailslow": True})
    assert report.throttle_percents == (20, 30, 40, 50)
    assert any("tailslow" in note for note in report.notes)


def pending(pages: int) -> str:
    return f"migrate_pending pending size {pages * PAGE} max 0 (pre = 0 compat=0 post=0)"


def test_the_sender_s_iterations(tmp_path: Path) -> None:
    ms = 1000
    log = [
        (0, SYNC), (4, sync_end(0)), (5, write(PAGE)), (10, pending(256)),
        (20, save(0)), (31, save(9)),
        (100 * ms, pending(150)),  # 2 copies and 104 zero pages
        (100 * ms + 3, save(10)),
        (1002 * ms, SYNC), (1003 * ms, sync_end(7)), (1004 * ms, pending(150)),  # 6 zero pages
        (1005 * ms, save(11)),
        (1100 * ms, SYNC), (1101 * ms, sync_end(3)), (1102 * ms, pending(152)),  # a new period
        (1200 * ms, SYNC), (1201 * ms, sync_end(8)), (1202 * ms, pending(157)),  # the same one
        (1203 * ms, STOP), (1203 * ms + 1, SYNC), (1203 * ms + 2, sync_end(8)),
        (1204 * ms, save(12)),
    ]  # fmt: skip
    recorded = (Trace.open(run(tmp_path, log).out).migration or {})["recorded"]
    times = [10, 100 * ms, 1004 * ms, 1102 * ms, 1202 * ms, 1203 * ms + 2]
    ends = [31, 100 * ms + 3, 1005 * ms, 1102 * ms, 1202 * ms, 1204 * ms]
    assert recorded["iterations"] == {
        "t_host_ns": [us * US for us in times],
        "until_host_ns": [us * US for us in ends],
        "normal": [2, 1, 1, 0, 0, 1],
        "zero": [104, 6, 0, 0, 0, 156],
    }
    assert recorded["syncs"][1] == {
        "t_host_ns": 1002 * ms * US, "end_host_ns": 1003 * ms * US, "dirty_pages": 7, "normal": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("second", "zeros"), [(9, 0), (2, 2), (60, 0)])
def test_a_period_of_a_second_and_a_part_of_a_ms_may_be_over_or_not(
    tmp_path: Path, second: int, zeros: int
) -> None:
    """The third sync's count: 9 goes on from 5, 2 cannot; of 60, 55 alone would be too few."""
    ms, left = 1000, 250 + (second - 5 if second == 9 else 0 if second == 2 else second)
    log = [
        (0, SYNC), (4, sync_end(0)), (5, write(PAGE)), (10, pending(250)),
        (1000 * ms + 1, SYNC), (1000 * ms + 400, sync_end(5)), (1001 * ms, pending(250)),
        (1100 * ms, SYNC), (1101 * ms, sync_end(second)), (1102 * ms, pending(left)),
    ]  # fmt: skip
    recorded = (Trace.open(run(tmp_path, log).out).migration or {})["recorded"]
    assert recorded["iterations"]["zero"] == [5, zeros, 0]


def test_the_last_poll_is_kept(tmp_path: Path) -> None:
    """It says up to when a cancelled migration is compared."""
    polls = [{"t": (T0 + us) / 10**6, "ram": {"total": 256 * PAGE}} for us in range(350)]
    final = {"status": "cancelled"}
    recorded = (Trace.open(run(tmp_path, final=final, polls=polls).out).migration or {})["recorded"]
    assert len(recorded["polls"]) == 175
    assert abs(recorded["polls"][-1]["t_host_ns"] - 349 * US) <= US


def test_a_shortened_import_keeps_what_is_known(tmp_path: Path) -> None:
    where = folder(tmp_path / "in")
    report = import_qemu(where, out=tmp_path / "t.trace", until_ns=100 * US)
    assert table(report, "dirty") == SMALL_DIRTY[:2]
    assert table(report, "zero") == SMALL_ZERO[:5]
    assert Trace.open(report.out).epochs.tolist() == SMALL_EPOCHS[:2]
    assert report.duration_ns == 100 * US


def test_blocks_follow_the_order_of_migration(tmp_path: Path) -> None:
    total = (1 << 20) + 532_480
    log = [
        (0, SYNC),
        (5, write(PAGE)),
        (6, write((1 << 20) + 64)),
        (20, save(255)),
        (21, save(1, "/rom@etc/acpi/tables")),
        (22, save(63, "pc.bios")),
        (23, save(0, "/rom@etc/table-loader")),
        (24, save(0, "/rom@etc/acpi/rsdp")),
    ]
    report = run(tmp_path, log, final={"status": "cancelled"}, polls=[{"ram": {"total": total}}])
    blocks = Trace.open(report.out).meta.blocks
    assert [(b.name, b.first_page, b.pages) for b in blocks] == [
        ("pc.ram", 0, 256),
        ("/rom@etc/acpi/tables", 256, 32),
        ("pc.bios", 288, 64),
        ("pc.rom", 352, 32),
        ("/rom@etc/table-loader", 384, 1),
        ("/rom@etc/acpi/rsdp", 385, 1),
    ]
    assert report.pages * PAGE == total
    assert report.writes_left_out == 1
    # 0 and 2-254 of pc.ram, 0 and 2-31 of the tables, 0-62 of pc.bios, all of pc.rom; page 1 of
    # pc.ram was written before, and is taken as zero since then.
    assert report.zero_copies == 255 + 31 + 63 + 32
    assert any(note.startswith("block pc.rom: never seen") for note in report.notes)


def test_without_migrate_json_what_is_missing_is_said(tmp_path: Path) -> None:
    log = folder(tmp_path / "in") / "qemu.log"
    report = import_qemu(log=log, out=tmp_path / "t.trace")
    assert table(report, "dirty") == SMALL_DIRTY
    # The highest page seen is 10; 1 MiB is what that is rounded up to.
    assert report.pages == 256
    assert any("its size is not recorded" in note for note in report.notes)
    assert any("the answers of query-migrate were not there" in note for note in report.notes)
    with pytest.raises(TraceError, match=r"were not there when the migration was imported"):
        Recording.of(Trace.open(report.out))


def walk(begin: int, end: int, runs: str, delay: int = 0) -> str:
    """Return a sample whose walk took `begin` to `end` (us from T0) on a clock 100 s after boot."""
    host = f"{(T0 + end + delay) // 10**6}.{(T0 + end + delay) % 10**6:06d}"
    mono, done = (f"{(100_000_000 + us) / 10**6:.6f}" for us in (begin, end))
    lines = [f"FREELIST begin mono={mono} end={done} real=1795397000.5 pfns=256", *runs.split()]
    return "".join(f"{host} {line}\n" for line in [*lines, "FREELIST done"])


WALKS = (
    walk(-100, -50, "10+10", delay=40)
    + walk(100, 150, "10+4 18+8 28+2")
    + walk(300, 350, "10+10 28+1", delay=7)
    + walk(500, 550, "10+1 13+d 28+1", delay=900)
)
#: Writes beside the walks: see the expected rows.
WALKED: Log = [
    (-20, write(30 * PAGE)),
    (0, SYNC),
    (1, save(0)),
    (200, write(20 * PAGE)),
    (250, write(16 * PAGE)),
    (260, write(41 * PAGE)),
    (320, write(17 * PAGE)),
    (400, write(18 * PAGE)),
    (600, SYNC),
]


def test_free_list_windows_and_moved_takes(tmp_path: Path) -> None:
    report = run(tmp_path, WALKED, freelist=WALKS)
    assert report.alignment_offset_us == T0 - 100_000_000
    assert report.alignment_spread_us == 900
    assert (report.samples, report.samples_used) == (4, 4)
    assert table(report, "freelist") == [
        # The walk before the start, but 30 was written after it and so is in use.
        (0, 16, 14, True, 0),
        (0, 31, 1, True, 0),
        # Free in the first and in use in the second walk, never written: some time in between.
        (150 * US, 20, 4, False, 0),
        (150 * US, 30, 1, True, 0),
        (150 * US, 40, 2, True, 0),
        # Written between two walks that saw it free: taken at the write, freed after it.
        (250 * US, 16, 1, False, 100 * US),
        # Free, then in use, and written: taken at the write.
        (260 * US, 41, 1, False, 100 * US),
        # Written during the walk that saw it free: the walk had passed it, no row in between.
        (320 * US, 17, 1, False, 100 * US),
        (350 * US, 16, 1, True, 250 * US),
        (350 * US, 20, 1, True, 200 * US),
        (350 * US, 21, 3, True, 100 * US),
        (400 * US, 18, 1, False, 300 * US),
    ]
    assert (report.takes_moved, report.refreed, report.overruled) == (4, 2, 1)
    assert table(report, "dirty")[0] == (0, 30, 1)


def test_a_cut_last_sample_is_left_out(tmp_path: Path) -> None:
    report = run(tmp_path, WALKED, freelist=WALKS[:-20])
    assert report.samples == 3
    assert "the last sample is cut short" in report.cut[0]


def test_a_free_list_whose_gzip_breaks_off_is_said(tmp_path: Path) -> None:
    zipped = tmp_path / "cut.gz"
    zipped.write_bytes(gzip.compress((WALKS + WALKS[-1:] * 500).encode(), mtime=0)[:-9])
    log = folder(tmp_path, text(WALKED)) / "qemu.log"
    report = import_qemu(log=log, freelist=zipped, out=tmp_path / "t.trace")
    assert any("cut.gz: the gzip breaks off" in one for one in report.cut)


def test_untold_pages_follow_their_neighbours_on_the_free_list(tmp_path: Path) -> None:
    # 16-31 are free at the start; the pass tells that 16-19 had content and 23-31 were zero, but
    # 20-22 and 40 were written before it came.
    log = [
        (0, SYNC),
        *((5 + i, write(page * PAGE)) for i, page in enumerate((20, 21, 22, 40))),
        *((20 + i, save(page)) for i, page in enumerate((16, 17, 18, 19, 20, 21, 22, 40))),
        (30, STOP),
    ]
    sample = walk(-100, -50, "10+10")
    report = run(tmp_path, log, freelist=sample, final={"status": "completed"})
    start = {p for t, page, n in table(report, "zero") if t == 0 for p in range(page, page + n)}
    # 21 is as near to 19 as to 23: the lower one decides. 40 was in use.
    assert {22, 23} <= start
    assert not start & {16, 17, 18, 19, 20, 21, 40}
    assert (report.assumed_zero, report.assumed_data) == (1, 3)


@dataclass
class Simulated:
    """A migration of 256 pages with everything known; guest and sender take turns."""

    log: Log = field(default_factory=list)
    writes: list[tuple[int, int, bool]] = field(default_factory=list)  # us, page, to zeros
    hidden: list[tuple[int, int]] = field(default_factory=list)
    copies: list[tuple[int, int, bool]] = field(default_factory=list)  # us, page, as zero
    start: list[bool] = field(default_factory=list)  # zero at the start


def simulate(seed: int) -> Simulated:
    """Run QEMU's loop, naively: a cursor that wraps, syncs that do not rewind it."""
    dice = random.Random(seed)
    sim = Simulated(start=[dice.random() < 0.5 for _ in range(256)])
    zero, pending, dirty = list(sim.start), set(range(256)), set()
    now, cursor, syncs, announce = 0, 0, 0, False

    def tick() -> int:
        nonlocal now
        now += dice.randint(1, 3)
        return now

    def sync() -> None:
        nonlocal syncs, announce
        sim.log.append((now if not syncs else tick(), SYNC))
        sim.log.append((tick(), sync_end(len(dirty - pending))))
        pending.update(dirty)
        dirty.clear()
        syncs, announce = syncs + 1, True

    def send() -> None:
        nonlocal cursor, announce
        page = min(pending, key=lambda p: (p < cursor, p))
        if announce:
            sim.log.append((tick(), clear(page)))
            announce = False
        pending.remove(page)
        sim.copies.append((tick(), page, zero[page]))
        if not zero[page]:
            sim.log.append((now, save(page)))
        cursor = page + 1

    sync()
    while syncs < 5:
        for _ in range(dice.randint(0, 12)):
            page = min(int(dice.expovariate(1 / 40)), 255)
            zero[page] = dice.random() < 0.4
            sim.writes.append((tick(), page, zero[page]))
            if page in dirty:
                sim.hidden.append((now, page))
            else:
                dirty.add(page)
                sim.log.append((now, write(page * PAGE + 8 * dice.randrange(500))))
        sim.log.append((tick(), PENDING))
        # The sender rests when it has sent enough bytes, so after a page with content.
        rest = dice.randint(1, 60)
        while pending and (rest > 0 or sim.copies[-1][2]):
            send()
            rest -= 1
        if not pending or dice.random() < 0.1:
            sync()
    sim.log.append((tick(), STOP))
    sync()
    while pending:
        send()
    return sim


@pytest.mark.parametrize("seed", range(40))
def test_zero_pages_of_a_simulated_migration(tmp_path: Path, seed: int) -> None:
    sim = simulate(seed)
    report = run(tmp_path, sim.log, final={"status": "completed"})
    assert report.zero_copies == sum(zero for _, _, zero in sim.copies)
    assert report.copies == sum(not zero for _, _, zero in sim.copies)
    events = [(t, 0, page, n) for t, page, n in table(report, "dirty")]
    events += [(t, 1, page, n) for t, page, n in table(report, "zero")]
    events += [(t * US, 2, page, int(zero)) for t, page, zero in sim.copies]
    contents: list[bool] = [False] * 256
    told = dict.fromkeys(range(256), -1)
    for t, what, page, n in sorted(events):
        if what < 2:
            contents[page : page + n] = [what == 1] * n
            told.update(dict.fromkeys(range(page, page + n), t))
        elif n:
            assert contents[page], "sent as zeros, so zero by the trace"
        elif contents[page]:
            # Only a rewrite that the log hid can have brought the content back.
            assert any(p == page and told[page] < u * US < t for u, p in sim.hidden)
    first_write = {page: u for u, page, _ in reversed(sim.writes)}
    first_copy = {page: u for u, page, _ in reversed(sim.copies)}
    start = {p for t, page, n in table(report, "zero") if t == 0 for p in range(page, page + n)}
    for page in range(256):
        if first_copy[page] < first_write.get(page, 1 << 60):
            assert (page in start) == sim.start[page]


@pytest.mark.parametrize("seed", range(40))
def test_no_write_falls_on_a_free_page(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    log, walks, samples, now = [(0, SYNC), (1, save(0))], [walk(-9, -5, "0+40")], [], 1
    free, written = set(range(64)), []
    for _ in range(12):
        begin = now = now + 5
        seen = set()
        for page in range(64):
            # The walk reads one page a us; the guest goes on meanwhile.
            now += 1
            if page in free:
                seen.add(page)
            for _ in range(dice.choice((0, 0, 0, 1, 2))):
                other = dice.randrange(64)
                if other in free and dice.random() < 0.6:
                    free.remove(other)
                elif other not in free and dice.random() < 0.3:
                    free.add(other)
                if other not in free:
                    now += 1
                    written.append((now, other))
                    log.append((now, write(other * PAGE)))
        now += 1
        walks.append(walk(begin, now, " ".join(f"{p:x}+1" for p in sorted(seen))))
        samples.append((begin, now, seen))
    log.append((now + 10, SYNC))
    report = run(tmp_path, log, freelist="".join(walks))
    rows = table(report, "freelist")
    events = [(t, 0, page, n, free) for t, page, n, free, _ in rows]
    events += [(t, 1, page, n, False) for t, page, n in table(report, "dirty")]
    events += [(end * US, -1, i, 0, False) for i, (_, end, _) in enumerate(samples)]
    listed: set[int] = set()
    # At one instant the rows of a sample come before it is looked at.
    for _, what, page, n, entered in sorted(events, key=lambda e: (e[0], abs(e[1]), -e[1])):
        pages = set(range(page, page + n))
        if what == 0:
            listed = listed | pages if entered else listed - pages
        elif what == 1:
            assert not listed & pages
        else:
            begin, end, seen = samples[page]
            during = {p for u, p in written if begin < u <= end}
            assert listed - during == seen - during
            assert listed <= seen
    assert all(0 <= since <= t for t, _, _, _, since in rows)
    for page in range(64):
        own = [(t, s, f) for t, first, n, f, s in rows if first <= page < first + n]
        for (_, since, free_then), (t, _, free_now) in pairwise(own):
            assert free_then != free_now
            assert since <= t


def naive(path: Path) -> Iterable[tuple[int, str, list[str]]]:
    """Return host us, event and words of each row of an excerpt."""
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        found = re.match(r"\d+@(\d+)\.(\d{6}):(\w+)(.*)", line)
        assert found
        yield int(found[1]) * 10**6 + int(found[2]), found[3], found[4].split()


def test_a_real_excerpt_against_a_naive_reading(tmp_path: Path) -> None:
    report = import_qemu(DATA / "seq.40", out=tmp_path / "t.trace")
    rows = list(naive(DATA / "seq.40" / "qemu.log.gz"))
    zero = rows[0][0]
    assert rows[0][1] == "migration_bitmap_sync_start"
    latest, expected = 0, []
    for us, event, words in rows:
        latest = max(latest, us)
        if event == "memory_notdirty_write_access":
            expected.append(((latest - zero) * US, int(words[2], 16) // PAGE, 1))
    assert len(expected) > 50
    assert table(report, "dirty") == expected
    assert report.copies == sum(event == "ram_save_page" for _, event, _ in rows)
    assert report.pages * PAGE == 537_403_392
    saved = [int(words[2], 16) // PAGE for _, event, words in rows if event == "ram_save_page"]
    dirtied = {page for _, page, _ in expected}
    start = {p for t, page, n in table(report, "zero") if t == 0 for p in range(page, page + n)}
    # The excerpt ends in the first pass: below its last page everything not sent was zero; what
    # was never passed is taken as having content if in use, else like its neighbours.
    start -= set(range(max(saved), report.pages))
    assert start == set(range(max(saved))) - set(saved) - dirtied
    sample = gzip.decompress((DATA / "seq.40" / "freelist.log.gz").read_bytes()).decode()
    second = sample.split("FREELIST done")[1]
    runs = [(int(a, 16), int(b, 16)) for a, b in re.findall(r" ([0-9a-f]+)\+([0-9a-f]+)\n", second)]
    # The second of the four samples is the last one before the first sync; the excerpt is short.
    assert table(report, "freelist") == [(0, page, n, True, 0) for page, n in runs]
    assert (report.samples, report.samples_used) == (4, 1)


def test_a_real_dirty_ring_excerpt(tmp_path: Path) -> None:
    low = ["0:0:0xa0"]  # the log names no slot; this guest writes below 640 KiB alone
    report = import_qemu(DATA / "kvm-ring", out=tmp_path / "t.trace", slots=low)
    rows = list(naive(DATA / "kvm-ring" / "qemu.log.gz"))
    reaps = [us for us, event, _ in rows if event == "kvm_dirty_ring_reap"]
    zero, waiting, expected = reaps[0], set(), []
    for us, event, words in rows:
        if event == "kvm_dirty_ring_page":
            waiting.add(int(words[-1], 16))
        elif event == "kvm_dirty_ring_reap":
            expected += [((us - zero) * US, page) for page in sorted(waiting)]
            waiting = set()
    found = [(t, p) for t, page, n in table(report, "dirty") for p in range(page, page + n)]
    assert found == expected
    trace = Trace.open(report.out)
    assert trace.meta.resolution == "epoch"
    assert {(us - zero) * US for us in reaps} <= set(trace.epochs.tolist())
    assert {t for t, _ in found} <= set(trace.epochs.tolist())
    assert (trace.migration or {})["status"] == "completed"
    assert any("in the memory slots that are given: 0:0x0:160" in note for note in report.notes)


def test_the_slots_of_a_pc_are_assumed_where_none_is_named(tmp_path: Path) -> None:
    report = import_qemu(DATA / "kvm-ring", out=tmp_path / "t.trace")
    notes = " ".join(report.notes)
    assert "those of a PC, low:0x0:160, high:0x100:16128, are assumed" in notes
    assert "8 of 8 harvested offsets are in several slots" in notes
    found = {p for t, page, n in table(report, "dirty") for p in range(page, page + n) if t > 0}
    # What is sent tells of page 6; page 1 is zero, and no event tells of a zero page.
    assert found == {6, 1, 0x101}


def test_real_slots_and_a_guest_that_writes_in_two_of_them(tmp_path: Path) -> None:
    report = import_qemu(DATA / "kvm-slots", out=tmp_path / "t.trace")
    trace = Trace.open(report.out)
    assert trace.meta.source["slots"] == ["0:0x0:160", "4:0x100:7936"]
    epochs: dict[int, set[int]] = {}
    for t, page, n in table(report, "dirty"):
        epochs.setdefault(t, set()).update(range(page, page + n))
    written = {*range(0x20, 0x28), *range(0x100, 0x110)}
    others = [pages - written for t, pages in epochs.items() if t > 0]
    assert all(pages >= written for t, pages in epochs.items() if t > 0)
    # In the last epochs the guest's counters have come round to zero, and no event tells that a
    # page of zeros is sent: then both slots' pages are there.
    assert len(others) == 79
    assert [bool(pages) for pages in others] == [False] * 75 + [True] * 4


GIB = 1 << 30
SLOT = "kvm_set_user_memory Slot#{} flags=0x{:x} gpa=0x{:x} size=0x{:x} ua=0x{:x} ret={}"
LATER = SLOT.replace("Slot#{}", "AddrSpace#{} Slot#{}").replace(
    " ret", " guest_memfd=-1 guest_memfd_offset=0x0 ret"
)
HOST = 0x7F0000000000
ABOVE = 3 * GIB // PAGE


def ring(offset: int) -> str:
    return f"kvm_dirty_ring_page vcpu 0 fetch 0 offset 0x{offset:x}"


def reap(pages: int) -> str:
    return f"kvm_dirty_ring_reap reaped {pages} pages (took 5 us)"


def sent(page: int) -> str:
    return f"ram_save_page pc.ram: offset: 0x{page * PAGE:x} host: 0x{HOST + page * PAGE:x}"


#: A guest of 4 GiB whose RAM lies in three slots; a fourth is of no block, a fifth read-only.
BIG_SLOTS = [
    (0, 1, 0, 0xA0000, HOST, 0),
    (1, 1, 1 << 20, 3 * GIB - (1 << 20), HOST + (1 << 20), 0),
    (2, 1, 4 * GIB, GIB, HOST + 3 * GIB, 0),
    (3, 1, 0xFD000000, 16 << 20, 0x100000, 0),
    (4, 3, 0xC0000, 0x20000, HOST + 0xC0000, 0),
    (0x10000, 1, 0, 0xA0000, HOST, 0),
    (5, 1, 0, GIB, HOST, -22),
]
BIG: Log = [
    (1, SYNC),
    (2, reap(0)),
    (3, sync_end(0)),
    (10, sent(0)),
    (20, ring(0x30000)),
    (21, ring(0x20000)),
    (22, ring(0xB0000)),
    (30, reap(3)),
    (40, SYNC),
    (41, sync_end(4)),
    (50, sent(0x30100)),
    (51, sent(ABOVE + 0x3FFFF)),
    (60, SYNC),
    (61, sync_end(0)),
    (62, sent(ABOVE + 0x20000)),
    (70, ring(0x41000)),
    (80, reap(1)),
    (90, SYNC),
    (91, sync_end(1)),
]
BIG_DIRTY = {0x30100, ABOVE + 0x20000, 0xB0100}
BIG_RAM = {"guest_mb": 4096, "final": {"status": "completed", "ram": {"total": 4 * GIB}}}


def big_dirty(tmp_path: Path, logged: Log, **options: Any) -> tuple[set[int], ImportReport]:
    path = folder(tmp_path / "in", [*logged, *BIG], **BIG_RAM)
    report = import_qemu(path, out=tmp_path / "t.trace", force=True, **options)
    rows = table(report, "dirty")
    return {p for t, page, n in rows if t == 28 * US for p in range(page, page + n)}, report


@pytest.mark.parametrize("later", [False, True])
def test_a_guest_above_4_gib_by_what_was_sent(tmp_path: Path, later: bool) -> None:
    slots = [
        LATER.format(n >> 16, n & 0xFFFF, *rest) if later else SLOT.format(n, *rest)
        for n, *rest in BIG_SLOTS
    ]
    found, report = big_dirty(tmp_path, [(0, line) for line in slots])
    # 0x30000 was sent as a page of slot 1, 0x20000 as one of slot 2 after one more sync; 0xb0000
    # lies beyond the end of slot 2.
    assert found == BIG_DIRTY
    notes = " ".join(report.notes)
    assert "0:0x0:160, 1:0x100:786176, 2:0xc0000:262144, 3" in notes


def test_offsets_of_which_nothing_was_sent_are_written_in_every_slot(tmp_path: Path) -> None:
    slots = [(0, SLOT.format(n, *rest)) for n, *rest in BIG_SLOTS]
    log = [(t, body.replace("offset 0xb0000", "offset 0x3fff0")) for t, body in BIG]
    path = folder(tmp_path / "in", [*slots, *log], **BIG_RAM)
    report = import_qemu(path, out=tmp_path / "t.trace")
    rows = [(page, n) for t, page, n in table(report, "dirty") if t == 28 * US]
    assert (0x3FFF0 + 0x100, 1) in rows
    assert (ABOVE + 0x3FFF0, 1) in rows
    assert any("3 of 4 harvested offsets are in several" in note for note in report.notes)


def test_slots_change_while_they_are_recorded(tmp_path: Path) -> None:
    slots = [(0, SLOT.format(n, *rest)) for n, *rest in BIG_SLOTS]
    moved = [
        (65, SLOT.format(1, 0, 1 << 20, 0, HOST + (1 << 20), 0)),
        (66, SLOT.format(1, 1, 1 << 21, 3 * GIB - (1 << 21), HOST + (1 << 21), 0)),
    ]
    path = folder(tmp_path / "in", sorted([*slots, *BIG, *moved], key=lambda e: e[0]), **BIG_RAM)
    report = import_qemu(path, out=tmp_path / "t.trace")
    assert [page for t, page, _ in table(report, "dirty") if t == 78 * US] == [0x41200]


def test_without_slots_a_pc_is_assumed_and_another_machine_refused(tmp_path: Path) -> None:
    found, report = big_dirty(tmp_path, [])
    assert found == BIG_DIRTY
    assert any("above-4g:0xc0000:262144, are assumed" in note for note in report.notes)
    found, _ = big_dirty(tmp_path, [], slots=["7:0x1000:3GiB"])
    assert found == {0x31000, 0x21000, 0xB1000}
    other = [(t, body.replace("pc.ram", "mach-virt.ram")) for t, body in BIG]
    path = folder(tmp_path / "in", other, **BIG_RAM)
    with pytest.raises(TraceError, match="record with kvm_set_user_memory too, or pass --slot"):
        import_qemu(path, out=tmp_path / "n.trace")
    with pytest.raises(UsageError, match=r"the guest's RAM, block pc\.ram, has 0x100000"):
        big_dirty(tmp_path, [], slots=["0:0x100:4GiB"])
    with pytest.raises(UsageError, match="no pages of a dirty ring"):
        import_qemu(folder(tmp_path / "tcg"), out=tmp_path / "n.trace", slots=["0:0:1"])
    assert not (tmp_path / "n.trace").exists()


GARBLED = text([*SMALL[:5], (41, "ram_save_page pc.ram: offset: 0xzz host: 0x0"), *SMALL[5:]])
BAD_LOGS = {
    "empty": (b"", "qemu.log: is empty"),
    "foreign": (b"# tracer: nop\nhello\n", "qemu.log, line 1: no event of QEMU's trace log"),
    "binary": (bytes(range(256)) * 9 + b"\n", "qemu.log, line 1: "),
    "no newline": (b"\0" * (2 << 20), "qemu.log, line 1: no event"),
    "garbled": (GARBLED, "qemu.log, line 6: '20104@1795397374.312561:ram_save_page"),
    "torn": (
        text(SMALL[:3]) + b"1@17953.31:ram_save_page pc.ram: off\n",
        "qemu.log, line 4: ",
    ),
    "noise": (text(SMALL[:3]) + b"\x01\x02\x03\n" + text(SMALL[3:]), "qemu.log, line 4: "),
    "no times": (b"ram_save_page pc.ram: offset: 0x0 host: 0x0\n", "record with -msg timestamp=on"),
    "no sync": (text(SMALL[1:2]), "no migration_bitmap_sync_start"),
    "no writes": (text([row for row in SMALL if "notdirty" not in row[1]]), "enable memory_not"),
    "huge": (text([*SMALL[:1], (3, write(1 << 58))]), "more than 16 TiB"),
}


@pytest.mark.parametrize("kind", BAD_LOGS)
def test_bad_logs_are_refused_and_leave_nothing(tmp_path: Path, kind: str) -> None:
    log, message = BAD_LOGS[kind]
    where = folder(tmp_path / "in", log)
    if kind == "huge":
        (where / "migrate.json").unlink()
    with pytest.raises(TraceError) as caught:
        import_qemu(where, out=tmp_path / "out" / "t.trace")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_corrupt_gzip_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(text(SMALL)))
    packed[-6] ^= 255
    with pytest.raises(TraceError, match=r"qemu\.log\.gz: corrupt gzip"):
        run(tmp_path, bytes(packed), name="qemu.log.gz")


BAD_FREELISTS = {
    "foreign": ("hello\n", r"freelist\.log, line 1: 'hello' belongs to no"),
    "nothing": ("", "no complete free-list sample"),
    "outside": (walk(-9, -5, "f0+11"), r"sample at line 1: run f0\+11 is outside"),
    "overlap": (walk(-9, -5, "10+4 12+4"), "line 1: the sample's runs overlap"),
    "back": (walk(9, 15, "10+4") + walk(3, 5, "10+4"), "line 4: the sample goes back"),
    "no host": (re.sub(r"(?m)^\d+\.\d+ ", "", walk(-9, -5, "10+4")), "begins with the host's time"),
    "run first": ("1795397374.000001 10+4\n", "line 1: "),
}


@pytest.mark.parametrize("kind", BAD_FREELISTS)
def test_bad_free_lists_are_refused(tmp_path: Path, kind: str) -> None:
    freelist, message = BAD_FREELISTS[kind]
    with pytest.raises(TraceError, match=message):
        run(tmp_path, freelist=freelist)
    assert not (tmp_path / "t.trace").exists()


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    out = tmp_path / "t.trace"
    with pytest.raises(TraceError, match=r"does not exist; wanted a folder with qemu\.log"):
        import_qemu(tmp_path / "no", out=out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match=r"holds neither qemu\.log nor qemu\.log\.gz"):
        import_qemu(tmp_path / "empty", out=out)
    with pytest.raises(TraceError, match=r"t\.trace: is a trace already"):
        import_qemu(run(tmp_path).out, out=out, force=True)
    shutil.rmtree(out)
    with pytest.raises(TraceError, match=r"no\.log: cannot be opened"):
        import_qemu(log=tmp_path / "no.log", out=out)
    with pytest.raises(TraceError, match=r"no\.json: cannot be read"):
        import_qemu(folder(tmp_path / "in"), migration=tmp_path / "no.json", out=out)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(TraceError, match=r"x\.json: no record of a migration"):
        import_qemu(folder(tmp_path / "in"), migration=tmp_path / "x.json", out=out)
    with pytest.raises(UsageError, match="nothing to import"):
        import_qemu(out=out)
    with pytest.raises(UsageError, match="until_ns is 0"):
        import_qemu(folder(tmp_path / "in"), out=out, until_ns=0)
    assert not out.exists()


def test_an_existing_trace_is_kept_unless_forced(tmp_path: Path) -> None:
    where = folder(tmp_path / "in")
    first = import_qemu(where, out=tmp_path / "t.trace")
    with pytest.raises(UsageError, match="pass --force"):
        import_qemu(where, out=tmp_path / "t.trace")
    digest = Trace.open(first.out).digest
    assert Trace.open(import_qemu(where, out=tmp_path / "t.trace", force=True).out).digest == digest


def test_progress_counts_the_bytes_of_the_log(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    where = folder(tmp_path / "in")
    import_qemu(where, out=tmp_path / "t.trace", progress=lambda *step: seen.append(step))
    size = (where / "qemu.log").stat().st_size
    assert seen[-1] == (size, size)
