"""The programs that record on a host or in a guest what the text readers read."""

from __future__ import annotations

from importlib.resources import files

from tracer.errors import UsageError

_SUFFIXES = (".bt", ".sh")


def all_programs() -> dict[str, str]:
    """Return each program's name and, in a sentence, what it records."""
    found = {}
    for file in files("tracer.readers").joinpath("host").iterdir():
        if file.name.endswith(_SUFFIXES):
            lines = [line.strip(" #*/\n") for line in file.read_text("utf-8").splitlines()[1:]]
            found[file.name] = next(line for line in lines if line)
    return dict(sorted(found.items()))


def program(name: str) -> str:
    """Return the text of a program; raises UsageError with the names there are."""
    if name not in all_programs():
        raise UsageError(f"{name!r} is no program; there are {', '.join(all_programs())}")
    return files("tracer.readers").joinpath("host", name).read_text("utf-8")
