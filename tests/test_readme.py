"""What the README shows is what the program prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from analyses.commands import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPORT = re.compile(r"<!-- report: ([^\n]*) -->\n```text\n(.*?)```", re.DOTALL)


def test_the_report_is_the_programs(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    shown = REPORT.findall(README)
    assert shown
    for command, text in shown:
        done = CliRunner().invoke(app, shlex.split(command))
        assert done.exit_code == 0, done.output
        assert done.stdout == text


def test_its_set_up_lines_name_nothing_that_is_not_there():
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(lines) == 2
    for trace in re.findall(r"sample_traces/\S+\.trace", README):
        assert (ROOT / trace / "meta.json").exists(), trace
