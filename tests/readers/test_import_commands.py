"""The importers on the command line, and the programs that they ship."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from analyses.commands import run
from tests.readers.tables import opened, written
from tests.readers.test_images import snapshot
from tracer import Trace
from tracer.readers.programs import all_programs

DATA = Path(__file__).parent / "data"
HOST = Path(sys.modules["tracer.readers"].__file__).parent / "host"


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def said(capsys, *arguments, code=0):
    found = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert found == code, err
    assert "Traceback" not in err
    assert all(len(line) <= 80 for line in err.splitlines() if code == 0)
    return out, err


def commands(tmp_path):
    """One command line for each format, on real samples."""
    with tarfile.open(DATA / "criu" / "dumps.tar.gz") as archive:
        archive.extractall(tmp_path / "dumps", filter="data")
    for n in (1, 2):
        snapshot(tmp_path / f"diff{n}", 16, {n: 1}, at=n)
    (tmp_path / "scans").write_text("1 1000-3000\n2.5 1000-2000 written\n")
    kernel = DATA / "kernel"
    return {
        "ftrace": [kernel / "ring.perf.txt.gz", "--slot", "0:0:1MiB"],
        "kmem": [kernel / "kmem.guest-ftrace.txt.gz", "--allocations-write"],
        "lackey": [DATA / "lackey" / "w.log.gz", "--ns-per-instruction", "0.5", "--quantum", "5us"],
        "bitmaps": [DATA / "bitmaps", "--interval", "100ms", "--block", "ram:0:1MiB"],
        "firecracker": [tmp_path / "diff1", tmp_path / "diff2"],
        "criu": [tmp_path / "dumps" / "3", "--pid", "133"],
        "page-ranges": [tmp_path / "scans", "--interval", "1s"],
    }


def test_every_importer_makes_a_trace_that_info_and_replay_take(tmp_path, capsys):
    for name, arguments in commands(tmp_path).items():
        out, err = said(capsys, "import", name, *arguments, "-o", f"{name}.trace")
        assert out == f"{name}.trace\n"
        assert "read  " in err
        assert "made  " in err
        opened(f"{name}.trace")
        out, _ = said(capsys, "info", f"{name}.trace")
        assert "recorder" in out
        said(capsys, "replay", f"{name}.trace", "-s", "precopy")
        _, err = said(capsys, "import", name, *arguments, "-o", f"{name}.trace", code=2)
        assert "--force" in err
        digest = Trace.open(f"{name}.trace").digest
        said(capsys, "import", name, *arguments, "-o", f"{name}.trace", "--force")
        assert Trace.open(f"{name}.trace").digest == digest, "the same input, other bytes"


def test_standard_input(tmp_path, capsys, monkeypatch):
    text = gzip.decompress((DATA / "kernel" / "ring.perf.txt.gz").read_bytes())
    said(capsys, "import", "ftrace", DATA / "kernel" / "ring.perf.txt.gz", "-o", "file.trace")
    for packed in (text, gzip.compress(text)):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(packed)))
        monkeypatch.setattr(sys, "stdin", stdin)
        said(capsys, "import", "ftrace", "-", "-o", "stdin.trace", "--force")
        assert written(Trace.open("stdin.trace")) == written(Trace.open("file.trace"))


def test_a_free_list_for_dirty_pages_with_a_negative_offset(tmp_path, capsys):
    said(capsys, "import", "ftrace", DATA / "kernel" / "ring.perf.txt.gz", "-o", "d.trace")
    text = (
        " x-1 [0] 20000.000001: mm_page_free: page=0x1 pfn=0x1 order=0\n"
        " x-1 [0] 20000.010001: mm_page_alloc: page=0x1 pfn=0x1 order=0\n"
    )
    Path("k.txt").write_text(text)
    put = ["import", "kmem", "k.txt", "--dirty", "d.trace", "-o", "both.trace"]
    _, err = said(capsys, *put, code=3)
    assert "--offset" in err
    said(capsys, *put, "--offset=-8750.21s")
    assert Trace.open("both.trace").num_rows("freelist") == 2
    _, err = said(capsys, *put, "--offset", "soon", code=2)
    assert "no duration" in err


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["ftrace", "none", "-o", "x.trace"], 3, "cannot be opened"),
        (["ftrace", "none", "-o", "x"], 2, ".trace"),
        (["ftrace", "none", "-o", "x.trace", "--block", "ram"], 2, "NAME:FIRST_FRAME:PAGES"),
        (["lackey", "none", "-o", "x.trace", "--ns-per-instruction", "x"], 2, "no number"),
        (["lackey", "none", "-o", "x.trace", "--quantum", "9"], 2, "no duration"),
        (["simpletrace", "none", "-o", "x.trace", "--freelist", "f"], 2, "--start"),
        (["bitmaps", "none", "-o", "x.trace"], 3, "does not exist"),
        (["programs", "none"], 2, "dirty-ring.bt"),
    ],
)
def test_what_does_not_fit(capsys, arguments, code, part):
    _, err = said(capsys, "import", *arguments, code=code)
    assert err.startswith("dirtylog: error: ")
    assert err.count("\n") == 1
    assert part in err
    assert not Path("x.trace").exists()


def test_simpletrace_with_a_start(tmp_path, capsys):
    from tests.readers.simple import simpletrace

    folder = DATA / "seq.40"
    with gzip.open(folder / "qemu.log.gz", "rt") as log:
        text = list(simpletrace(log))
    with gzip.open(folder / "qemu.log.gz", "rt") as log:
        start = log.readline().split(":")[0].split("@")[1]
    Path("s.txt").write_text("".join(text))
    said(capsys, "import", "simpletrace", "s.txt", "--start", start, "--freelist",
         folder / "freelist.log.gz", "--migration", folder / "migrate.json", "-o", "s.trace")  # fmt: skip  # noqa: E501
    said(capsys, "import", "qemu", folder, "-o", "l.trace")
    assert written(Trace.open("s.trace")) == written(Trace.open("l.trace"))
    assert Trace.open("s.trace").num_rows("freelist") == Trace.open("l.trace").num_rows("freelist")


def test_help_shows_how_the_input_is_made(capsys):
    lines = {
        "ftrace": "perf record", "kmem": "perf record", "lackey": "valgrind --tool=lackey",
        "bitmaps": "dpt_start", "firecracker": "/snapshot/create", "criu": "criu pre-dump",
        "page-ranges": "PAGEMAP_SCAN", "simpletrace": "simpletrace.py",
    }  # fmt: skip
    for name, line in lines.items():
        out, _ = said(capsys, "import", name, "--help")
        assert line in " ".join(out.split()), name


# --- the programs


def test_programs_are_listed_and_printed_as_they_are(capsys):
    out, _ = said(capsys, "import", "programs")
    files = {path.name for path in HOST.iterdir() if path.suffix in (".bt", ".sh")}
    assert files == set(all_programs())
    assert len(files) >= 6
    for name in files:
        assert name in out
        text, _ = said(capsys, "import", "programs", name)
        assert text == (HOST / name).read_text()


@pytest.mark.parametrize("name", [n for n in all_programs() if n.endswith(".sh")])
def test_shell_programs_parse_and_refuse_other_words(name):
    subprocess.run(["sh", "-n", HOST / name], check=True)
    done = subprocess.run(["sh", HOST / name, "other"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ring, log or kmem" in done.stderr


@pytest.mark.parametrize("name", [n for n in all_programs() if n.endswith(".bt")])
def test_bpftrace_takes_its_programs(name):
    bpftrace = shutil.which("bpftrace")
    if bpftrace is None:
        pytest.skip("bpftrace is not installed")
    if os.geteuid():
        pytest.skip("bpftrace wants root, even to parse")
    done = subprocess.run([bpftrace, "-d", HOST / name, "0"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    if "tracepoint not found" in done.stderr or "No such file" in done.stderr.splitlines()[-1:]:
        pytest.skip("no tracefs with these events here")
    assert done.returncode == 0, done.stderr
    assert "AST after: Semantic" in done.stdout


def _options(command, *words):
    done = subprocess.run([command, *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(("tool", "script"), [("perf", "perf.sh"), ("trace-cmd", "trace-cmd.sh")])
def test_the_options_of_perf_and_trace_cmd_are_theirs(tool, script):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    text = (HOST / script).read_text()
    for words in {
        tuple(m) for m in re.findall(rf"^\s*{tool} (record|report|script|probe) (.*)$", text, re.M)
    }:
        known = _options(tool, words[0], "-h")
        body = re.sub(r"'[^']*'|\"[^\"]*\"", "X", words[1].split(" -- ")[0].split(" -c sleep")[0])
        for option in re.findall(r"(?<!\S)(--?[a-zA-Z][\w-]*)", body):
            assert re.search(rf"(?<!\S)\[?{re.escape(option)}\b", known), (option, known)


def test_the_tracefs_program_on_this_machine(capsys):
    """Run for real where the kernel lets us: what it prints is read."""
    if os.geteuid() or not Path("/sys/kernel/tracing/events/kmem").is_dir():
        pytest.skip("no tracefs with kmem events here, or not root")
    done = subprocess.run(["sh", HOST / "ftrace.sh", "kmem", "0.2"], capture_output=True,
                          check=False)  # fmt: skip
    if done.returncode:
        pytest.skip(f"tracing is locked here: {done.stderr.decode()[-200:]}")
    Path("k.txt").write_bytes(done.stdout)
    said(capsys, "import", "kmem", "k.txt", "-o", "k.trace")
    opened("k.trace")


def printed_by(name):
    """A line of each kind as a bpftrace program prints it."""
    for form in re.findall(r'printf\("(.*)\\n"', (HOST / name).read_text()):
        text = re.sub(r"%(\d*)(?:ll)?([dux])", r"%\1\2", form)
        values = ["CPU 0/KVM", 77, 3, 1234, 42]
        rest = text.count("%") - len(values)
        # After task, pid, CPU and time the fields: all are 9.
        yield text % (*values, *[9] * rest) + "\n"


def test_what_the_bpftrace_programs_print_is_read(capsys):
    Path("ring.txt").write_text("".join(printed_by("dirty-ring.bt")))
    said(capsys, "import", "ftrace", "ring.txt", "-o", "ring.trace")
    trace = opened("ring.trace")
    assert [page for _, page in written(trace)] == [9]
    assert trace.epochs.tolist() == [1]
    assert trace.meta.quantum_ns == 1
    Path("log.txt").write_text("".join(printed_by("dirty-log.bt")))
    said(capsys, "import", "ftrace", "log.txt", "-o", "log.trace")
    assert [page for _, page in written(opened("log.trace"))] == [9]
    assert len(Trace.open("log.trace").epochs) == 1
    Path("kmem.txt").write_text("".join(printed_by("free-list.bt")))
    said(capsys, "import", "kmem", "kmem.txt", "-o", "kmem.trace", "--block", "ram:0:2048")
    rows = [(p, n, free) for rows in Trace.open("kmem.trace").rows("freelist")
            for p, n, free in zip(rows.page, rows.count, rows.free, strict=True)]  # fmt: skip
    assert len(rows) == 3
