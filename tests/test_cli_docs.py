"""What the README says of the command line is what the command line says of itself."""

from __future__ import annotations

from pathlib import Path

from analyses.commands.reference import markdown
from tests.test_cli import COMMANDS

README = Path(__file__).parent.parent / "README.md"


def test_the_reference_names_every_command_and_option():
    told = markdown()
    for path, command in COMMANDS:
        assert f"### dirtylog {' '.join(path)}\n" in told
        for parameter in command.params:
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert name in told or parameter.metavar in told
            assert parameter.help in told


def test_the_readme_holds_the_reference_word_for_word():
    assert markdown() in README.read_text(encoding="utf-8"), (
        "README.md is behind: put the output of `python -m analyses.commands.reference` into it"
    )
