"""Runs inside a Linux guest whose kernel has soft-dirty bits: do they show what was written?

Prints one line `PROOF {json}` a question; `test_process.py` boots the guest and reads them. Only
what needs no more than numpy is imported, for an emulated processor.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
import types
from itertools import islice
from pathlib import Path

import numpy as np

if "tracer" not in sys.modules:
    # The package's own module imports far more than this needs.
    package = types.ModuleType("tracer")
    package.__path__ = [str(Path(__file__).parents[2] / "tracer")]
    sys.modules["tracer"] = package

from tracer.errors import RecordError
from tracer.recorders.kvm_demos import DEMOS, PAGES
from tracer.recorders.kvm_machine import PAGE, Machine
from tracer.recorders.mappings import find_ram
from tracer.recorders.ptrace import stopped
from tracer.recorders.softdirty import SoftDirty, supported
from tracer.recorders.writeprotect import WriteProtect


def say(name: str, **facts: object) -> None:
    print("PROOF " + json.dumps({"name": name, **facts}), flush=True)  # noqa: T201


class Child:
    """A process with memory, which writes pages of it each time it is told to."""

    def __init__(self, work):
        self._orders, orders = os.pipe()
        answers, self._answers = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(orders), os.close(answers)
                work(self)
            finally:
                os._exit(0)
        os.close(self._orders), os.close(self._answers)
        self._tell, self._hear = orders, answers
        self.address = int(os.read(answers, 99))

    def up(self, address: int) -> None:
        os.write(self._answers, str(address).encode())

    def orders(self):
        while order := os.read(self._orders, 9999):
            yield json.loads(order)
            os.write(self._answers, b"done")

    def do(self, order: object) -> None:
        os.write(self._tell, json.dumps(order).encode())
        assert os.read(self._hear, 99)


def plain(child: Child) -> None:
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    child.up(np.frombuffer(memory, np.uint8).ctypes.data)
    for pages in child.orders():
        for page in pages:
            memory[page * PAGE] = 1


def kvm(child: Child) -> None:
    with Machine(DEMOS["hot"]) as machine:
        child.up(machine.memory.ctypes.data)
        for _ in child.orders():
            while not machine.run():
                pass


def follow(child: Child, orders: list) -> tuple[list, int]:
    """Give orders and return the pages that were seen written after each, and the longest pause."""
    end = child.address + PAGES * PAGE
    tracker = SoftDirty(child.pid, find_ram(child.pid, [f"{child.address:x}-{end:x}"]))
    child.do(orders[0])  # what was there before is no part of an epoch
    tracker.start()
    seen, longest = [], 0.0
    for order in orders[1:]:
        child.do(order)
        begin = time.monotonic()
        with stopped(child.pid):
            seen.append([page for part in tracker.harvest() for page in part.tolist()])
        longest = max(longest, time.monotonic() - begin)
    tracker.close()
    return seen, int(longest * 1e6)


def main() -> None:
    say("supported", answer=supported(), kernel=os.uname().release)
    orders = [[], [1, 2, 3, 200], [3, 100], [], [0, 239], [100]]
    child = Child(plain)
    seen, longest = follow(child, orders)
    say("process", wrote=orders[1:], seen=seen, pause_us=longest)
    try:
        WriteProtect(child.pid, find_ram(child.pid))
    except RecordError as error:
        say("protect", error=str(error))
    if Path("/dev/kvm").exists():
        seen, longest = follow(Child(kvm), [[]] * 9)
        wrote = [sorted(pages) for pages in islice(DEMOS["hot"].passes(), 9)]
        say("kvm", wrote=wrote[1:], seen=seen, pause_us=longest)
    say("end")


if __name__ == "__main__":
    main()
