"""Whose events a kernel trace has: a host's may be of several virtual machines.

A tracer names the thread that an event happened in, some also its process. The vCPUs of a machine
are threads of one process; threads alone say little, but that two of them push to the ring of one
number, a vCPU's, tells that they are of two machines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from tracer.errors import UsageError
from tracer.readers.kernel_lines import PROBE, PUSH
from tracer.readers.spool import Records
from tracer.rows import Flags, Int64s

_MOST_NAMED = 8


@dataclass
class Tasks:
    """Chooses the events of some processes or threads, or refuses those of several machines.

    wanted: the pids that the user names; none where all events are of one machine.
    """

    wanted: Collection[int] = ()
    _processes: Counter[int] = field(default_factory=Counter)
    _threads: Counter[int] = field(default_factory=Counter)
    _names: dict[int, str] = field(default_factory=dict)
    _rings: dict[int, set[int]] = field(default_factory=dict)

    def choose(self, records: Records, who: Int64s, text: Callable[[int], str]) -> Flags:
        """Return which events are wanted.

        who: int64 (3, events), process, thread and ring (-1 unknown) of each; `text` gives the
        line of an event by its index.
        """
        process, thread, ring = who
        dirty = np.isin(records["kind"], (PUSH, PROBE))
        for counter, ids in ((self._processes, process), (self._threads, thread)):
            found, first, counts = np.unique(ids[dirty], return_index=True, return_counts=True)
            for pid, at, count in zip(found.tolist(), first.tolist(), counts.tolist(), strict=True):
                if pid >= 0:
                    counter[pid] += count
                    if pid not in self._names:
                        index = int(np.flatnonzero(dirty)[at])
                        self._names[pid] = _name(text(index), int(thread[index]))
        pushed = dirty & (ring >= 0) & (thread >= 0)
        pairs = np.unique(np.stack((ring[pushed], thread[pushed])), axis=1)
        for number, one in pairs.T.tolist():
            self._rings.setdefault(number, set()).add(one)
        if not self.wanted:
            return np.ones(len(records), np.bool_)
        wanted = list(self.wanted)
        chosen: Flags = np.isin(process, wanted) | np.isin(thread, wanted)
        return chosen

    def check(self, path: object, left_out: int, chosen: int) -> None:
        """Raise UsageError where events are of several machines and none was chosen, or of none.

        left_out: how many events were not wanted; chosen: how many of dirtied pages were.
        """
        if self.wanted:
            if left_out and not chosen:
                pids = ", ".join(map(str, self.wanted))
                raise UsageError(f"{path}: no event of pid {pids}; there are {self._listed()}")
            return
        shared = [number for number, threads in self._rings.items() if len(threads) > 1]
        if len(self._processes) > 1:
            raise UsageError(
                f"{path}: events of {len(self._processes)} processes, so of several guests: "
                f"{self._listed()}; choose one with --pid"
            )
        if shared and not self._processes:
            raise UsageError(
                f"{path}: {len(self._rings[shared[0]])} threads write to ring {shared[0]}, so they "
                f"are of several guests: {self._listed()}; choose one's with --pid, also that of "
                "the thread that resets its rings"
            )

    def notes(self) -> list[str]:
        """Return what to say of threads of which it is not known whether they are one guest's."""
        if self.wanted:
            return [f"events of pid {', '.join(map(str, self.wanted))} alone were read"]
        if len(self._processes) or len(self._threads) < 2:
            return []
        threads = f"the text names no processes but {len(self._threads)} threads"
        return [f"{threads}, {self._listed()}: taken as one guest's (--pid chooses)"]

    def _listed(self) -> str:
        counts = self._processes or self._threads
        named = [
            f"{pid} ({self._names[pid] or 'no name'}, {count} pages)"
            for pid, count in counts.most_common(_MOST_NAMED)
        ]
        more = len(counts) - len(named)
        return ", ".join(named) + (f" and {more} more" if more > 0 else "") or "no pids at all"


def _name(line: str, thread: int) -> str:
    """Return what stands before a thread's number: the task's name."""
    found = re.match(rf"\s*(.*?)[-\s]+(?:\d+/)?{thread}\s*[(\[]", line)
    return found[1] if found else ""
