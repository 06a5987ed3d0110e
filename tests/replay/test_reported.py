"""Reports kept as changes say and do what whole bitmaps would, in any order of handling."""

from __future__ import annotations

import random

import numpy as np
import pytest

from replay import kernels as k
from replay.memory import Memory, bit_numbers
from tracer import Block, Meta
from tracer.rows import Rows

PAGES = 700


class Plain:
    """The same with sets of pages."""

    def __init__(self, blocks, chunk):
        self.blocks, self.chunk = blocks, chunk
        self.free, self.pending, self.log, self.harvested = set(), set(range(PAGES)), set(), set()
        self.marked = set(self._chunks(range(PAGES)))

    def _chunks(self, pages):
        for page in pages:
            first = max(first for first, _ in self.blocks if first <= page)
            yield first + (page - first) // self.chunk * self.chunk

    def snapshot(self, order):
        found = set()
        for first, pages in self.blocks:
            for at in range(first, first + pages - (1 << order) + 1, 1 << order):
                block = set(range(at, at + (1 << order)))
                found |= block if block <= self.free else set()
        return found

    def sync(self):
        self.pending |= self.log
        self.harvested = set(self.log)
        self.marked = set(self._chunks(range(PAGES)))

    def clear(self, named):
        for chunk in set(self._chunks(named)) & self.marked:
            self.marked.discard(chunk)
            self.log -= {page for page in self.harvested if next(self._chunks([page])) == chunk}


def pages_of(memory, column):
    return set(bit_numbers(np.ascontiguousarray(memory.state[:, column])).tolist())


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("order", [0, 1, 3, 7])
@pytest.mark.parametrize("seed", range(6))
def test_reports_in_any_order(order, manual, seed):
    rng = random.Random(f"{order} {manual} {seed}")
    cut = rng.randrange(1, PAGES)
    blocks = ((0, cut), (cut, PAGES - cut))
    chunk = rng.choice((1, 7, 64, 200))
    ram = tuple(Block(f"ram{i}", *block) for i, block in enumerate(blocks))
    meta = Meta(4096, PAGES, 1, ram, "write", "event")
    memory = Memory(meta, manual=manual, clear_chunk=chunk, hints=True, saturated=False)
    plain = Plain(blocks, chunk)
    memory.state[:, k.LOG] = memory.harvested[:] = 0  # begin with an empty log in either mode
    waiting = []
    seen = {"overtaken": 0, "skipped": 0, "left out": 0, "dropped": 0}
    for _ in range(150):
        deed = rng.choice(("move", "move", "write", "sync", "look", "look", "handle", "drop"))
        if deed == "move":
            first = rng.randrange(PAGES)
            run = range(first, min(first + rng.choice((1, 5, 64, 200)), PAGES))
            free = rng.random() < 0.6
            plain.free = plain.free | set(run) if free else plain.free - set(run)
            _set(memory.state, k.FREE, run, free)
            for page in run:
                memory.reported.moved[page >> 12] |= np.uint64(1 << (page >> 6 & 63))
        elif deed == "write":
            first = rng.randrange(PAGES)
            run = range(first, min(first + 30, PAGES))
            plain.log |= set(run)
            _set(memory.state, k.LOG, run, True)
        elif deed == "sync":
            plain.sync()
            memory.sync()
            if not manual:
                plain.log.clear()
        elif deed == "look":
            changes, pages = memory.look(order)
            named = plain.snapshot(order)
            assert pages == len(named)
            assert set(bit_numbers(memory.reported.noted).tolist()) == named
            waiting.append((changes, named))
        elif waiting:
            number = rng.randrange(len(waiting))
            seen["overtaken"] += number > 0
            changes, named = waiting.pop(number)
            if deed == "drop":
                seen["dropped"] += 1
                memory.reported.close(changes)
                continue
            memory.reported.open(changes)
            if rng.random() < 0.5:
                first = rng.randrange(PAGES)
                run = set(range(first, min(first + 90, PAGES)))
                middle = first + len(run) // 2  # two runs that share a word
                page, count = (first, 3, middle), (middle - first, 9, first + len(run) - middle)
                row = np.array(page), np.array(count), np.array([False, True, False])
                left_out = memory.reported.leave_out(Rows(np.zeros(3, np.int64), *row))
                assert left_out == len(named & run)
                seen["left out"] += left_out
                named = named - run
            assert set(bit_numbers(memory.reported.named).tolist()) == named
            if manual:
                memory.clear_named_chunks(0)
                plain.clear(named)
            skipped, count = memory.skip()
            wanted = named & plain.pending
            assert count == len(wanted)
            who = np.arange(PAGES)
            assert set(who[skipped.of(who)].tolist()) == wanted
            seen["skipped"] += count
            plain.pending -= named
            memory.reported.close(changes)
        assert pages_of(memory, k.PENDING) == plain.pending
        assert pages_of(memory, k.LOG) == plain.log
    assert all(seen.values()) or order == 7, seen


def _set(state, column, run, value):
    for page in run:
        bit = np.uint64(1 << (page & 63))
        word = state[page >> 6, column]
        state[page >> 6, column] = word | bit if value else word & ~bit
