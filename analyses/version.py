"""The version of the installed project."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """Return the version that is installed, or say that a checkout runs."""
    try:
        return installed("dirtylog")
    except PackageNotFoundError:
        return "unknown (run from a checkout, not installed)"
