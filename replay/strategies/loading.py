"""Strategies that users bring along: a Python file, or an installed entry point.

What is named there is a `Strategy`, or a policy (a class or an object): an accept policy is
composed with `once`, a request policy with `tagged`, and all else is as in `Strategy` by default.
Loading a file runs it, with the rights of whoever loads it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import xxhash

from replay.policies import Accept, Once, Policy, Request, Tagged
from replay.policies.blame import blame, shown
from replay.policies.guard import asking_again, guarded_accept, guarded_request
from replay.strategies.base import Strategy
from tracer.errors import PolicyError, UsageError

ENTRY_POINTS = "dirtylog.strategies"
_WANTED = (
    "a Strategy, or a class derived from replay.policies.Accept or replay.policies.Request, or an "
    "object of one"
)


def names_a_file(text: str) -> bool:
    """Whether a strategy's name means a file."""
    return ":" in text or "/" in text or text.endswith(".py")


def from_file(text: str) -> Strategy:
    """Return what `FILE.py:NAME` names, its policies under guard.

    Raises UsageError where there is no such file or name, PolicyError with file and line where the
    user's code does not load.
    """
    file, _, name = text.rpartition(":")
    if not file or not name.isidentifier():
        file, name = text.removesuffix(":"), ""
    try:
        path = Path(file)
        source, resolved = path.read_bytes(), str(path.resolve())
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file; a strategy of your own is FILE.py:NAME") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{file}: cannot be read ({reason})") from None
    module = _executed(file, resolved, source)
    if not name or name not in vars(module):
        raise UsageError(_missing(file, name, module))
    return _own(text, name, file, module)


def installed() -> Iterator[Strategy]:
    """Yield the strategies of installed packages; raises PolicyError for one that does not load."""
    for entry in entry_points(group=ENTRY_POINTS):
        where = f"installed strategy {entry.name} ({entry.value})"
        found = _calmly(entry.load, "", "it does not load", f"{where}: ")
        compose = partial(_composed, found, entry.name, where)
        yield _calmly(compose, "", "it is no strategy", f"{where}: ")


@cache
def _own(text: str, name: str, file: str, module: ModuleType) -> Strategy:
    found = getattr(module, name)
    composed: Strategy = _calmly(partial(_composed, found, name, text), file, text)
    return replace(composed, given=text)


@cache
def _executed(file: str, resolved: str, source: bytes) -> ModuleType:
    """Run a file as a module; the same text of the same file is run once."""
    digest = xxhash.xxh3_64_hexdigest(resolved.encode() + b"\0" + source)
    module = ModuleType(f"_dirtylog_{Path(file).stem}_{digest}")
    module.__file__ = file
    # Data goes to stdout, so what a policy prints goes to stderr.
    vars(module)["print"] = _print
    sys.modules[module.__name__] = module
    # Last, so that no file of the user's own hides a module of Python's.
    folder = str(Path(resolved).parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        _calmly(partial(_execute, source, file, module), file, file)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _execute(source: bytes, file: str, module: ModuleType) -> None:
    code = compile(source, file, "exec", dont_inherit=True)
    exec(code, vars(module))  # noqa: S102 - this is what the user asks for


def _calmly(deed: Callable[[], Any], file: str, otherwise: str, before: str = "") -> Any:
    """Do what runs a user's code; what it raises becomes one line. Ctrl-C passes."""
    try:
        return deed()
    except (Exception, SystemExit) as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(before + blame(error, file, otherwise)) from error


def _composed(found: object, name: str, where: str) -> Strategy:
    """Return the strategy that a user's object stands for."""
    if isinstance(found, type) and issubclass(found, Policy):
        found = found()
    if isinstance(found, Policy):
        doc = type(found).__doc__
        about = f"{doc.strip().splitlines()[0]} ({where})" if doc and doc.strip() else where
        found = Strategy(
            name=name,
            origin=about,
            request=found if isinstance(found, Request) else Once(),
            accept=found if isinstance(found, Accept) else Tagged(),
        )
    if not isinstance(found, Strategy):
        raise PolicyError(f"{where} is {shown(found)}; wanted {_WANTED}")
    for policy in (found.request, found.accept):
        if policy is not None and (not isinstance(policy.name, str) or not policy.name.strip()):
            raise PolicyError(f"{where}: a policy's name is {shown(policy.name)}; wanted text")
    return replace(
        found,
        request=found.request and guarded_request(found.request),
        accept=found.accept and guarded_accept(found.accept),
    )


def _missing(file: str, name: str, module: ModuleType) -> str:
    names = [
        key
        for key, value in vars(module).items()
        if isinstance(value, Strategy | Policy)
        or (isinstance(value, type) and value.__module__ == module.__name__)
    ]
    if not names:
        return f"{file} defines no strategy; wanted {_WANTED}"
    if not name:
        return f"{file}: say which of its strategies, {file}:NAME with one of {', '.join(names)}"
    near = difflib.get_close_matches(name, names, n=1) or names
    return f"{file} defines no {name}; did you mean {' or '.join(near)}?"


def _print(*values: object, **how: Any) -> None:
    if not asking_again():
        print(*values, **{"file": sys.stderr, **how})  # noqa: T201 - the user's own
