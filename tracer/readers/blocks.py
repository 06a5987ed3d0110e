"""The RAM blocks of a logged migration: which there are, how large, and where pages lie in them.

A trace log names a block where it sends a page of it and never says a size. Sizes come from the
migration's total, the guest's memory size and QEMU's fixed ones (hw/i386/pc.c, pc_sysfw.c,
acpi-build.c); whatever remains open is said in `Layout.notes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tracer.format import Block
from tracer.words import whole_size

_MIB = 1 << 20
_PC_ROM = ("pc.rom", 128 << 10)
#: Blocks of one size in every PC of QEMU (SeaBIOS; a firmware in flash has other names).
FIXED = {
    "pc.bios": 256 << 10,
    "pc.rom": 128 << 10,
    "/rom@etc/acpi/tables": 128 << 10,
    "/rom@etc/table-loader": 4 << 10,
    "/rom@etc/acpi/rsdp": 4 << 10,
}


@dataclass(frozen=True)
class Layout:
    """Blocks in migration order; `base[b]` is the first page of the log's block number `b`.

    `ram_pages` is the size of the first, largest block, the guest's RAM, whose ram_addr is 0.
    """

    blocks: tuple[Block, ...]
    base: tuple[int, ...]
    ram_pages: int
    notes: list[str] = field(default_factory=list)

    @property
    def pages(self) -> int:
        """All pages of all blocks."""
        return sum(block.pages for block in self.blocks)


def lay_out(
    names: Sequence[str],
    extents: Mapping[int, int],
    write_end: int,
    *,
    page_size: int,
    total: int | None,
    ram: int | None,
) -> Layout:
    """Lay out the blocks `names`, in the order in which the log met them (migration order).

    extents: pages seen of a block by its number; write_end: bytes up to which `ram_addr` was
    written; total: bytes of all blocks (`ram.total`), ram: bytes of guest RAM, None if unknown.
    """
    notes: list[str] = []
    names = list(names) or ["ram"]
    sizes = []
    for number, name in enumerate(names[1:], 1):
        seen = extents.get(number, 0) * page_size
        size = FIXED.get(name, 0)
        if size < seen or not size:
            size = seen
            notes.append(
                f"block {name}: its size is not recorded; {whole_size(size)} of it were seen"
            )
        sizes.append(size)
    unseen: list[tuple[str, int]] = []
    seen = max(extents.get(0, 0) * page_size, write_end if len(names) == 1 else 0)
    first = _main_size(names, sizes, seen, total=total, ram=ram, unseen=unseen, notes=notes)
    entries = [(names[0], first), *zip(names[1:], sizes, strict=True)]
    for name, size in unseen:
        after = next((i for i, (n, _) in enumerate(entries) if n == "pc.bios"), len(entries) - 1)
        entries.insert(after + 1 if name == _PC_ROM[0] else len(entries), (name, size))
    blocks, base, page = [], {}, 0
    for name, size in entries:
        pages = max(-(-size // page_size), 1)
        blocks.append(Block(name, page, pages))
        base[name] = page
        page += pages
    return Layout(tuple(blocks), tuple(base[n] for n in names), blocks[0].pages, notes)


def _main_size(
    names: Sequence[str],
    sizes: Sequence[int],
    seen: int,
    *,
    total: int | None,
    ram: int | None,
    unseen: list[tuple[str, int]],
    notes: list[str],
) -> int:
    """Return the bytes of guest RAM; blocks that the total leaves room for go to `unseen`."""
    if total is None:
        size = ram if ram is not None and ram >= seen else -(-max(seen, 1) // _MIB) * _MIB
        if size != ram:
            notes.append(
                f"block {names[0]}: its size is not recorded; taken as {whole_size(size)}, the "
                "highest page seen rounded up to 1 MiB (pass a migrate.json with ram.total)"
            )
        notes.append("blocks that no page was sent of are unknown: no total was recorded")
        return size
    rest = total - sum(sizes)
    if ram is None:
        ram = rest - rest % _MIB
    if not seen <= ram <= rest:
        notes.append(
            f"guest RAM taken as {whole_size(rest)}: what the total of {whole_size(total)} leaves"
        )
        return max(rest, seen)
    if rest - ram == _PC_ROM[1] and names[0] == "pc.ram" and _PC_ROM[0] not in names:
        unseen.append(_PC_ROM)
        notes.append("block pc.rom: never seen; the total leaves exactly its 128 KiB")
    elif rest > ram:
        unseen.append(("unseen", rest - ram))
        notes.append(
            f"blocks of {whole_size(rest - ram)} together never sent a page; laid out last"
        )
    return ram


def guest_ram(body: Mapping[str, Any]) -> int | None:
    """Return the bytes of guest RAM that a `migrate.json` names (guest_mb or -m), or None."""
    if isinstance(body.get("guest_mb"), int):
        return int(body["guest_mb"]) * _MIB
    words = body.get("cmdline") or []
    for option, value in pairwise(words):
        found = re.match(r"(?:size=)?(\d+)([MmGg]?)", str(value))
        if option == "-m" and found:
            return int(found[1]) * (_MIB << 10 if found[2] in ("G", "g") else _MIB)
    return None
