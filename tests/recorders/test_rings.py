"""What is made of a ring's entries: those in QEMU's log, those seen in its memory, and neither."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tracer.format import Block
from tracer.readers.blocks import Layout
from tracer.readers.qemu_slots import SlotTable
from tracer.recorders.ring_harvest import Harvest
from tracer.recorders.ring_log import RingLog, Tail
from tracer.recorders.ring_memory import KIND, Ring

SIZE = 8
DIRTY, COLLECTED = 1, 2
HOST = 0x7F0000000000
SLOTS = """\
7@1.000001:kvm_set_user_memory Slot#0 flags=0x1 gpa=0x0 size=0x10000 ua=0x7f0000000000 ret=0
7@1.000002:kvm_set_user_memory Slot#1 flags=0x1 gpa=0x100000000 size=0x10000 ua=0x7f0000010000 ret=0
"""
LAYOUT = Layout((Block("pc.ram", 0, 32),), (0,), 32)


class Memory:
    """One ring, of which an entry is its number and its slot; an entry's page is its number."""

    def __init__(self):
        self.entries = np.zeros(SIZE, KIND)
        self._ring = Ring(SIZE)

    def push(self, number, slot, flags=DIRTY, page=None):
        self.entries[number % SIZE] = (flags, slot, number % 16 if page is None else page)

    def read(self):
        return {0: self.entries.copy()}

    def ring(self, cpu):
        return self._ring if cpu == 0 else None


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.write_text(SLOTS)
    tail = Tail(path)
    yield path, RingLog(tail, SlotTable(LAYOUT, {0: HOST}, 0))
    tail.close()


def say(path, *numbers, vcpu=0, page=None):
    with path.open("a") as file:
        for number in numbers:
            at = number % 16 if page is None else page
            line = f"kvm_dirty_ring_page vcpu {vcpu} fetch {number % (1 << 32)} offset {at:#x}"
            file.write(f"7@2.000000:{line}\n")


def test_memory_tells_the_slot_before_and_after_the_reset(log):
    path, ring_log = log
    memory = Memory()
    harvest = Harvest(ring_log, memory)
    for number in range(4):
        memory.push(number, number % 2)
    say(path, 0)
    memory.entries["flags"][0] = COLLECTED
    harvest.look()
    say(path, 1, 2, 3)
    memory.entries["flags"][:4] = 0
    harvest.look()
    assert harvest.pages().tolist() == [0, 2, 16 + 1, 16 + 3]
    assert harvest.counts.notes() == []


def test_an_entry_that_was_overwritten_before_a_look_is_in_every_slot(log):
    path, ring_log = log
    memory = Memory()
    harvest = Harvest(ring_log, memory)
    say(path, *range(SIZE + 3))
    for number in range(SIZE + 3):
        memory.push(number, 1, flags=0)
    harvest.look()
    harvest.look()  # what was logged during the first
    pages = set(harvest.pages().tolist())
    # The oldest that is there may be about to be overwritten.
    assert pages == {0, 1, 2, 3, *range(16, 16 + SIZE + 3)}
    assert harvest.counts.several == 4
    assert "taken as written in every slot" in harvest.counts.notes()[0]


def test_lines_that_are_missing_are_made_good_or_told(log):
    path, ring_log = log
    memory = Memory()
    harvest = Harvest(ring_log, memory)
    for number in range(4):
        memory.push(number, 0)
    say(path, 0)
    memory.entries["flags"][0] = COLLECTED
    harvest.look()
    say(path, 3)
    memory.entries["flags"][:4] = COLLECTED
    harvest.look()
    assert harvest.pages().tolist() == [0, 1, 2, 3]
    assert (harvest.counts.unlogged, harvest.counts.lost) == (2, 0)
    say(path, 9)
    harvest.look()
    harvest.pages()
    assert harvest.counts.lost == 5
    assert "PAGES ARE MISSING: 5" in " ".join(harvest.counts.notes())


def test_numbers_go_on_after_32_bits_and_begin_anew_with_another_vcpu(log):
    path, ring_log = log
    harvest = Harvest(ring_log, None)
    first = (1 << 32) - 2
    say(path, first, first + 1, first + 2, page=20)
    harvest.look()
    assert ring_log.vcpus[0].next == first + 3
    harvest.pages()
    assert (harvest.counts.lost, harvest.counts.entries) == (0, 3)


def test_a_slot_that_moves_counts_from_then_on(log):
    path, ring_log = log
    harvest = Harvest(ring_log, None)
    say(path, 0, page=5)
    with path.open("a") as file:
        file.write(SLOTS.splitlines()[1].replace("0x10000 ua", "0x0 ua") + "\n")
    say(path, 1, page=6)
    harvest.look()
    assert harvest.pages().tolist() == [5, 6, 5 + 16]
    assert harvest.counts.several == 1


def test_what_waits_counts_where_the_round_is_left(log):
    path, ring_log = log
    memory = Memory()
    harvest = Harvest(ring_log, memory)
    say(path, 0)
    memory.push(0, 0, flags=0)
    memory.push(1, 1)
    harvest.look()
    harvest.look()
    assert harvest.pages(pending=True).tolist() == [0, 17]


def test_a_log_gives_its_space_back_and_is_read_on(tmp_path):
    path = tmp_path / "log"
    path.touch()
    tail = Tail(path)
    with path.open("a") as file:
        for part in range(3):
            line = f"{part}" * 99 + "\n"
            file.write(line * 20000)
            file.flush()
            read = b"".join(tail.lines())
            assert read == line.encode() * 20000
    tail.close()
    assert path.stat().st_size == 3 * 2_000_000
    if os.statvfs(path).f_bsize == 4096:
        assert path.stat().st_blocks * 512 < 100_000
