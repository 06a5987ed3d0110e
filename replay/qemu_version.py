"""What profile `qemu` does differently from one version of QEMU to another.

Each is a fact of QEMU's source or of the patch that made it so (ARCHITECTURE.md, "Profile qemu
against QEMU's source").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracer.errors import UsageError

_SHAPE = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\D.*|$)", re.ASCII)


@dataclass(frozen=True, order=True)
class QemuVersion:
    """A version of QEMU, such as 7.2; what follows its second number changes nothing here."""

    major: int = 7
    minor: int = 2

    @classmethod
    def parse(cls, text: str) -> QemuVersion:
        """Return the version that a text such as 10.0 or 11.1.3 names; raises UsageError."""
        found = _SHAPE.fullmatch(text.strip())
        if found is None:
            raise UsageError(f"QEMU's version {text!r}: wanted one like 7.2 or 10.0")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def counts_when_flushed(self) -> bool:
        """Whether bytes count when they are flushed, not when they are put.

        They are those of the whole stream then, for ram.transferred and auto-converge's trigger too
        (8.2: migration_transferred_bytes).
        """
        return self >= QemuVersion(8, 2)

    @property
    def takes_switchover_bandwidth(self) -> bool:
        """Whether there is a parameter avail-switchover-bandwidth.

        (8.2: migration_update_counters.)
        """
        return self >= WITH_SWITCHOVER_BANDWIDTH

    @property
    def sleeps_out(self) -> bool:
        """Whether a vCPU that dirty-limit sent to sleep does not wake when it is kicked.

        (8.2: dirtylimit_vcpu_execute, g_usleep where there was usleep.)
        """
        return self >= QemuVersion(8, 2)

    @property
    def syncs_by_timer(self) -> bool:
        """Whether auto-converge syncs by a timer too (9.2: cpu_throttle_dirty_sync_timer_tick)."""
        return self >= QemuVersion(9, 2)

    @property
    def stops_at_threshold(self) -> bool:
        """Whether just as much as the threshold may be pending at the stop.

        (10.1: migration_iteration_run, complete_ready.)
        """
        return self >= QemuVersion(10, 1)

    @property
    def syncs_at_threshold(self) -> bool:
        """Whether just as much as the threshold calls for the sync before the stop too.

        (11.1, "Fix low possibility downtime violation".)
        """
        return self >= QemuVersion(11, 1)


#: The version that the profile was made from, and takes where none is named or recorded.
USUAL = QemuVersion()
#: The first that has avail-switchover-bandwidth.
WITH_SWITCHOVER_BANDWIDTH = QemuVersion(8, 2)
#: The newest whose migrations it was compared with.
NEWEST = QemuVersion(11, 1)
#: The first with the capability dirty-limit. (The command set-vcpu-dirty-limit is older: 7.1.)
DIRTY_LIMIT = QemuVersion(8, 1)


@dataclass(frozen=True)
class Loop:
    """Whose loop a replay takes, and why, in words (nothing where the user named it)."""

    version: QemuVersion
    why: str

    def __str__(self) -> str:
        return f"QEMU {self.version}" + (f" ({self.why})" if self.why else "")


def recorded_version(source: Mapping[str, Any]) -> QemuVersion | None:
    """Return the version of QEMU that a trace's source says recorded it, None without one."""
    try:
        return QemuVersion.parse(str(source.get("qemu", "")))
    except UsageError:
        return None


def loop_of(
    source: Mapping[str, Any],
    named: QemuVersion | None = None,
    *,
    dirty_limit: bool = False,
    switchover: bool = False,
) -> Loop:
    """Return the loop that was named, else that of the version that recorded a trace.

    source: of the trace's header. Of a version whose loop is not known, or that lacks what is
    asked for (dirty_limit, switchover: avail-switchover-bandwidth), it is the nearest.
    """
    if named is not None:
        return Loop(named, "")
    recorded = recorded_version(source)
    version = min(max(recorded or USUAL, USUAL), NEWEST)
    if switchover and version < WITH_SWITCHOVER_BANDWIDTH:
        return Loop(WITH_SWITCHOVER_BANDWIDTH, "the first with avail-switchover-bandwidth")
    if dirty_limit and version < DIRTY_LIMIT:
        return Loop(DIRTY_LIMIT, "the first with dirty-limit")
    if recorded is None:
        return Loop(version, "none is recorded")
    return Loop(version, "as recorded" if version == recorded else f"recorded: {recorded}")
