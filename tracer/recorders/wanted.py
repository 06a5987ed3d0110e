"""What a recorded migration shall be, and what is told of it while it goes on and in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracer.errors import UsageError
from tracer.recorders.freelist import PORTS, check_source
from tracer.recorders.launch import check_command


@dataclass(frozen=True)
class Wanted:
    """What to record: a QEMU to launch (`command`) or one that runs (`qmp`), and the migration.

    to: `nowhere` throws the pages away, `second` starts a second QEMU here, else a URI; parameters:
    of migrate-set-parameters, texts take the type that QEMU has; freelist: `virtio` or `serial`
    (a port that a launched guest gets), `unix:PATH` or `exec:COMMAND`; start_when: a line on the
    console has this in it; start_after_s: later than that; qemu_log: where QEMU writes its log if
    it may not write into the folder.
    """

    command: tuple[str, ...] = ()
    qmp: Path | None = None
    to: str = "nowhere"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    freelist: str | None = None
    free_page_hint: bool = False
    start_when: str | None = None
    start_after_s: float = 0.0
    cancel_after_s: float | None = None
    qemu_log: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.qmp):
            raise UsageError("name a QEMU: either its command line behind --, or --qmp SOCKET")
        check_command(self.command)
        if self.freelist is not None:
            check_source(self.freelist)
        if not self.command:
            launched = {
                "--to second": self.to == "second",
                "--start-when": self.start_when is not None,
                f"--freelist {self.freelist}": self.freelist in PORTS,
            }
            for option in (name for name, given in launched.items() if given):
                raise UsageError(f"{option} needs a QEMU that dirtylog launches")
        if self.qemu_log is not None and self.qemu_log.exists():
            raise UsageError(f"{self.qemu_log}: exists; name a file for QEMU to make")


@dataclass(frozen=True)
class Stage:
    """Where a recording is: what is done now, for how long (s), QEMU's last answer, samples."""

    what: str
    seconds: float
    answer: Mapping[str, Any]
    samples: int


@dataclass(frozen=True)
class Ending:
    """How a recorded migration ended: QEMU's status, after how long (s), and its last answer.

    left: what of a QEMU that was running could not be put back as it was, as sentences.
    """

    status: str
    seconds: float
    answer: Mapping[str, Any]
    left: tuple[str, ...] = ()
