"""The reference of the command line in Markdown, made from the commands themselves.

`python -m analyses.commands.reference` prints it; the README holds it word for word.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from analyses.commands import app


def markdown() -> str:
    """Return the section "Commands" of the README."""
    command = typer.main.get_command(app)
    return "## Commands\n\n" + "\n".join(_section(command, "dirtylog")).rstrip() + "\n"


def _section(command: Any, path: str) -> Iterator[str]:
    commands = getattr(command, "commands", None)
    if commands is None:
        yield from _command(command, path)
        return
    for name, inner in commands.items():
        yield from _section(inner, f"{path} {name}")


def _command(command: Any, path: str) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    yield f"### {path}\n"
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

    emit(markdown())
