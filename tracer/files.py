"""Outputs that appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import errno
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracer.errors import DirtylogError, UsageError


def check_free(path: Path, *, force: bool) -> None:
    """Raise UsageError if no directory may be put at `path`: it exists and not `force`."""
    try:
        there, folder = path.exists(), path.is_dir()
        file = next((parent for parent in path.parents if parent.exists()), path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    if there and not force:
        raise UsageError(f"{path}: exists; choose another name or pass --force to replace it")
    if there and not folder:
        raise UsageError(f"{path}: is a file and will not be replaced by a directory")
    if not file.is_dir():
        raise UsageError(f"{path}: cannot be written here ({file} is no folder)")


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk is full."""
    number = f"[errno {errno.ENOSPC}]"  # Arrow's have it in their text alone
    return isinstance(error, OSError) and (error.errno == errno.ENOSPC or number in str(error))


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path}: cannot be written here ({error.strerror})")


@contextmanager
def whole_directory(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary directory beside `path` that becomes `path` if the block succeeds.

    Raises UsageError if `path` exists and not `force`, or if it cannot be made; an existing
    directory stays as it is until the new one is complete. Raises DirtylogError for a full disk.
    """
    check_free(path, force=force)
    temporary = path.parent / f".{path.name}-{secrets.token_hex(4)}"
    try:
        # Made inside the `try`, so that an interrupt at any moment finds someone to remove it.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        except OSError as error:
            raise _unwritable(path, error) from None
        yield temporary
        if path.exists():
            # Two renames, so that a crash between them leaves the old directory beside the new.
            old = temporary.with_name(temporary.name + "-old")
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
    except OSError as error:
        if not is_full(error):
            raise
        raise DirtylogError(
            f"{path}: No space left on device, or for temporary files in {tempfile.gettempdir()} "
            "(TMPDIR names another folder); nothing was written"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that becomes `path` if the block succeeds.

    Raises UsageError where nothing can be written.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; name a file")
    temporary = path.parent / f".{path.name}-{secrets.token_hex(4)}"
    try:
        try:
            temporary.touch()
        except OSError as error:
            raise _unwritable(path, error) from None
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
