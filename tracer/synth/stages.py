"""Streams one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracer.synth.guest import NO_RUNS, Block, Runs, Stream, joined


def _nothing() -> Runs:
    return NO_RUNS


@dataclass(frozen=True)
class Stage:
    """A stream that makes the writes up to number `until`; `leave` frees what it leaves behind."""

    stream: Stream
    until: int
    leave: Callable[[], Runs] = _nothing


class Stages:
    """Stage after stage. A block may not reach from one into the next; the last has no end."""

    def __init__(self, stages: list[Stage]):
        self._stages = stages
        self._now = self._done = 0

    def next(self, n: int) -> Block:
        """Return the next n writes."""
        left = []
        while self._now < len(self._stages) - 1 and self._done >= self._stages[self._now].until:
            left.append(self._stages[self._now].leave())
            self._now += 1
        self._done += n
        block = self._stages[self._now].stream.next(n)
        return Block(block.page, joined([*left, block.frees]), block.takes)
