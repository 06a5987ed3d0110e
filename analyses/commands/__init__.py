"""The command line: `dirtylog`, one thin module for each command.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from analyses.commands.accuracy import accuracy
from analyses.commands.conform import conform
from analyses.commands.explain import explain
from analyses.commands.hazards import hazards
from analyses.commands.import_events import (
    import_ftrace,
    import_kmem,
    import_lackey,
    import_simpletrace,
)
from analyses.commands.import_images import (
    import_bitmaps,
    import_criu,
    import_firecracker,
    import_page_ranges,
)
from analyses.commands.importing import import_qemu
from analyses.commands.info import info
from analyses.commands.line import line
from analyses.commands.programs import programs
from analyses.commands.prove import prove
from analyses.commands.record_kvm import record_kvm
from analyses.commands.record_process import record_process
from analyses.commands.record_qemu import record_qemu
from analyses.commands.recording import record_migration, sampler
from analyses.commands.repair import repair
from analyses.commands.replay import replay
from analyses.commands.strategies import strategies
from analyses.commands.sweep import sweep
from analyses.commands.synth import synth

#: Set it to see the traceback of an error that is not the user's.
TRACEBACK = "DIRTYLOG_TRACEBACK"

#: What typer raises for a command line that does not fit. Its root moved between versions.
_UsageErrors = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

_SETTINGS = {"help_option_names": ["-h", "--help"]}


def _app(text: str) -> typer.Typer:
    return typer.Typer(
        help=text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings=_SETTINGS,
    )


app = _app("Replay live-migration strategies over traces of dirty pages and free lists.")
app.command("replay", context_settings=_SETTINGS)(replay)
app.command("sweep", context_settings=_SETTINGS)(sweep)
app.command("explain", context_settings=_SETTINGS)(explain)
app.command("info", context_settings=_SETTINGS)(info)
app.command("prove", context_settings=_SETTINGS)(prove)
app.command("conform", context_settings=_SETTINGS)(conform)
app.command("hazards", context_settings=_SETTINGS)(hazards)
app.command("repair", context_settings=_SETTINGS)(repair)
app.command("accuracy", context_settings=_SETTINGS)(accuracy)
app.command("line", context_settings=_SETTINGS)(line)
_importers = _app("Turn a foreign recording into a trace.")
_importers.command("qemu", context_settings=_SETTINGS)(import_qemu)
_importers.command("simpletrace", context_settings=_SETTINGS)(import_simpletrace)
_importers.command("ftrace", context_settings=_SETTINGS)(import_ftrace)
_importers.command("kmem", context_settings=_SETTINGS)(import_kmem)
_importers.command("bitmaps", context_settings=_SETTINGS)(import_bitmaps)
_importers.command("firecracker", context_settings=_SETTINGS)(import_firecracker)
_importers.command("criu", context_settings=_SETTINGS)(import_criu)
_importers.command("page-ranges", context_settings=_SETTINGS)(import_page_ranges)
_importers.command("lackey", context_settings=_SETTINGS)(import_lackey)
_importers.command("programs", context_settings=_SETTINGS)(programs)
app.add_typer(_importers, name="import")
app.command("synth", context_settings=_SETTINGS)(synth)
_recorders = _app("Record a running guest.")
_recorders.command("migration", context_settings=_SETTINGS)(record_migration)
_recorders.command("sampler", context_settings=_SETTINGS)(sampler)
_recorders.command("kvm", context_settings=_SETTINGS)(record_kvm)
_recorders.command("process", context_settings=_SETTINGS)(record_process)
_recorders.command("qemu", context_settings=_SETTINGS)(record_qemu)
app.add_typer(_recorders, name="record")
app.command("strategies", context_settings=_SETTINGS)(strategies)


def _version(wanted: bool) -> None:
    if wanted:
        from analyses.version import version  # noqa: PLC0415 - importlib.metadata is slow

        typer.echo(f"dirtylog {version()}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 done, 1 an error of dirtylog or the system, 2 a request that does not "
    "fit, 3 a trace or recording that is missing or corrupt, 4 a trace of an unknown version, 5 an "
    "asked-for check that failed."
)
def _top(
    _asked: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Replay live-migration strategies over traces of dirty pages and free lists."""


def main() -> NoReturn:
    """Run the command line and exit with the code that the result asks for."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no error
            stream.reconfigure(errors="replace")
    # So that what was begun beside an output is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
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
        command = typer.main.get_command(app)
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
