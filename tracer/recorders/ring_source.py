"""What a running QEMU can tell of its dirty rings, and where it has them and its RAM."""

from __future__ import annotations

from tracer.errors import RecordError, UsageError
from tracer.format import Block
from tracer.readers.blocks import Layout
from tracer.recorders.qmp import Monitor
from tracer.recorders.ramblocks import hosts_of, sizes_of
from tracer.recorders.ring_memory import RingMemory

#: KVM counts pages of 4 KiB.
PAGE = 4096
#: The ring's pages, the slots that they lie in, and a sign that QEMU still logs.
EVENTS = ("kvm_dirty_ring_page", "kvm_set_user_memory", "query_dirty_rate_info")
INSTEAD = "record it with dirtylog record process --qmp, or with dirtylog record migration"


async def check(monitor: Monitor) -> None:
    """Refuse a QEMU that cannot tell pages, saying why and what instead.

    Raises UsageError for a guest under TCG, RecordError for what this QEMU lacks or is busy with.
    """
    kvm = await monitor.attempt("query-kvm") or {}
    if not kvm.get("enabled"):
        raise UsageError(
            "this QEMU runs its guest by TCG, where only a migration clears the dirty log: "
            + INSTEAD
        )
    for name in EVENTS:
        states = await monitor.attempt("trace-event-get-state", {"name": name}) or []
        if not states or states[0]["state"] == "unavailable":
            raise RecordError(f"this QEMU has no trace event {name}: {INSTEAD}")
    status = await monitor.attempt("query-dirty-rate") or {}
    if status.get("status") == "measuring":
        raise RecordError("somebody is measuring this QEMU's dirty rate already; wait for the end")


async def layout_of(monitor: Monitor) -> tuple[Layout, dict[int, int]]:
    """Return QEMU's RAM blocks, and by number where they begin in its memory."""
    found = await hosts_of(monitor)
    blocks, hosts, first = [], {}, 0
    for number, (block, host) in enumerate(found):
        pages = -(-block.size // PAGE)
        blocks.append(Block(block.name, first, pages))
        if host is not None:
            hosts[number] = host
        first += pages
    if 0 not in hosts:
        raise RecordError(f"QEMU does not say where it has {blocks[0].name}: {INSTEAD}")
    base = tuple(block.first_page for block in blocks)
    return Layout(tuple(blocks), base, blocks[0].pages), hosts


async def rings(monitor: Monitor, pid: int) -> tuple[RingMemory | None, str | None]:
    """Return QEMU's rings, or why they cannot be read.

    Raises RecordError where they cannot, and most offsets would be in several slots.
    """
    try:
        memory = RingMemory(pid)
    except OSError as error:
        why = f"the memory of QEMU's process {pid} cannot be read ({error.strerror})"
    else:
        try:
            if memory.find(await vcpus(monitor)):
                return memory, None
            why = f"process {pid} at the socket does not have the guest's dirty rings"
        except (RecordError, UsageError) as error:
            why = str(error)
        memory.close()
    sizes = sorted(await sizes_of(monitor))
    if sum(sizes[:-1]) > sizes[-1] >> 4:
        raise RecordError(
            f"{why}: only that tells in which of the guest's memory slots a page is; run as root "
            f"or as QEMU's user, or {INSTEAD}"
        )
    return None, (
        f"{why}: an entry that can mean pages of several memory slots is taken as all of them"
    )


async def vcpus(monitor: Monitor) -> list[int]:
    """Return QEMU's numbers of its vCPUs, ascending."""
    return sorted(cpu["cpu-index"] for cpu in await monitor.do("query-cpus-fast"))
