"""QEMU's trace events, as far as a recorded migration needs them, turned on and off over QMP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tracer.errors import RecordError, UsageError
from tracer.recorders.log_file import LogFile
from tracer.recorders.qmp import Monitor, Refused

#: Without these there is nothing to import.
_NEEDED = ("migration_bitmap_sync_start", "migration_bitmap_sync_end", "ram_save_page")
#: Which pages were written: by a vCPU of TCG, by one of KVM with a dirty ring.
_TCG_WRITES = ("memory_notdirty_write_access",)
_KVM_WRITES = ("kvm_dirty_ring_page", "kvm_dirty_ring_reap")
#: Good to have. `kvm_set_user_memory` tells where KVM's slots lie, when a migration turns their log
#: on. Looks at what is pending have other names from 8.0 on, and again from 11; `cpu_throttle_set`
#: says from 10 on to how much.
_OPTIONAL = (
    "kvm_set_user_memory",
    "migration_bitmap_clear_dirty",
    "migration_throttle",
    "migrate_pending",
    "migrate_pending_estimate",
    "migrate_pending_exact",
    "qemu_savevm_query_pending",
    "cpu_throttle_set",
    "migration_completion_vm_stop",
)
_STAMPED = re.compile(rb"\d+@\d+\.\d{6}:|\d{4}-\d\d-\d\dT")
_BARE = re.compile(rb"^(?:%s)" % "|".join((*_NEEDED, *_TCG_WRITES, *_KVM_WRITES)).encode(), re.M)
_HEAD = 1 << 14
#: A log that is empty this long (s) after the migration began stays empty.
_SILENCE = 5.0


class Tracing:
    """The events of a recording; only those that were off before are turned off again.

    log: where QEMU is to log. file: the same, of a QEMU whose log is turned back in the end.
    """

    def __init__(self, monitor: Monitor, log: Path, file: LogFile | None = None):
        self._monitor, self._log, self._file = monitor, log, file
        self._turned: list[str] = []
        self.names: list[str] = []

    async def start(self, command: Sequence[str] = ()) -> None:
        """Let QEMU log the events to the file; raises RecordError where it cannot.

        `command`, where it is known, is its command line; raises UsageError if that does not do.
        """
        kvm = await self._monitor.attempt("query-kvm") or {}
        if kvm.get("enabled") and command and "dirty-ring-size=" not in " ".join(command):
            raise UsageError(
                "KVM tells QEMU of no single write unless it has a dirty ring; launch the guest "
                "with -accel kvm,dirty-ring-size=4096 or with -accel tcg"
            )
        writes = _KVM_WRITES if kvm.get("enabled") else _TCG_WRITES
        found: list[str] = []
        for name in (*_NEEDED, *writes, *_OPTIONAL):
            states = await self._monitor.attempt("trace-event-get-state", {"name": name}) or []
            state = states[0]["state"] if states else "unavailable"
            if state == "unavailable" and name not in _OPTIONAL:
                raise RecordError(
                    f"this QEMU has no trace event {name}; use one that was built with the log "
                    "trace backend"
                )
            if state != "unavailable":
                self.names.append(name)
            if state == "disabled":
                found.append(name)
        if self._file is not None:
            await self._file.turn()
        else:
            await self._log_there()
        self._turned = list(self.names) if self._file is not None and self._file.orphaned else found
        for name in self._turned:
            await self._switch(name, on=True)

    async def _log_there(self) -> None:
        try:
            await self._monitor.say(f'logfile "{self._log}"')
        except Refused as error:
            raise UsageError(
                f"{self._log}: QEMU cannot write its log there ({error}); --qemu-log names another "
                "place"
            ) from None

    async def stop(self) -> list[str]:
        """Turn the events off that `start` turned on, and the log back; return what could not be.

        Raises RecordError where QEMU has gone.
        """
        while self._turned:
            await self._switch(self._turned.pop(), on=False)
        if self._file is None:
            return []
        await self._file.give_back(self._monitor)
        return self._file.told

    async def _switch(self, name: str, *, on: bool) -> None:
        await self._monitor.do("trace-event-set-state", {"name": name, "enable": on})

    def check(self, seconds: float) -> bool:
        """Return whether the log has begun, `seconds` after the migration did.

        Raises UsageError if its lines have no time, RecordError if it stays empty too long.
        """
        try:
            with self._log.open("rb") as file:
                head = file.read(_HEAD)
        except FileNotFoundError:
            head = b""
        except OSError as error:
            raise RecordError(
                f"{self._log}: QEMU's log cannot be read ({error.strerror})"
            ) from None
        if _BARE.search(head) and not _STAMPED.search(head):
            raise UsageError(
                f"{self._log}: QEMU's trace log has no times; start it with -msg timestamp=on"
            )
        if not head and seconds > _SILENCE:
            raise RecordError(
                f"{self._log}: QEMU writes no trace log; was it built with that backend?"
            )
        return _STAMPED.search(head) is not None
