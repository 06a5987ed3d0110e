"""What is written of the command line is what the command line says of itself."""

from __future__ import annotations

import re
from pathlib import Path

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
