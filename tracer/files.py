"""Outputs that appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracer.errors import UsageError


@contextmanager
def whole_directory(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary directory beside `path` that becomes `path` if the block succeeds.

    Raises UsageError if `path` exists and not `force`, or if it cannot be made; an existing
    directory stays as it is until the new one is complete.
    """
    if path.exists() and not force:
        raise UsageError(f"{path}: exists; choose another name or pass --force to replace it")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file and will not be replaced by a directory")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written here ({error.strerror})") from None
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        if path.exists():
            # Two renames, so that a crash between them leaves the old directory beside the new.
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
