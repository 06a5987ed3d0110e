"""`record qemu --qmp`: the dirty ring's pages of a running QEMU, through its monitor alone.

QMP itself gives rates. Pages come from the trace event `kvm_dirty_ring_page`, which the monitor
turns on, while one round of `calc-dirty-rate` after the other has the guest's writes logged: a
round's end harvests all rings. Nothing else of QEMU's names pages without a migration: under TCG
no command clears the dirty log (and a QEMU 7.2 dies of `calc-dirty-rate` in a mode that asks KVM),
and of KVM's bitmap no event tells the pages.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np

from tracer.errors import RecordError, UsageError
from tracer.format import Block, Meta
from tracer.recorders.qmp import Monitor, connect, need_qmp, open_socket
from tracer.recorders.ramblocks import RamBlock, ram_blocks, ranges_of
from tracer.recorders.session import Recorded, Session, Wanted
from tracer.rows import Int64s

PAGE = 4096
EVENT = "kvm_dirty_ring_page"
_PAGE_LINE = re.compile(rb"kvm_dirty_ring_page [^\n]*?offset 0x([0-9a-f]{1,16})\n")
_MIB = 1 << 20
#: How often (s) QEMU is asked whether a round is over, near its end.
_ASK = 0.01
_LONGEST_ROUND = 60
_INSTEAD = "record it with dirtylog record process --qmp, or with dirtylog record migration"


def record_attached(
    wanted: Wanted, socket: Path, *, round_ns: int = 1_000_000_000, log: Path | None = None
) -> Recorded:
    """Record the QEMU at a QMP socket, an epoch a round of `round_ns`, in whole seconds.

    log: where QEMU is to write its trace log meanwhile, beside the trace else; it must be able to.
    Raises RecordError where this QEMU cannot tell pages, saying what can; UsageError for what does
    not fit. QEMU is left as it was: its events, and its log.
    """
    seconds, odd = divmod(round_ns, 1_000_000_000)
    if odd or not 1 <= seconds <= _LONGEST_ROUND:
        raise UsageError(f"a round takes whole seconds, 1 to {_LONGEST_ROUND}")
    need_qmp()
    path = log or wanted.out.absolute().parent / f".{wanted.out.name}-{secrets.token_hex(4)}.log"
    return asyncio.run(_record(wanted, socket, seconds, path.absolute()))


async def _record(wanted: Wanted, socket: Path, seconds: int, log: Path) -> Recorded:
    channel, pid = open_socket(socket)
    monitor = await connect(channel, socket)
    try:
        await _check(monitor)
        ram = (await ram_blocks(monitor))[0]
        slots = _Slots(await ranges_of(monitor, ram))
        with Session(wanted, _meta(ram, seconds, slots)) as session:
            job = _Job(monitor, session, wanted, seconds, log, slots)
            try:
                await job.begin()
                ended = await job.run()
            finally:
                await job.restore(pid)
            return session.end(ended, job.notes(), gaps=job.gaps, longest_gap_ns=job.longest_gap_ns)
    finally:
        await monitor.close()


async def _check(monitor: Monitor) -> None:
    """Raise RecordError, saying why and what instead, where this QEMU cannot tell pages."""
    kvm = await monitor.attempt("query-kvm") or {}
    if not kvm.get("enabled"):
        raise RecordError(
            "this QEMU runs its guest by TCG, where only a migration clears the dirty log: "
            + _INSTEAD
        )
    states = await monitor.attempt("trace-event-get-state", {"name": EVENT}) or []
    if not states or states[0]["state"] == "unavailable":
        raise RecordError(f"this QEMU has no trace event {EVENT}: {_INSTEAD}")
    status = await monitor.attempt("query-dirty-rate") or {}
    if status.get("status") == "measuring":
        raise RecordError("somebody is measuring this QEMU's dirty rate already; wait for the end")


def _meta(ram: RamBlock, seconds: int, slots: _Slots) -> Meta:
    notes = [
        f"pages of {ram.name} alone: the event names no memory slot, and another's count as its",
    ]
    if slots.low:
        notes.append(
            "a page below 1 MiB and one of the first pages above it look alike in the trace event: "
            "both are taken as written"
        )
    return Meta(
        page_size=PAGE,
        pages=ram.size // PAGE,
        duration_ns=0,
        blocks=(Block(ram.name, 0, ram.size // PAGE),),
        resolution="epoch",
        clock="host",
        source={
            "recorder": "qemu-dirty-ring",
            "accelerator": "kvm-dirty-ring",
            "round_s": seconds,
            "notes": notes,
        },
    )


class _Slots:
    """KVM's slots of the main RAM: one that holds most of it, and small ones below 1 MiB.

    Raises RecordError where several are large: the trace event does not say which it means.
    """

    def __init__(self, ranges: Sequence[tuple[int, int, int]]):
        pages = [(offset // PAGE, (end - low) // PAGE) for low, end, offset in ranges]
        large = [slot for slot, (low, _, _) in zip(pages, ranges, strict=True) if low >= _MIB]
        if len(large) != 1:
            raise RecordError(
                f"the guest's RAM lies in {len(large)} large memory slots, and the trace event "
                f"does not say which of them a page is in: {_INSTEAD}"
            )
        self._main = large[0]
        self.low = [slot for slot in pages if slot != self._main]

    def pages(self, offsets: Int64s) -> Int64s:
        """Return the pages that offsets in a slot may mean, int64 ascending."""
        parts = [
            first + offsets[(offsets >= 0) & (offsets < count)]
            for first, count in (self._main, *self.low)
        ]
        return np.unique(np.concatenate(parts))


class _Job:
    """Rounds, one after the other, and what QEMU logs in them."""

    def __init__(
        self,
        monitor: Monitor,
        session: Session,
        wanted: Wanted,
        seconds: int,
        log: Path,
        slots: _Slots,
    ):
        self._monitor, self._session, self._wanted = monitor, session, wanted
        self._seconds, self._log, self._slots = seconds, log, slots
        self._at = 0
        self._rest = b""
        self._turned = False
        self._logging = False
        self.gaps = self.longest_gap_ns = 0

    async def begin(self) -> None:
        """Have QEMU log the event to our file; raises RecordError where it cannot."""
        try:
            self._log.touch(mode=0o666)
            self._log.chmod(0o666)  # QEMU may be another user's
        except OSError as error:
            raise UsageError(f"{self._log}: cannot be written ({error.strerror})") from None
        self._logging = True
        await self._monitor.say(f'logfile "{self._log}"')
        states = await self._monitor.do("trace-event-get-state", {"name": EVENT})
        if states[0]["state"] == "disabled":
            self._turned = True
            await self._monitor.do("trace-event-set-state", {"name": EVENT, "enable": True})

    async def run(self) -> str | None:
        """Make rounds until it is over; return why where the guest ended it."""
        zero: int | None = None
        ended = 0
        while True:
            try:
                await self._start_round()
            except RecordError:
                if zero is None:
                    raise
                return "QEMU ended"
            now = time.monotonic_ns()
            if zero is None:
                zero = now
                self._session.begin(None)
            else:
                self.gaps += 1
                self.longest_gap_ns = max(self.longest_gap_ns, now - ended)
            if not await self._finish_round():
                return "QEMU ended"
            ended = time.monotonic_ns()
            self._session.epoch(ended - zero, self._slots.pages(self._read()))
            if self._wanted.over(ended - zero):
                return None

    async def _start_round(self) -> None:
        try:
            await self._monitor.do(
                "calc-dirty-rate", {"calc-time": self._seconds, "mode": "dirty-ring"}
            )
        except RecordError as error:
            if "not enabled" in str(error):
                raise RecordError(
                    "this guest's KVM keeps a bitmap, of which QEMU tells no pages; start it with "
                    f"-accel kvm,dirty-ring-size=4096, or {_INSTEAD}"
                ) from None
            raise

    async def _finish_round(self) -> bool:
        """Wait for the round's end; return whether QEMU lived to see it."""
        await asyncio.sleep(self._seconds - 10 * _ASK)
        while True:
            try:
                status = await self._monitor.do("query-dirty-rate")
            except RecordError:
                return False
            if status["status"] == "measured":
                return True
            await asyncio.sleep(_ASK)

    def _read(self) -> Int64s:
        """Return the offsets that were logged since, and give the file's space back."""
        offsets: list[Int64s] = []
        with self._log.open("rb") as file:
            file.seek(self._at)
            while data := file.read(1 << 22):
                self._at += len(data)
                data = self._rest + data
                end = data.rfind(b"\n") + 1
                self._rest = data[end:]
                found = [int(digits, 16) for digits in _PAGE_LINE.findall(data[:end])]
                offsets.append(np.unique(np.array(found, np.uint64)).astype(np.int64))
        # QEMU writes on where it is: what was read becomes a hole.
        os.truncate(self._log, 0)
        return np.concatenate(offsets) if offsets else np.empty(0, np.int64)

    async def restore(self, pid: int) -> None:
        """Turn the event off and QEMU's log back to where it was."""
        with suppress(RecordError):
            if self._turned:
                await self._monitor.do("trace-event-set-state", {"name": EVENT, "enable": False})
            if self._logging:
                await self._monitor.say(f'logfile "{_old_log(pid)}"')
        self._log.unlink(missing_ok=True)

    def notes(self) -> list[str]:
        """Return what the rounds leave open."""
        if not self.gaps:
            return []
        longest = f"{self.longest_gap_ns / 1e6:.1f} ms"
        return [f"nothing is logged between two rounds: {self.gaps} gaps of at most {longest}"]


def _old_log(pid: int) -> str:
    """Return the file that QEMU was told to log to, or its standard error."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = []
    for option, value in pairwise(words):
        if option in ("-D", "--D"):
            return value
    return "/dev/stderr"
