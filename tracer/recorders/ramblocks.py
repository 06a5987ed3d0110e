"""A QEMU's own table of its guest's RAM: `info ramblock`, and where each block lies.

Later QEMUs print the host address of each block; for those that do not, `info mtree -f` tells at
which guest address a block is mapped, and `gpa2hva` where that is in the process.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import RecordError
from tracer.recorders.mappings import PAGE, Region, mappings
from tracer.recorders.qmp import Monitor, connect, need_qmp, open_socket

_BLOCK = re.compile(r"\s*(\S.*?)\s+\d+ [KMG]iB((?:\s+0x[0-9a-f]+)+)(?:\s+(?:ro|rw))?\s*", re.ASCII)
_RANGE = re.compile(
    r"\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (ram|rom|romd|ramd)\): (\S+)"
    r"(?: @([0-9a-f]{16}))?.*",
    re.ASCII,
)
_HVA = re.compile(r"Host virtual address for 0x[0-9a-f]+ \((.*)\) is 0x([0-9a-f]+)", re.ASCII)


@dataclass(frozen=True)
class RamBlock:
    """A block of QEMU's table, in the order in which it migrates them.

    offset: of its first byte among all RAM (`ram_addr_t`). size: bytes in use. host: address in
    the process, None where QEMU does not print it.
    """

    name: str
    offset: int
    size: int
    host: int | None


async def ram_blocks(monitor: Monitor) -> list[RamBlock]:
    """Return QEMU's RAM blocks. Raises RecordError where it lists none."""
    text = str(await monitor.do("human-monitor-command", {"command-line": "info ramblock"}))
    head, *lines = text.splitlines() or [""]
    found = []
    for match in filter(None, map(_BLOCK.fullmatch, lines)):
        numbers = [int(word, 16) for word in match[2].split()]
        host = numbers[3] if "HVA" in head and len(numbers) > 3 else None
        found.append(RamBlock(match[1], numbers[0], numbers[1], host))
    if not found:
        raise RecordError("this QEMU lists no RAM ('info ramblock')")
    return found


async def regions_of(monitor: Monitor, pid: int) -> tuple[list[Region], list[str]]:
    """Return where process `pid`, the monitor's QEMU, has its RAM, and notes on what is left out.

    Raises RecordError where it has none that could be found.
    """
    there = mappings(pid)
    regions: list[Region] = []
    left_out, first = [], 0
    for block, start in await hosts_of(monitor):
        mine = next((m for m in there if start is not None and m.start <= start < m.end), None)
        if start is None or mine is None or block.size % PAGE or start % PAGE:
            left_out.append(block.name)
            continue
        pages = block.size // PAGE
        regions.append(Region(block.name, start, pages, first, mine.backing))
        first += pages
    if not regions:
        raise RecordError(
            "QEMU does not say where it has its RAM; name it with --ram or --ram-size"
        )
    notes = [f"RAM blocks that QEMU maps nowhere are left out: {', '.join(left_out)}"]
    return regions, notes if left_out else []


async def hosts_of(monitor: Monitor) -> list[tuple[RamBlock, int | None]]:
    """Return QEMU's RAM blocks, and where it has each; None where that is not known for certain."""
    blocks = await ram_blocks(monitor)
    if any(block.host is not None for block in blocks):
        return [(block, block.host) for block in blocks]
    places = await _mapped(monitor)
    found = []
    for block in blocks:
        short = block.name.rsplit("/", 1)[-1] if not block.name.startswith("/") else block.name
        found.append(places.get(short, places.get(block.name)))
    # A region goes by a name that two devices of a kind can have.
    return [
        (block, None if host is None or found.count(host) > 1 else host)
        for block, host in zip(blocks, found, strict=True)
    ]


async def ranges_of(monitor: Monitor, block: RamBlock) -> list[tuple[int, int, int]]:
    """Return where a block is in the guest's memory: address, end, and its offset there."""
    mine = (block.name, block.name.rsplit("/", 1)[-1])
    return [(low, high, offset) for name, low, high, offset in await _flat(monitor) if name in mine]


async def sizes_of(monitor: Monitor) -> list[int]:
    """Return the bytes of each range of the guest's addresses that is its RAM."""
    return [high - low for _, low, high, _ in await _flat(monitor, "ram")]


async def _flat(monitor: Monitor, kind: str = "") -> list[tuple[str, int, int, int]]:
    """Return name, address, end and offset of all, or of a kind, in the guest's memory."""
    text = str(await monitor.do("human-monitor-command", {"command-line": "info mtree -f"}))
    views = [view for view in text.split("FlatView #") if ' AS "memory"' in view]
    found = filter(None, map(_RANGE.fullmatch, (views or [text])[0].splitlines()))
    return [
        (m[4], int(m[1], 16), int(m[2], 16) + 1, int(m[5] or "0", 16))
        for m in found
        if kind in ("", m[3])
    ]


async def _mapped(monitor: Monitor) -> dict[str, int]:
    """Return the host address of every memory region that is mapped in the guest's memory."""
    found: dict[str, int] = {}
    for name, address, _, offset in await _flat(monitor):
        if name not in found:
            line = f"gpa2hva 0x{address:x}"
            said = str(await monitor.do("human-monitor-command", {"command-line": line}))
            if answer := _HVA.search(said):
                found[name] = int(answer[2], 16) - offset
    return found


def ask_qemu(path: Path) -> tuple[int, list[Region], list[str]]:
    """Return the process of the QEMU at a QMP socket, where it has its RAM, and notes on that.

    Raises UsageError where there is none, RecordError where it does not answer with that.
    """
    need_qmp()

    async def ask() -> tuple[int, list[Region], list[str]]:
        channel, pid = open_socket(path)
        monitor = await connect(channel, path)
        try:
            return pid, *await regions_of(monitor, pid)
        finally:
            await monitor.close()

    return asyncio.run(ask())
