"""The closed choices of the command line, without importing what they choose from."""

from __future__ import annotations

from enum import StrEnum


def metavar(choices: type[StrEnum]) -> str:
    """Return the choices as help shows them."""
    return "|".join(choices)


class Profile(StrEnum):
    """Loop profiles."""

    rounds = "rounds"
    qemu = "qemu"


class LogMode(StrEnum):
    """How the dirty log is cleared."""

    legacy = "legacy"
    manual = "manual"


class GuestHold(StrEnum):
    """How long the guest keeps off the pages that it has reported."""

    auto = "auto"
    none = "none"
    ack = "ack"
    done = "done"


class AtEnd(StrEnum):
    """What a replay does when the trace is exhausted."""

    stop = "stop"
    loop = "loop"


class RequestAxis(StrEnum):
    """When the host asks for a report."""

    once = "once"
    every_sync = "every-sync"
    periodic = "periodic"
    resubmit = "resubmit"


class Compression(StrEnum):
    """How a trace's files are compressed."""

    none = "none"
    lz4 = "lz4"
    zstd = "zstd"


class KvmDemo(StrEnum):
    """Guest programs of `record kvm`."""

    sweep = "sweep"
    hot = "hot"
    scatter = "scatter"


class KvmLog(StrEnum):
    """KVM's dirty logs."""

    bitmap = "bitmap"
    manual = "manual"
    ring = "ring"


class ProcessMethod(StrEnum):
    """How `record process` tells which pages were written."""

    auto = "auto"
    protect = "protect"
    soft_dirty = "soft-dirty"
