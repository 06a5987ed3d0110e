"""What the README shows is what the program prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from analyses.commands import command_line

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILE_OR_RUN = re.compile(
    r"<!-- (?:file: (\S+)|own: ([^\n]*) -> (\d)) -->\n```(?:python|text)\n(.*?)```", re.DOTALL
)
REPORT = re.compile(r"<!-- report: ([^\n]*) -->\n```text\n(.*?)```", re.DOTALL)


def test_the_report_is_the_programs(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    shown = REPORT.findall(README)
    assert shown
    for command, text in shown:
        done = CliRunner().invoke(command_line(), shlex.split(command))
        assert done.exit_code == 0, done.output
        assert done.stdout == text


def test_a_strategy_of_ones_own_goes_as_told(monkeypatch, tmp_path):
    """The files are written and the commands run, in the README's order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    codes = []
    for file, command, code, text in FILE_OR_RUN.findall(README):
        if file:
            (tmp_path / file).write_text(text)
            continue
        done = CliRunner().invoke(command_line(), shlex.split(command))
        found = getattr(done.exception, "exit_code", done.exit_code)
        assert (str(found), done.stdout) == (code, text)
        codes.append(code)
    assert codes == ["5", "0", "0"], "wrong, then right, then tried"


def test_its_set_up_lines_name_nothing_that_is_not_there():
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(lines) == 2
    for trace in re.findall(r"sample_traces/\S+\.trace", README):
        assert (ROOT / trace / "meta.json").exists(), trace
