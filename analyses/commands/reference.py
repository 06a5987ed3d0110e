"""The reference of the command line in Markdown, made from the commands themselves.

`python -m analyses.commands.reference` prints it, and COMMANDS.md is that word for word; with
`--list` it prints the README's line for each command.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from analyses.commands import command_line

#: The page that holds the reference, beside the README.
PAGE = "COMMANDS.md"


def markdown() -> str:
    """Return the page with every command, its arguments and options."""
    head = "# Commands\n\nWhat `dirtylog COMMAND --help` says, of all commands.\n"
    sections = (line for path, command in _commands() for line in _command(command, path))
    return "\n".join([head, *sections]).rstrip() + "\n"


def listing() -> str:
    """Return the section "Commands" of the README: a line for each, with a link to the page."""
    lines = ["## Commands\n", f"[{PAGE}]({PAGE}) has their arguments and options.\n"]
    lines += ["| command | what it does |", "|---|---|"]
    for path, command in _commands():
        first = " ".join(inspect.cleandoc(command.help).partition("\n\n")[0].split())
        lines.append(f"| [`{path}`]({PAGE}#{path.replace(' ', '-')}) | {first} |")
    return "\n".join(lines) + "\n"


def _commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with the words that call it."""
    waiting = [("dirtylog", typer.main.get_command(command_line()))]
    while waiting:
        path, command = waiting.pop(0)
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path, command
        else:
            waiting[:0] = [(f"{path} {name}", one) for name, one in inner.items()]


def _command(command: Any, path: str) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    yield f"## {path}\n"
    yield f"`{' '.join([path, *(_argument(p) for p in arguments), '[OPTIONS]'])}`\n"
    yield inspect.cleandoc(command.help) + "\n"
    yield "| argument or option | meaning | default |"
    yield "|---|---|---|"
    for parameter in (*arguments, *options):
        names = _argument(parameter) if parameter in arguments else _option(parameter)
        cells = (f"`{names}`", parameter.help, _default(parameter))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _argument(parameter: Any) -> str:
    return f"{parameter.metavar}..." if parameter.nargs == -1 else str(parameter.metavar)


def _option(parameter: Any) -> str:
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        return " / ".join([names, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {parameter.metavar}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    value = parameter.default
    if isinstance(value, bool):
        if not parameter.secondary_opts:
            return ""
        return f"`{(parameter.opts if value else parameter.secondary_opts)[0]}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


if __name__ == "__main__":
    from analyses.render.terminal import emit

    emit(listing() if sys.argv[1:] == ["--list"] else markdown())
