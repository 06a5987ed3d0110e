"""The command line: `dirtylog`, one thin module for each command.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from analyses.commands.interrupts import end_by_signals

#: Set it to see the traceback of an error that is not the user's.
TRACEBACK = "DIRTYLOG_TRACEBACK"

#: What typer raises for a command line that does not fit. Its root moved between versions.
_UsageErrors = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

_SETTINGS = {"help_option_names": ["-h", "--help"]}

#: Where each command is: a module of this package and its function. The order is the help's.
_COMMANDS = {
    "replay": "replay:replay",
    "sweep": "sweep:sweep",
    "explain": "explain:explain",
    "info": "info:info",
    "prove": "prove:prove",
    "conform": "conform:conform",
    "hazards": "hazards:hazards",
    "repair": "repair:repair",
    "accuracy": "accuracy:accuracy",
    "line": "line:line",
    "import qemu": "importing:import_qemu",
    "import simpletrace": "import_events:import_simpletrace",
    "import ftrace": "import_events:import_ftrace",
    "import kmem": "import_events:import_kmem",
    "import bitmaps": "import_images:import_bitmaps",
    "import firecracker": "import_images:import_firecracker",
    "import criu": "import_images:import_criu",
    "import page-ranges": "import_images:import_page_ranges",
    "import lackey": "import_events:import_lackey",
    "import programs": "programs:programs",
    "synth": "synth:synth",
    "record migration": "recording:record_migration",
    "record sampler": "recording:sampler",
    "record kvm": "record_kvm:record_kvm",
    "record process": "record_process:record_process",
    "record qemu": "record_qemu:record_qemu",
    "strategies": "strategies:strategies",
}
_GROUPS = {
    "import": "Turn a foreign recording into a trace.",
    "record": "Record a running guest.",
}
_TEXT = "Replay live-migration strategies over traces of dirty pages and free lists."


def command_line(arguments: Sequence[str] = ()) -> typer.Typer:
    """Return the command line: with all commands, or with the one that `arguments` begin with.

    Reading the options of all commands takes longer than many a replay.
    """
    asked = {" ".join(arguments[:words]) for words in (1, 2)} & _COMMANDS.keys()
    app = _app(_TEXT)
    app.callback(epilog=_EXIT_CODES)(_top)
    groups: dict[str, typer.Typer] = {}
    for command, place in _COMMANDS.items():
        if asked and command not in asked:
            continue
        group, _, name = command.rpartition(" ")
        if group and group not in groups:
            groups[group] = _app(_GROUPS[group])
            app.add_typer(groups[group], name=group)
        module, function = place.split(":")
        found = getattr(import_module(f"analyses.commands.{module}"), function)
        groups.get(group, app).command(name, context_settings=_SETTINGS)(found)
    return app


def _app(text: str) -> typer.Typer:
    return typer.Typer(
        help=text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings=_SETTINGS,
    )


def _version(wanted: bool) -> None:
    if wanted:
        from analyses.version import version  # noqa: PLC0415 - importlib.metadata is slow

        typer.echo(f"dirtylog {version()}")
        raise typer.Exit


_EXIT_CODES = (
    "Exit codes: 0 done, 1 an error of dirtylog or the system, 2 a request that does not fit, 3 a "
    "trace or recording that is missing or corrupt, 4 a trace of an unknown version, 5 an "
    "asked-for check that failed, 130 stopped by Ctrl-C."
)


def _top(
    _asked: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and exit with the code that the result asks for."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no error
            stream.reconfigure(errors="replace")
    # So that what was begun beside an output is removed.
    end_by_signals()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
        # Python flushes again when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code.

    The only place where errors end: each becomes one line on stderr.
    """
    try:
        command = typer.main.get_command(command_line(arguments))
        code = command.main(list(arguments), prog_name="dirtylog", standalone_mode=False)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _end(error)
    return code if isinstance(code, int) else 0


def _end(error: Exception) -> int:
    from analyses.render.terminal import ClosedPipe  # noqa: PLC0415 - only when something is wrong
    from tracer.errors import DirtylogError  # noqa: PLC0415

    if isinstance(error, ClosedPipe):
        # Python flushes again when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    if isinstance(error, DirtylogError):
        return _say(str(error), error.exit_code)
    if isinstance(error, _UsageErrors):
        return _usage(error)
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        raise error
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}", 1)
    if isinstance(error, MemoryError):
        return _say("out of memory", 1)
    return _say(
        f"this should not happen: {type(error).__name__}: {error}; please report it with what "
        f"{TRACEBACK}=1 shows",
        1,
    )


def _usage(error: Exception) -> int:
    """Say what does not fit; a command line without a command gets the help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        typer.echo(context.get_help(), err=True)
        return 2
    path = context.command_path if context is not None else "dirtylog"
    message = error.format_message()  # type: ignore[attr-defined]
    message = message.replace(": Value error, ", ": ")  # pydantic's, in newer versions of typer
    return _say(f"{message.rstrip('.')}; see {path} --help", 2)


def _say(message: str, code: int) -> int:
    from analyses.render.text import plain  # noqa: PLC0415

    typer.echo(f"dirtylog: error: {plain(message)}", err=True)
    return code
