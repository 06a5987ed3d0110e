"""Synthetic guests: seeded traces whose every write, free page and zero page is known."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tracer.errors import UsageError
from tracer.synth.kinds.base import Common

#: The kinds, by name; each is a module with `Options` and `build`.
KINDS = (
    "hot-cold",
    "zipf",
    "sweep",
    "phases",
    "churn",
    "kernel-build",
    "java",
    "idle",
    "boot",
    "race",
)


def options_of(kind: str) -> type[Common]:
    """Return the class of a kind's options; raises UsageError for a kind that there is not."""
    options: type[Common] = _module(kind).Options
    return options


def builder_of(kind: str) -> Callable[..., Any]:
    """Return what lays a kind of guest out, for `tracer.synth.make.make`."""
    build: Callable[..., Any] = _module(kind).build
    return build


def _module(kind: str) -> Any:
    if kind not in KINDS:
        raise UsageError(f"no kind of guest is named {kind!r}; one of {', '.join(KINDS)}")
    return import_module(f"tracer.synth.kinds.{kind.replace('-', '_')}")
