"""What `accuracy` asks of a recorded migration's log, and what it says where that is not there."""

from __future__ import annotations

import pytest

from analyses.commands import run
from analyses.recording import Recording
from tests.readers.test_qemu import T0, folder
from tests.readers.test_qemu_versions import migration
from tracer import Trace
from tracer.readers import import_qemu

RAM = {"total": 1 << 20, "page-size": 4096, "normal": 5, "duplicate": 259, "transferred": 30_000}
SET = {"max-bandwidth": 1 << 20, "downtime-limit": 300}


def recorded(tmp_path, log, *, syncs=4):
    final = {"status": "completed", "total-time": 306, "downtime": 2}
    final["ram"] = RAM | {"dirty-sync-count": syncs}
    files = folder(tmp_path / "in", log, parameters=SET, final=final)
    return import_qemu(files, out=tmp_path / "a.trace").out


@pytest.mark.parametrize(("version", "counted"), [(7, 4), (10, 4), (11, 3)])
def test_all_syncs_count_where_qemu_leaves_out_the_last(tmp_path, version, counted):
    out = recorded(tmp_path, migration(version), syncs=counted)
    assert Recording.of(Trace.open(out)).syncs == 4


def test_syncs_of_a_migration_that_was_cancelled_are_those_before_its_last_answer(tmp_path):
    """From 11 on a timer's syncs are in the log alone."""
    log = migration(11)[:-5]
    answer = {"status": "active", "ram": RAM | {"dirty-sync-count": 1}}
    for after_us, syncs in ((250_000, 2), (203_000, 1), (400_000, 3)):
        polls = [answer | {"t": (T0 + after_us) / 1e6}]
        files = folder(tmp_path / "in", log, final={"status": "cancelled"}, polls=polls)
        out = import_qemu(files, out=tmp_path / "a.trace", force=True).out
        assert Recording.of(Trace.open(out)).syncs == syncs


def without(log, *names):
    return [row for row in log if not row[1].startswith(names)]


def accuracy(out, capsys, *options):
    code = run(["accuracy", str(out), *options])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("version", [7, 10, 11])
def test_without_looks_the_host_is_not_known(tmp_path, capsys, version):
    assert accuracy(recorded(tmp_path, migration(version)), capsys)[0] == 0
    bare = without(migration(version), "migrate_pending", "qemu_savevm_query_pending")
    (tmp_path / "b").mkdir()
    out = recorded(tmp_path / "b", bare)
    notes = Trace.open(out).meta.source["notes"]
    assert any("no looks at what is pending" in note for note in notes)
    code, words = accuracy(out, capsys)
    assert code == 3
    assert "a.trace: its log has no looks at what is pending" in words
    assert "qemu_savevm_query_pending from 11 on" in words
    assert accuracy(out, capsys, "--even-host")[0] == 0


def test_without_copies_nothing_can_be_foretold(tmp_path, capsys):
    """As multifd's channels send them."""
    out = recorded(tmp_path, without(migration(11), "ram_save_page"))
    notes = Trace.open(out).meta.source["notes"]
    assert any("though QEMU sent 5 pages with content (with multifd" in note for note in notes)
    code, words = accuracy(out, capsys, "--even-host")
    assert code == 3
    assert "QEMU sent 5 pages with content and its log names none" in words


def test_what_else_a_log_does_not_say_is_noted(tmp_path):
    out = recorded(tmp_path, without(migration(10), "migration_completion"))
    assert any("guest was stopped is not known" in n for n in Trace.open(out).meta.source["notes"])
    files = folder(tmp_path / "in", migration(10), parameters={"zero-page-detection": "none"})
    report = import_qemu(files, out=tmp_path / "b.trace")
    assert any(note.startswith("zero-page-detection was none") for note in report.notes)
