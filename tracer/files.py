"""Outputs that appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracer.errors import UsageError


def check_free(path: Path, *, force: bool) -> None:
    """Raise UsageError if no directory may be put at `path`: it exists and not `force`."""
    if path.exists() and not force:
        raise UsageError(f"{path}: exists; choose another name or pass --force to replace it")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file and will not be replaced by a directory")


@contextmanager
def whole_directory(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary directory beside `path` that becomes `path` if the block succeeds.

    Raises UsageError if `path` exists and not `force`, or if it cannot be made; an existing
    directory stays as it is until the new one is complete.
    """
    check_free(path, force=force)
    temporary = path.parent / f".{path.name}-{secrets.token_hex(4)}"
    try:
        # Made inside the `try`, so that an interrupt at any moment finds someone to remove it.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        except OSError as error:
            raise UsageError(f"{path}: cannot be written here ({error.strerror})") from None
        yield temporary
        if path.exists():
            # Two renames, so that a crash between them leaves the old directory beside the new.
            old = temporary.with_name(temporary.name + "-old")
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
