"""What is written of the command line is what the command line says of itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from analyses.commands import command_line
from analyses.commands.reference import PAGE, listing, markdown
from tests.test_cli import COMMANDS

ROOT = Path(__file__).parent.parent


def test_the_reference_names_every_command_and_option():
    told = markdown()
    for path, command in COMMANDS:
        assert f"## dirtylog {' '.join(path)}\n" in told
        for parameter in command.params:
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert name in told or parameter.metavar in told
            assert parameter.help in told


def test_the_page_is_the_reference_word_for_word():
    assert markdown() == (ROOT / PAGE).read_text(encoding="utf-8"), (
        f"{PAGE} is behind: put the output of `python -m analyses.commands.reference` into it"
    )


def test_the_readme_lists_every_command():
    listed = listing()
    assert len(re.findall(r"^\| \[", listed, re.MULTILINE)) == len(COMMANDS)
    assert listed in (ROOT / "README.md").read_text(encoding="utf-8"), (
        "README.md is behind: put the output of `... analyses.commands.reference --list` into it"
    )
    anchors = {line[3:].replace(" ", "-") for line in markdown().splitlines() if line[:3] == "## "}
    assert set(re.findall(rf"\({PAGE}#(.*?)\)", listed)) == anchors


def test_an_option_is_declared_once():
    """What several commands have is one alias of one module."""
    declared: dict[str, list[str]] = {}
    for file in sorted((ROOT / "analyses" / "commands").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Option":
                named = any(isinstance(one, ast.Constant) for one in node.args)
                told = {one.arg: ast.unparse(one.value) for one in node.keywords}
                # Options without a name of their own have that of their parameter.
                if named or len(told) > 2:
                    declared.setdefault(ast.unparse(node), []).append(f"{file.name}:{node.lineno}")
    twice = {text: places for text, places in declared.items() if len(places) > 1}
    assert len(declared) > 60
    assert not twice


def test_the_help_names_every_exit_code():
    codes = re.findall(
        r"^\| (\d+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert "130" in codes
    told = command_line().registered_callback.epilog
    for code in codes:
        assert re.search(rf"\b{code} ", told), code
