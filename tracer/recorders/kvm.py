"""`record kvm`: a demo guest under KVM, recorded through one of KVM's own dirty logs."""

from __future__ import annotations

import time
from typing import Literal, get_args

import numpy as np

from tracer.errors import UsageError
from tracer.format import Block, Meta
from tracer.recorders.kvm_demos import DEMOS, PAGES
from tracer.recorders.kvm_log import BitmapLog, DirtyLog, ManualLog, RingLog
from tracer.recorders.kvm_machine import PAGE, Machine
from tracer.recorders.session import Recorded, Session, Wanted, zero_pages
from tracer.rows import Int64s

Mode = Literal["bitmap", "manual", "ring"]
_DEFAULT_RING = 4096


def record_kvm(
    wanted: Wanted,
    *,
    demo: str,
    mode: Mode = "bitmap",
    interval_ns: int = 100_000_000,
    ring_entries: int = _DEFAULT_RING,
) -> Recorded:
    """Run the demo program named `demo` and record it, an epoch every `interval_ns` of guest time.

    The guest stands still while its log is read, so that every epoch's pages are exactly those
    that it wrote in it. Raises UsageError for what does not fit, or where there is no KVM.
    """
    if demo not in DEMOS:
        raise UsageError(f"no demo program {demo!r}; there are {', '.join(DEMOS)}")
    if mode not in get_args(Mode):
        raise UsageError(f"no dirty log {mode!r}; there are {', '.join(get_args(Mode))}")
    if interval_ns <= 0:
        raise UsageError("the interval is 0; an epoch needs some time")
    entries = ring_entries if mode == "ring" else 0
    with Machine(DEMOS[demo], manual=mode == "manual", ring_entries=entries) as machine:
        log = _log(machine, mode, entries)
        source = {"recorder": "kvm", "log": mode, "demo": demo, "interval_ns": interval_ns}
        meta = Meta(
            page_size=PAGE,
            pages=PAGES,
            duration_ns=0,
            blocks=(Block("ram", 0, PAGES),),
            resolution="epoch",
            source=source,
        )
        with Session(wanted, meta) as session:
            passes = _record(machine, log, session, wanted, interval_ns)
            return session.end(passes=passes)


def _log(machine: Machine, mode: Mode, entries: int) -> DirtyLog:
    if mode == "ring":
        return RingLog(machine.vm_fd, [machine.vcpu_fd], entries, machine.slots)
    kind = ManualLog if mode == "manual" else BitmapLog
    return kind(machine.vm_fd, machine.slots)


def _record(
    machine: Machine, log: DirtyLog, session: Session, wanted: Wanted, interval_ns: int
) -> int:
    """Run and harvest until it is over; return the program's passes."""
    contents = machine.memory.reshape(PAGES, PAGE)
    everything = np.arange(PAGES)
    log.start()
    session.begin(zero_pages(everything, contents))
    passes = guest_ns = 0
    ends = interval_ns
    early: list[Int64s] = []
    ring = isinstance(log, RingLog)
    while not wanted.over(guest_ns):
        begin = time.monotonic_ns()
        done = machine.run()
        guest_ns += time.monotonic_ns() - begin
        passes += done
        if not done or ring:
            early.append(log.harvest())  # a signal; and a ring holds no more than its entries
        if guest_ns >= ends or wanted.over(guest_ns):
            pages = np.unique(np.concatenate([*early, log.harvest()]))
            early.clear()
            session.epoch(guest_ns, pages, zero_pages(pages, contents[pages]))
            ends = guest_ns + interval_ns
    return passes
