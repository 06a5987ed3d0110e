"""What profile `qemu` does differently from one version of QEMU to another.

Each is a fact of QEMU's source or of the patch that made it so (ARCHITECTURE.md, "Profile qemu
against QEMU's source").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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


#: The version that the profile was made from, and takes where none is named.
USUAL = QemuVersion()
#: The newest whose migrations it was compared with.
NEWEST = QemuVersion(11, 1)
