"""`record qemu --launch`: every store of a guest under TCG, told by a plugin in its QEMU."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tracer.errors import RecordError, UsageError
from tracer.format import Block, Meta
from tracer.recorders.contents import Contents
from tracer.recorders.launch import Qemu, check_command
from tracer.recorders.mappings import Region
from tracer.recorders.qmp import Monitor, need_qmp
from tracer.recorders.ramblocks import RamBlock, ram_blocks, ranges_of, regions_of
from tracer.recorders.session import Recorded, Session, Wanted
from tracer.recorders.stamped import Lines
from tracer.recorders.tcg_plugin import PAGE, Stores, compile_plugin
from tracer.rows import Int64s

_VERSION = re.compile(r"version (\d+)\.(\d+)")
#: From here on a plugin is given guest physical addresses, before it offsets in QEMU's RAM.
_PHYSICAL = (8, 2)
#: How often (s) the pipe is looked at, and (ns) what came is put on disk.
_LOOK = 0.02
_COMMIT_NS = 500_000_000

_NOTES = (
    (
        "stores of vCPUs alone: what devices write (disks, network, DMA of the firmware's loaders) "
        "does not pass a plugin, nor do the frames that an interrupt pushes and the bits that the "
        "processor sets in page tables"
    ),
    "pages that turn to zeros later than the start are not known",
)


def record_launched(
    wanted: Wanted, command: Sequence[str], *, quantum_ns: int = 1_000_000
) -> Recorded:
    """Launch a QEMU under TCG and record each page its vCPUs store to, once a quantum.

    `command` is QEMU's own; it is ended in the end. The trace begins with the guest's first store
    and holds its main RAM. Raises UsageError for a command that does not fit, RecordError where
    QEMU does not start, runs no TCG, or knows no plugins.
    """
    if quantum_ns <= 0:
        raise UsageError("the quantum is 0; it needs some time")
    if not command:
        raise UsageError("nothing to launch; pass QEMU's command line behind --")
    check_command(command)
    need_qmp()
    version = _version(command[0])
    plugin = compile_plugin(version)
    with tempfile.TemporaryDirectory(prefix="dirtylog-") as folder:
        return asyncio.run(_record(wanted, command, quantum_ns, plugin, version, Path(folder)))


def _version(program: str) -> tuple[int, int]:
    try:
        said = subprocess.run(  # noqa: S603
            [program, "--version"], capture_output=True, text=True, check=False
        ).stdout
    except OSError as error:
        raise UsageError(f"{program}: cannot be run ({error.strerror})") from None
    found = _VERSION.search(said)
    if found is None:
        raise UsageError(f"{program}: is no QEMU (its --version does not say so)")
    return int(found[1]), int(found[2])


async def _record(
    wanted: Wanted,
    command: Sequence[str],
    quantum_ns: int,
    plugin: Path,
    version: tuple[int, int],
    folder: Path,
) -> Recorded:
    stores = Stores(folder)
    console = Lines(folder / "console")
    try:
        line = [*command, "-plugin", stores.argument(plugin, quantum_ns), "-S"]
        async with Qemu(line, console) as qemu:
            monitor = qemu.monitor
            await _check_tcg(monitor)
            ram = (await ram_blocks(monitor))[0]
            places = await _Places.of(monitor, ram, version)
            region, zero = await _zeros(monitor, qemu.pid, ram)
            with Session(wanted, _meta(region, quantum_ns, version)) as session:
                session.begin(zero, epochs=False)
                await monitor.do("cont")
                job = _Job(session, wanted, stores, places, quantum_ns)
                ended = await job.follow(qemu)
                if ended is None:
                    with suppress(RecordError):
                        await monitor.do("quit")
                    await job.drain()
                return session.end(ended, **job.counts())
    finally:
        stores.close()
        console.close()


async def _check_tcg(monitor: Monitor) -> None:
    kvm = await monitor.attempt("query-kvm") or {}
    if kvm.get("enabled"):
        raise UsageError(
            "the guest runs under KVM, where plugins see nothing; launch it with -accel tcg, or "
            "record it with dirtylog record process"
        )


async def _zeros(monitor: Monitor, pid: int, ram: RamBlock) -> tuple[Region, Int64s]:
    """Return the main RAM and its pages that are zero before the guest's first instruction."""
    regions, _ = await regions_of(monitor, pid)
    found = next((region for region in regions if region.name == ram.name), None)
    if found is None:
        raise RecordError(f"QEMU does not say where it has its RAM block {ram.name}")
    region = Region(found.name, found.start, found.pages, 0, found.backing)
    contents = Contents(pid, [region])
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return region, np.flatnonzero(contents.all_zero(pagemap))
    finally:
        os.close(pagemap)
        contents.close()


