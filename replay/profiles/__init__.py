"""Loop profiles: when a migration copies, syncs and stops. One file each, found by name."""

from __future__ import annotations

from importlib import import_module

from replay.profiles.base import Moment, Outcome, Profile, Round
from tracer.errors import UsageError

PROFILES = ("rounds", "qemu")


def profile(name: str) -> Profile:
    """Return the profile of that name; raises UsageError for an unknown one."""
    if name not in PROFILES:
        raise UsageError(f"no profile is named {name!r}; known: {', '.join(PROFILES)}")
    run: Profile = import_module(f"replay.profiles.{name}").run
    return run


__all__ = ["PROFILES", "Moment", "Outcome", "Profile", "Round", "profile"]
