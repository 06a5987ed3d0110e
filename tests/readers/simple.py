"""QEMU's trace log turned into what scripts/simpletrace.py prints of the same events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_STAMP = re.compile(r"(\d+)@(\d+)\.(\d{6}):(\w+) ?(.*)")
#: The log's format of each event (QEMU's trace-events), as names of arguments to what they match.
_FORMATS = {
    "memory_notdirty_write_access": (r"0x(\w+) ram_addr 0x(\w+) size (\d+)", "vaddr ram_addr size"),
    "ram_save_page": (r"(.+): offset: 0x(\w+) host: (?:0x)?(\w+)", "rbname offset host"),
    "kvm_dirty_ring_page": (r"vcpu (\d+) fetch (\d+) offset 0x(\w+)", "vcpu slot offset"),
    "kvm_set_user_memory": (
        r"Slot#(\d+) flags=0x(\w+) gpa=0x(\w+) size=0x(\w+) ua=0x(\w+) ret=(-?\d+)",
        "slot flags guest_phys_addr memory_size userspace_addr ret",
    ),
    "kvm_dirty_ring_reap": (r"reaped (\d+) pages \(took (-?\d+) us\)", "count t"),
    "migration_bitmap_sync_end": (r"dirty_pages (\d+)", "dirty_pages"),
    "migration_bitmap_clear_dirty": (
        r"rb (.+) start 0x(\w+) size 0x(\w+) page 0x(\w+)",
        "str start size page",
    ),
    "migrate_pending": (
        r"pending size (\d+) max (\d+) \(pre = (\d+) compat=(\d+) post=(\d+)\)",
        "size max pre compat post",
    ),
    "migrate_pending_estimate": (
        r"estimate pending size (\d+) \(pre = (\d+) post=(\d+)\)",
        "size pre post",
    ),
    "migrate_pending_exact": (
        r"exact pending size (\d+) \(pre = (\d+) post=(\d+)\)",
        "size pre post",
    ),
    "qemu_savevm_query_pending": (
        r"exact=(.), final=(.), precopy=(\d+), stopcopy=(\d+), postcopy=(\d+), total=(\d+), .+",
        "exact final precopy stopcopy postcopy total",
    ),
    "migration_completion_vm_stop": (r"ret (-?\d+)", "ret"),
}
_HEX = {"flags", "guest_phys_addr", "memory_size", "userspace_addr"}
_HEX |= {"vaddr", "ram_addr", "offset", "host", "start", "page"}
_STRING = {"rbname", "str"}


def _value(event: str, name: str, text: str, *, as_bytes: bool) -> str:
    if name in _STRING:
        return f"{name}={text.encode()!r}" if as_bytes else f"{name}={text}"
    hexed = name in _HEX or (name == "size" and event == "migration_bitmap_clear_dirty")
    number = int(text, 16 if hexed else 10) & 0xFFFFFFFFFFFFFFFF
    return f"{name}=0x{number:x}"


def simpletrace(log: Iterable[str], *, as_bytes: bool = True) -> Iterator[str]:
    """Yield the lines that simpletrace.py prints; Python 3 prints strings as bytes."""
    last = None
    for line in log:
        stamp = _STAMP.fullmatch(line.rstrip("\n"))
        if stamp is None:
            continue
        pid, seconds, micros, event, body = stamp.groups()
        now = int(seconds) * 10**9 + int(micros) * 1000
        last = now if last is None else last
        fields = [event, f"{(now - last) / 1000.0:0.3f}", f"pid={pid}"]
        last = now
        if event in _FORMATS:
            pattern, names = _FORMATS[event]
            found = re.fullmatch(pattern, body)
            assert found is not None, line
            pairs = zip(names.split(), found.groups(), strict=True)
            fields += [_value(event, n, v, as_bytes=as_bytes) for n, v in pairs]
        yield " ".join(fields) + "\n"