def _meta(region: Region, quantum_ns: int, version: tuple[int, int]) -> Meta:
    return Meta(
        page_size=PAGE,
        pages=region.pages,
        duration_ns=0,
        blocks=(Block(region.name, 0, region.pages),),
        resolution="write",
        quantum_ns=quantum_ns,
        clock="host, from the guest's first store",
        source={
            "recorder": "qemu-tcg-plugin",
            "accelerator": "tcg",
            "qemu": ".".join(map(str, version)),
            "notes": [*_NOTES, f"blocks other than {region.name} are left out"],
        },
    )


class _Places:
    """Which page of the main RAM a page number of the plugin's is.

    Numbers from `begins[i]` up to `ends[i]` are the pages from `firsts[i]` on.
    """

    def __init__(self, ranges: Sequence[tuple[int, int, int]]):
        self._ranges = ranges

    @classmethod
    async def of(cls, monitor: Monitor, ram: RamBlock, version: tuple[int, int]) -> _Places:
        if version < _PHYSICAL:
            return cls([(ram.offset // PAGE, (ram.offset + ram.size) // PAGE, 0)])
        # The firmware moves the holes in it, so that they count as RAM: a span for each shift.
        spans: dict[int, tuple[int, int]] = {}
        for start, end, offset in await ranges_of(monitor, ram):
            low, high = spans.get(start - offset, (start, end))
            spans[start - offset] = min(start, low), max(end, high)
        return cls(
            [
                (low // PAGE, high // PAGE, (low - shift) // PAGE)
                for shift, (low, high) in spans.items()
            ]
        )

    def pages(self, numbers: Int64s) -> Int64s:
        """Return the pages, -1 for what is none of the main RAM."""
        found = np.full(len(numbers), -1, np.int64)
        for begin, end, first in self._ranges:
            mine = (numbers >= begin) & (numbers < end)
            found[mine] = numbers[mine] - begin + first
        return found


class _Job:
    """Rows on their way from the plugin to the trace."""

    def __init__(
        self, session: Session, wanted: Wanted, stores: Stores, places: _Places, quantum_ns: int
    ):
        self._session, self._wanted = session, wanted
        self._stores, self._places, self._quantum = stores, places, quantum_ns
        self._first: int | None = None
        self._elsewhere = 0
        self._until = self._committed = 0

    async def follow(self, qemu: Qemu) -> str | None:
        """Take rows until it is over; return why where the guest ended it."""
        while not self._wanted.over(self._until):
            await asyncio.sleep(_LOOK)
            self._take()
            if (death := qemu.death()) is not None:
                self._take()
                self._commit()
                if self._first is None:
                    raise death
                return "the guest ended"
        return None

    async def drain(self) -> None:
        """Take what QEMU's end brings."""
        for _ in range(500):
            self._take()
            if self._stores.ended:
                break
            await asyncio.sleep(_LOOK)
        self._commit()

    def _take(self) -> None:
        for batch in self._stores.read():
            if self._first is None:
                if not len(batch.quantum):
                    continue
                self._first = int(batch.quantum[0])
            pages = self._places.pages(batch.page)
            mine = pages >= 0
            self._elsewhere += len(pages) - int(mine.sum())
            t = (batch.quantum[mine] - self._first) * self._quantum
            self._until = (batch.until - self._first) * self._quantum
            self._until = min(self._until, self._wanted.duration_ns or self._until)
            within = t < self._until
            self._session.write(t[within], pages[mine][within])
        if self._until - self._committed >= _COMMIT_NS:
            self._commit()

    def _commit(self) -> None:
        if self._until > self._committed:
            self._session.commit(self._until)
            self._committed = self._until

    def counts(self) -> dict[str, Any]:
        return {"stores": self._stores.stores, "pages_elsewhere": self._elsewhere}
