"""Where in a user's own code something went wrong, in one line."""

from __future__ import annotations

import importlib
import linecache
import traceback
from pathlib import Path

from tracer.errors import DirtylogError

#: The folder that holds our packages.
_OURS = Path(__file__).parents[2]
_PACKAGES = tuple(str(_OURS / name) + "/" for name in ("tracer", "replay", "analyses"))
#: Python's own import machinery, which stands between an entry point and its code.
_IMPORT = str(Path(importlib.__file__).parent) + "/"
#: Its newer copy, which takes over wherever a package has imported it.
_BACKPORT = "importlib_metadata"
_LONGEST = 200


def blame(error: BaseException, file: str, otherwise: str) -> str:
    """Return `FILE:LINE in FUNCTION: what went wrong; the line reads ...`.

    file: the user's file as its code objects name it. The last line of it that was running is
    named, or else the last one that is not ours. otherwise: what to say instead of a line where
    there is none.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        text = error.text or linecache.getline(error.filename, error.lineno)
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}{_reads(text)}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename == file] or [
        frame for frame in frames if not _is_machinery(frame.filename)
    ]
    if not theirs:
        return f"{otherwise}: {_what(error)}"
    last = theirs[-1]
    inside = "" if last.name == "<module>" else f" in {last.name}"
    return f"{last.filename}:{last.lineno}{inside}: {_what(error)}{_reads(last.line)}"


def _is_machinery(file: str) -> bool:
    """Whether a file is ours, or Python's."""
    return file.startswith((*_PACKAGES, _IMPORT, "<")) or Path(file).parent.name == _BACKPORT


def shown(answer: object) -> str:
    """Return what was answered, on one short line."""
    try:
        text = repr(answer)
    except Exception:
        text = f"a {type(answer).__name__}"
    return _short(text)


def _what(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    if isinstance(error, DirtylogError):
        return text
    return f"{type(error).__name__}: {_short(text)}" if text else type(error).__name__


def _reads(line: str | None) -> str:
    return f"; the line reads `{_short(line.strip())}`" if line and line.strip() else ""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
