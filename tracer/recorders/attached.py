"""`record qemu --qmp`: the dirty rings' pages of a running QEMU, through its monitor.

QMP itself gives rates. Pages come from the trace event `kvm_dirty_ring_page`, which the monitor
turns on, while one round of `calc-dirty-rate` after the other has the guest's writes logged: a
round's end harvests all rings. The event leaves out the memory slot; `kvm_set_user_memory` tells
where the slots lie, at the begin of each round, and the rings in QEMU's memory which slot an entry
is in. Nothing else of QEMU's names pages without a migration: under TCG no command but a migration
clears the dirty log (of what clears DIRTY_MEMORY_MIGRATION all is called by migration/ram.c, in 7.2
and in 10.2 alike), and of KVM's bitmap no event tells the pages.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tracer.errors import RecordError, UsageError
from tracer.format import Meta
from tracer.readers.blocks import Layout
from tracer.readers.qemu_slots import SlotTable
from tracer.recorders.log_file import LogFile, own_name
from tracer.recorders.qmp import Monitor, connect, need_qmp, open_socket
from tracer.recorders.ring_harvest import Harvest
from tracer.recorders.ring_log import RingLog, Tail
from tracer.recorders.ring_memory import RingMemory
from tracer.recorders.ring_source import EVENTS, INSTEAD, PAGE, check, layout_of, rings, vcpus
from tracer.recorders.session import Recorded, Session, Wanted

#: How often (s) the rings are looked at. One of 4096 entries is not filled and emptied faster.
_LOOK = 0.004
#: How long (s) a round may go on after the recording is to stop; a longer one is left to itself.
_WORTH_WAITING = 2.0
_LONGEST_ROUND = 60


def record_attached(
    wanted: Wanted, socket: Path, *, round_ns: int = 1_000_000_000, log: Path | None = None
) -> Recorded:
    """Record the QEMU at a QMP socket, an epoch a round of `round_ns`, in whole seconds.

    log: where QEMU is to write its trace log meanwhile, beside the trace else; it must be able to.
    Raises UsageError for what does not fit, a guest under TCG or without a ring among it, saying
    what does; RecordError where QEMU or the system refuses. QEMU is left as it was: its events, and
    its log.
    """
    seconds, odd = divmod(round_ns, 1_000_000_000)
    if odd or not 1 <= seconds <= _LONGEST_ROUND:
        raise UsageError(f"a round takes whole seconds, 1 to {_LONGEST_ROUND}")
    need_qmp()
    path = log.absolute() if log else own_name(wanted.out)
    return asyncio.run(_record(wanted, socket, seconds, path))


async def _record(wanted: Wanted, socket: Path, seconds: int, log: Path) -> Recorded:
    channel, pid = open_socket(socket)
    monitor = await connect(channel, socket)
    try:
        await check(monitor)
        layout, hosts = await layout_of(monitor)
        memory, why = await rings(monitor, pid)
        try:
            with Session(wanted, _meta(layout, seconds, memory is not None)) as session:
                job = _Job(monitor, session, wanted, seconds, LogFile(monitor, pid, log))
                try:
                    await job.begin(SlotTable(layout, hosts, 0), memory)
                    ended = await job.run()
                finally:
                    await job.restore(socket)
                return session.end(
                    ended,
                    [*([why] if why else []), *job.notes()],
                    gaps=job.gaps,
                    longest_gap_ns=job.longest_gap_ns,
                    slots=job.slots,
                )
        finally:
            if memory is not None:
                memory.close()
    finally:
        await monitor.close()


def _meta(layout: Layout, seconds: int, exact: bool) -> Meta:
    return Meta(
        page_size=PAGE,
        pages=layout.pages,
        duration_ns=0,
        blocks=layout.blocks,
        resolution="epoch",
        clock="host",
        source={
            "recorder": "qemu-dirty-ring",
            "accelerator": "kvm-dirty-ring",
            "round_s": seconds,
            "slots_from": "ring memory" if exact else "offsets",
            "notes": [
                "a ring has what vCPUs write: what QEMU's devices and vhost write is not there"
            ],
        },
    )


class _Job:
    """Rounds, one after the other, and what QEMU logs in them."""

    def __init__(
        self,
        monitor: Monitor,
        session: Session,
        wanted: Wanted,
        seconds: int,
        file: LogFile,
    ):
        self._monitor, self._session, self._wanted = monitor, session, wanted
        self._seconds, self._file = seconds, file
        self._turned: list[str] = []
        self._tail: Tail | None = None
        self._still = self._rounds = 0
        self._left: str | None = None
        self.gaps = self.longest_gap_ns = 0

    async def begin(self, slots: SlotTable, memory: RingMemory | None) -> None:
        """Have QEMU log the events to our file; raises RecordError where it cannot."""
        await self._file.turn()
        self._tail = Tail(self._file.path)
        self._log = RingLog(self._tail, slots)
        self._memory, self._harvest = memory, Harvest(self._log, memory)
        for name in EVENTS:
            states = await self._monitor.do("trace-event-get-state", {"name": name})
            if states[0]["state"] == "disabled" or self._file.orphaned:
                self._turned.append(name)
                await self._monitor.do("trace-event-set-state", {"name": name, "enable": True})

    async def run(self) -> str | None:
        """Make rounds until it is over; return why where the guest ended it."""
        await self._start_round()
        zero = time.monotonic_ns()
        self._session.begin(None)
        while True:
            signs = self._log.signs
            over = await self._finish_round()
            ended = time.monotonic_ns()
            if over is None:
                return await self._gone()
            self._harvest.look()
            if over and self._log.signs == signs:
                return self._silent()
            more = over and not self._wanted.over(ended - zero)
            # The next round comes first: what is written until it begins is not logged.
            began = more and await self._next_round(ended)
            if over or self._memory is not None:
                self._session.epoch(ended - zero, self._harvest.pages(pending=not over))
            if not more:
                return None
            if not began:
                return await self._gone()

    async def _next_round(self, ended: int) -> bool:
        """Begin another round; return whether QEMU was there for it."""
        try:
            await self._start_round()
        except RecordError:
            return False
        self.gaps += 1
        self.longest_gap_ns = max(self.longest_gap_ns, time.monotonic_ns() - ended)
        if self._memory is not None:
            self._memory.find(await vcpus(self._monitor))
        return True

    def _silent(self) -> str:
        """Return why nothing more comes where QEMU's log ceased; raises RecordError in round 1."""
        if self._rounds == 1:
            raise RecordError(
                f"QEMU writes no trace lines to {self._file.path}: it was built without the log "
                f"trace backend, the disk is full, or its log was turned elsewhere; {INSTEAD}"
            )
        return "QEMU logs no more: its log was turned elsewhere, or its disk is full"

    async def _start_round(self) -> None:
        try:
            await self._monitor.do(
                "calc-dirty-rate", {"calc-time": self._seconds, "mode": "dirty-ring"}
            )
        except RecordError as error:
            if "not enabled" in str(error):
                raise UsageError(
                    "this guest's KVM keeps a bitmap, of which QEMU tells no pages; start it with "
                    "-accel kvm,dirty-ring-size=4096, or use dirtylog record process --qmp"
                ) from None
            raise

    async def _finish_round(self) -> bool | None:
        """Wait for the round's end; False where it was left to itself, None where QEMU ended."""
        begin = asked = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            left = self._seconds - (now - begin)
            try:
                self._harvest.look()
            except OSError:  # its memory has gone
                return None
            if self._wanted.stop.is_set() and left > _WORTH_WAITING:
                self._left = (
                    f"QEMU goes on measuring for {left:.0f} s, and then ends that by itself"
                )
                return False
            if left > 0 or now - asked < _LOOK:
                continue
            asked = now
            try:
                status = await self._monitor.do("query-dirty-rate")
            except RecordError:
                return None
            if status["status"] == "measured":
                self._rounds += 1
                state = await self._monitor.attempt("query-status") or {}
                self._still += not state.get("running", True)
                return True

    async def _gone(self) -> str:
        """Return why QEMU does not answer any more."""
        for _ in range(20):
            if not self._file.lives():
                return "QEMU ended"
            await asyncio.sleep(0.05)
        return "the connection to QEMU's monitor broke"

    async def restore(self, socket: Path) -> None:
        """Turn the events off and QEMU's log back to where it was, by another connection if needed.

        What stays as it is goes to the notes.
        """
        if self._tail is not None:
            self._tail.close()
        try:
            await self._put_back(self._monitor)
        except RecordError:
            if not self._file.lives():
                return
            try:
                monitor = await connect(socket)
            except (RecordError, UsageError):
                self._file.told.append(
                    "QEMU's monitor is gone: the trace events stay on, and its log goes nowhere"
                )
                return
            try:
                await self._put_back(monitor)
            finally:
                await monitor.close()
        finally:
            self._file.path.unlink(missing_ok=True)

    async def _put_back(self, monitor: Monitor) -> None:
        while self._turned:
            await monitor.do("trace-event-set-state", {"name": self._turned[-1], "enable": False})
            self._turned.pop()
        await self._file.give_back(monitor)

    @property
    def slots(self) -> list[str]:
        """The memory slots that there were, as `ID:FIRST_PAGE:PAGES`."""
        return sorted(self._log.seen)

    def notes(self) -> list[str]:
        """Return what the rounds leave open."""
        counts, notes = self._harvest.counts, []
        if self.gaps:
            longest = f"{self.longest_gap_ns / 1e6:.1f} ms"
            notes.append(
                f"nothing is logged between two rounds: {self.gaps} gaps of at most {longest}"
            )
        notes += counts.notes()
        if self._still:
            notes.append(
                f"the guest stood still at the end of {self._still} of {self._rounds} rounds; the "
                "trace's clock ran on"
            )
        return [*notes, *([self._left] if self._left else []), *self._file.told]
