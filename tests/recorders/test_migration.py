"""Real migrations of a real guest; what they record is imported, checked and replayed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from analyses.commands import run
from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import strategy
from tests.recorders import boot
from tests.recorders.live import PATIENCE, wait_until
from tracer import Trace
from tracer.errors import RecordError
from tracer.readers import import_qemu
from tracer.recorders.launch import Qemu
from tracer.recorders.qmp import connect
from tracer.recorders.stamped import Lines

ROOT = Path(__file__).parent.parent.parent
RECORD = [sys.executable, "-m", "analyses.commands", "record", "migration"]
LOAD = "hot,mb=16,rate=2000,percent=90,share=10"

#: A stand-in for `ssh guest freelist`: samples by the clock of this machine.
SAMPLES = """while :; do
    read up rest </proc/uptime
    printf 'FREELIST begin mono=%s end=%s real=0.0 pfns=32768\\n7000+100\\nFREELIST done\\n' $up $up
    sleep 0.2
done"""


@pytest.fixture
def record(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        code = run(["record", "migration", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def start():
    started = []

    def call(*arguments):
        command = [*RECORD, *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield call
    for process in started:
        # Its guest ends with it.
        process.kill()
        process.communicate()


def grown(log):
    return log.exists() and log.stat().st_size > 200_000


def qemu_of(process):
    """Return the process ids of the guests that a recorder has launched."""
    found = []
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
            if Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system"):
                found.append(int(pid))
    return found


def test_a_launched_guest_is_migrated_and_its_trace_replays(record, guest, tmp_path):
    out, logs = tmp_path / "x.trace", tmp_path / "logs"
    code, said, words = record(
        "-o", out, "--keep-log", logs, "--freelist", "virtio", "--start-when", "load: ready",
        "--start-after", "500ms", "--bandwidth", "20MiB/s", "--downtime-limit", "200ms",
        "--", *guest(LOAD),
    )  # fmt: skip
    assert (code, said) == (0, f"{out}\n"), words
    for stage in ("starting QEMU", "waiting for 'load: ready' on the console", "migrating"):
        assert f" s: {stage}" in words
    assert sorted(file.name for file in logs.iterdir()) == [
        "console.log", "freelist.log.gz", "migrate.json", "qemu.log.gz",
    ]  # fmt: skip
    answers = json.loads((logs / "migrate.json").read_text())
    final = answers["final"]
    assert final["status"] == "completed"
    assert answers["parameters"]["max-bandwidth"] == 20 << 20
    assert answers["parameters"]["downtime-limit"] == 200
    assert (answers["guest_mb"], answers["machine"][:3]) == (128, "pc-")
    assert answers["vcpus"] == 1
    normal = final["ram"]["normal"]
    assert f"{normal:,} pages, QEMU counted {normal:,}" in " ".join(words.split())
    trace = Trace.open(out)
    trace.validate()
    meta = trace.meta
    assert (meta.resolution, meta.freelist_resolution, meta.hinting) == (
        "first-write",
        "sampled",
        False,
    )
    recorded = trace.migration["recorded"]
    assert recorded["syncs"][0]["t_host_ns"] == 0
    # Whatever a QEMU calls its looks at what is pending, they tell what it sent.
    assert sum(recorded["iterations"]["normal"]) == normal
    assert sum(recorded["iterations"]["zero"]) == final["ram"]["duplicate"]
    assert len(recorded["syncs"]) - final["ram"]["dirty-sync-count"] in (0, 1)
    # The load writes 2000 pages a second to 16 MiB: more than its hot tenth is seen.
    dirty = {int(page) for rows in trace.rows("dirty") for page in rows.page[rows.t > 0]}
    assert len(dirty) > 410
    for name in ("precopy", "hint-wait"):
        replays = replay(trace, strategy(name), Parameters(bandwidth=100 << 20))
        assert {one.result.verdict for one in replays} == {"safe"}
    again = import_qemu(logs, out=tmp_path / "again.trace")
    assert again.copies == normal
    assert Trace.open(tmp_path / "again.trace").meta.digests == meta.digests


def test_to_a_second_qemu_with_hints_and_a_serial_port(record, guest, tmp_path):
    out, logs = tmp_path / "x.trace", tmp_path / "logs"
    code, said, words = record(
        "-o", out, "--keep-log", logs, "--freelist", "serial", "--start-when", "ready",
        "--to", "second", "--free-page-hint", "--auto-converge", "--capability", "xbzrle=off",
        "--parameter", "max-bandwidth=40000000", "--parameter", "cpu-throttle-tailslow=on",
        "--", *guest(LOAD),
    )  # fmt: skip
    assert (code, said) == (0, f"{out}\n"), words
    answers = json.loads((logs / "migrate.json").read_text())
    assert answers["final"]["status"] == "completed"
    assert answers["to"].startswith("tcp:127.0.0.1:")
    assert (answers["free-page-hint"], answers["auto-converge"]) == (True, True)
    assert answers["parameters"]["max-bandwidth"] == 40_000_000
    assert answers["parameters"]["cpu-throttle-tailslow"] is True
    meta = Trace.open(out).meta
    assert (meta.hinting, meta.freelist_resolution) == (True, "sampled")
    # The guest arrived: nobody booted it there.
    assert b"ready" not in (logs / "destination.log").read_bytes()


def test_multifd_s_channels_go_nowhere_too_and_what_its_log_lacks_is_said(record, guest, tmp_path):
    out = tmp_path / "x.trace"
    code, said, words = record(
        "-o", out, "--start-when", "ready", "--bandwidth", "100MiB/s", "--capability", "multifd",
        "--cancel-after", "60s", "--", *guest(LOAD),
    )  # fmt: skip
    assert (code, said) == (0, f"{out}\n"), words
    assert Trace.open(out).migration["status"] == "completed"
    assert "pages with content (with multifd it logs none)" in " ".join(words.split())
    assert "zero copies not known, QEMU counted" in " ".join(words.split())


def test_ctrl_c_cancels_and_keeps_what_there_is(start, guest, tmp_path):
    out = tmp_path / "x.trace"
    process = start(
        "-o", out, "--start-when", "ready", "--bandwidth", "2MiB/s", "--freelist",
        f"exec:{SAMPLES}", "--", *guest(LOAD),
    )  # fmt: skip
    wait_until(lambda: grown(tmp_path / "x.trace.log" / "qemu.log"))
    (qemu,) = qemu_of(process)
    process.send_signal(signal.SIGINT)
    said, words = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, f"{out}\n"), words
    assert "the migration was cancelled after" in words
    trace = Trace.open(out)
    assert trace.migration["status"] == "cancelled"
    assert trace.meta.freelist_resolution == "sampled"
    assert [file.name for file in tmp_path.iterdir()] == ["x.trace"]
    assert not Path(f"/proc/{qemu}").exists()


def test_ctrl_c_before_the_migration_leaves_nothing(start, guest, tmp_path):
    process = start("-o", tmp_path / "x.trace", "--start-when", "nothing", "--", *guest("idle"))
    log = tmp_path / "x.trace.log" / "console.log"
    wait_until(lambda: log.exists() and qemu_of(process))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, "")
    assert not list(tmp_path.iterdir())


def test_a_killed_recording_opens_up_to_where_it_goes(start, guest, tmp_path):
    logs = tmp_path / "x.trace.log"
    process = start(
        "-o", tmp_path / "x.trace", "--freelist", "virtio", "--start-when", "ready",
        "--bandwidth", "2MiB/s", "--", *guest(LOAD),
    )  # fmt: skip
    wait_until(lambda: grown(logs / "qemu.log"))
    (qemu,) = qemu_of(process)
    process.kill()
    process.communicate()
    # The guest does not outlive its recorder.
    wait_until(lambda: not Path(f"/proc/{qemu}").exists())
    report = import_qemu(logs, out=tmp_path / "rest.trace")
    assert report.copies > 500
    assert report.samples >= 1
    trace = Trace.open(tmp_path / "rest.trace")
    trace.validate()
    assert trace.meta.pages > 128 << 8
    again = start("-o", tmp_path / "x.trace", "--", "true")
    _, words = again.communicate(timeout=PATIENCE)
    assert again.returncode == 2
    assert "x.trace.log: holds a recording that was kept or cut short" in words


def test_a_guest_that_dies_is_said_and_its_log_kept(start, guest, tmp_path):
    process = start(
        "-o", tmp_path / "x.trace", "--start-when", "ready", "--bandwidth", "2MiB/s",
        "--", *guest(LOAD),
    )  # fmt: skip
    wait_until(lambda: grown(tmp_path / "x.trace.log" / "qemu.log"))
    os.kill(qemu_of(process)[0], signal.SIGKILL)
    said, words = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (1, "")
    assert "x.trace.log: keeps what was recorded" in words
    assert "error: qemu-system-x86_64 ended (SIGKILL)" in words
    assert import_qemu(tmp_path / "x.trace.log", out=tmp_path / "rest.trace").copies > 500


#: Runs a QEMU, and outlives it and the connection to its monitor by a moment.
SLOW_TO_DIE = f"""#!{sys.executable}
import os, subprocess, sys, time
qemu = subprocess.Popen(["qemu-system-x86_64", *sys.argv[1:]], close_fds=False)
os.closerange(3, 1000)
qemu.wait()
time.sleep(0.3)
print("it was killed", flush=True)
sys.exit(7)
"""


def test_a_guest_that_closes_its_monitor_before_it_dies_is_said_too(guest, tmp_path):
    program = tmp_path / "slow-to-die"
    program.write_text(SLOW_TO_DIE)
    program.chmod(0o755)

    async def ask_a_dying_one():
        console = Lines(tmp_path / "console.log")
        try:
            async with Qemu([str(program), *guest(LOAD)[1:]], console) as qemu:
                children = Path(f"/proc/{qemu.pid}/task/{qemu.pid}/children").read_text()
                os.kill(int(children), signal.SIGKILL)
                while True:
                    await qemu.monitor.do("query-status")
        finally:
            console.close()

    with pytest.raises(RecordError) as caught:
        asyncio.run(ask_a_dying_one())
    assert str(caught.value) == f"{program} ended (exit code 7); its last line: it was killed"


async def _asked(socket, *commands):
    monitor = await connect(socket)
    try:
        return [await monitor.do(*command) for command in commands]
    finally:
        await monitor.close()


def _log_a_line(socket):
    turn = "trace-event-set-state"
    asyncio.run(
        _asked(
            socket,
            (turn, {"name": "qmp_enter_query_status", "enable": True}),
            ("query-status",),
            (turn, {"name": "qmp_enter_query_status", "enable": False}),
        )
    )


def test_a_running_guest_goes_on_and_is_left_as_it_was(record, guest, tmp_path):
    socket, samples = tmp_path / "qmp", tmp_path / "samples"
    event = {"name": "ram_save_page"}
    look = [
        ("query-migrate-parameters",), ("query-migrate-capabilities",), ("query-status",),
        ("trace-event-get-state", event),
    ]  # fmt: skip
    own = tmp_path / "own.log"
    command = guest(
        LOAD, "-D", own, "-msg", "timestamp=on", "-qmp", f"unix:{socket},server=on,wait=off",
        "-device", "virtio-serial-pci", "-device",
        "virtserialport,chardev=samples,name=org.dirtylog.freelist",
        "-chardev", f"socket,id=samples,path={samples},server=on,wait=off",
    )  # fmt: skip
    qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        for line in qemu.stdout:
            if b"ready" in line:
                break
        before = asyncio.run(_asked(socket, *look))
        own.write_text("what QEMU logged before\n")
        code, _, words = record(
            "-o", tmp_path / "x.trace", "--qmp", socket, "--freelist", f"unix:{samples}",
            "--bandwidth", "30MiB/s", "--downtime-limit", "123ms", "--capability", "xbzrle",
            "--qemu-log", tmp_path / "elsewhere.log",
        )  # fmt: skip
        assert code == 0, words
        after = asyncio.run(_asked(socket, *look))
        # QEMU closes a log a moment after it has opened another.
        wait_until(lambda: not any("elsewhere.log" in name for name in boot.open_files(qemu.pid)))
        logs = boot.open_files(qemu.pid)
        _log_a_line(socket)
        held = own.read_text()
    finally:
        qemu.kill()
        qemu.communicate()
    assert after == before
    assert after[2]["running"]
    assert str(own) in logs
    assert held.startswith("what QEMU logged before\n")
    assert "qmp" in held.partition("\n")[2]
    trace = Trace.open(tmp_path / "x.trace")
    assert trace.migration["status"] == "completed"
    assert trace.migration["parameters"]["downtime-limit"] == 123
    assert trace.migration["capabilities"]["xbzrle"] is True
    assert trace.meta.freelist_resolution == "sampled"


def test_a_log_without_times_is_refused_at_once(record, guest, tmp_path):
    socket = tmp_path / "qmp"
    command = guest(LOAD, "-qmp", f"unix:{socket},server=on,wait=off")
    qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        for line in qemu.stdout:
            if b"ready" in line:
                break
        code, said, words = record(
            "-o", tmp_path / "x.trace", "--qmp", socket, "--bandwidth", "2MiB/s"
        )
        (status,) = asyncio.run(_asked(socket, ("query-migrate",)))
    finally:
        qemu.kill()
        qemu.communicate()
    assert (code, said) == (2, "")
    assert "start it with -msg timestamp=on" in words
    assert status["status"] in ("cancelling", "cancelled")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--", "qemu-system-x86_64", "-nonsense"], 2, "-nonsense: invalid option"),
        (["--capability", "xbzrl", "--"], 2, "no migration capability xbzrl; it has xbzrle"),
        (["--parameter", "max-bandwidth=fast", "--"], 2, "is 'fast'; wanted a number"),
        (["--parameter", "nonsense=1", "--"], 2, "QEMU refuses migrate-set-parameters"),
        (["--to", "ftp:x", "--"], 2, "--to ftp:x: QEMU refuses migrate"),
        (["--to", "tcp:127.0.0.1:1", "--"], 1, "the migration failed: Failed to connect"),
        (["--qemu-log", "/nonesuch/log", "--"], 2, "/nonesuch/log: QEMU cannot write its log"),
        (["--freelist", "unix:/nonesuch", "--"], 2, "unix:/nonesuch: nobody gives samples there"),
        (["--freelist", "exec:false", "--"], 1, "exec:false: ended before it gave one sample"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_qemu_refuses_is_said_in_one_line(record, guest, tmp_path, arguments, code, told):
    command = guest("idle") if arguments[-1] == "--" else []
    found, said, words = record("-o", tmp_path / "x.trace", *arguments, *command)
    assert (found, said) == (code, "")
    assert told in words.splitlines()[-1]
    assert words.splitlines()[-1].startswith("dirtylog: error: ")
    assert not list(tmp_path.iterdir())


# -- refused before anything is started ---------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "either its command line behind --, or --qmp SOCKET"),
        (["--qmp", "s", "--", "qemu"], "either its command line behind --, or --qmp SOCKET"),
        (["--", "qemu", "-S"], "has -S: a guest that stands still"),
        (["--", "qemu", "--daemonize"], "has -daemonize"),
        (["--", "qemu", "-incoming", "defer"], "has -incoming"),
        (["--", "/nonesuch/qemu"], "/nonesuch/qemu: cannot be run (No such file"),
        (["--freelist", "tty", "--", "qemu"], "'tty' is no source; wanted virtio"),
        (["--freelist", "serial", "--qmp", "s"], "--freelist serial needs a QEMU that dirtylog"),
        (["--to", "second", "--qmp", "s"], "--to second needs a QEMU that dirtylog launches"),
        (["--start-when", "x", "--qmp", "s"], "--start-when needs a QEMU that dirtylog launches"),
        (["--downtime-limit", "1500us", "--", "qemu"], "'1500us' is no whole number of ms"),
        (["--capability", "x=1", "--", "qemu"], "wanted NAME, NAME=on or NAME=off"),
        (["--parameter", "x", "--", "qemu"], "'x' is no NAME=VALUE"),
        (["--qemu-log", "/dev/null", "--", "qemu"], "/dev/null: exists"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_requests_that_do_not_fit_are_refused(record, tmp_path, arguments, told):
    code, said, words = record("-o", tmp_path / "x.trace", *arguments)
    assert (code, said) == (2, "")
    assert told in words
    assert not list(tmp_path.iterdir())


def test_no_monitor_and_no_package_are_said(record, tmp_path, monkeypatch):
    code, _, words = record("-o", tmp_path / "x.trace", "--qmp", tmp_path / "none")
    assert code == 2
    assert f"{tmp_path / 'none'}: no QMP monitor answers" in words
    assert "name the socket of a QEMU that runs" in words
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    code, _, words = record("-o", tmp_path / "x.trace", "--qmp", tmp_path / "none")
    assert code == 2
    assert "pip install 'dirtylog[record]'" in words
    assert not list(tmp_path.iterdir())


def test_an_existing_trace_is_found_before_the_guest_is_started(record, tmp_path):
    (tmp_path / "x.trace").mkdir()
    code, _, words = record("-o", tmp_path / "x.trace", "--", "true")
    assert code == 2
    assert "exists" in words
    assert "starting" not in words
