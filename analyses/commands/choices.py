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


class GuestArch(StrEnum):
    """Processors of Firecracker's guests."""

    x86_64 = "x86_64"
    aarch64 = "aarch64"


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
    continue_ = "continue"


class RequestAxis(StrEnum):
    """When the host asks for a report."""

    once = "once"
    every_sync = "every-sync"
    periodic = "periodic"
    resubmit = "resubmit"


class Varied(StrEnum):
    """What hazards varies."""

    report_delay = "report-delay"
    request_delay = "request-delay"
    handle_delay = "handle-delay"
    bandwidth = "bandwidth"


class Compression(StrEnum):
    """How a trace's files are compressed."""

    none = "none"
    lz4 = "lz4"
    zstd = "zstd"


class Kind(StrEnum):
    """Kinds of synthetic guests."""

    hot_cold = "hot-cold"
    zipf = "zipf"
    sweep = "sweep"
    phases = "phases"
    churn = "churn"
    kernel_build = "kernel-build"
    java = "java"
    idle = "idle"
    boot = "boot"
    race = "race"


class Plant(StrEnum):
    """How a planted race loses a write."""

    straddle = "straddle"
    uncleared = "uncleared"


class Resolution(StrEnum):
    """What a recording knows of the writes."""

    write = "write"
    first_write = "first-write"
    epoch = "epoch"


class FreeList(StrEnum):
    """What a recording knows of the free list."""

    event = "event"
    sampled = "sampled"


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
