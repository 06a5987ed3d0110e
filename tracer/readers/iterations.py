"""When the sender of a recorded migration ran: its looks at what is pending, copies and syncs."""

from __future__ import annotations

import numpy as np

from tracer.readers.qemu_lines import EXACT, PENDING, SAVE, STOP, SYNC_END, SYNC_START
from tracer.readers.qemu_log import QemuLog
from tracer.rows import Int64s

_PAGE_BYTES = 4096
#: QEMU counts dirty pages over periods longer than this, in whole ms.
_PERIOD_US, _MS_US = 1_000_000, 1000


def syncs_of(log: QemuLog, zero_us: int) -> list[dict[str, int]]:
    """Return the syncs in host ns since `zero_us`: t_host_ns to end_host_ns, as far as logged.

    dirty_pages: as QEMU counted them. normal: pages with content sent until the next sync.
    """
    syncs: list[dict[str, int]] = []
    places = []
    for index, t, kind, value, _ in log.rare:
        if kind == SYNC_START:
            syncs.append({"t_host_ns": (t - zero_us) * 1000})
            places.append(index)
        elif kind == SYNC_END and syncs:
            syncs[-1] |= {"end_host_ns": (t - zero_us) * 1000, "dirty_pages": value}
    copies = np.zeros(len(places) + 1, np.int64)
    at = 0
    for events in log.chunks():
        saves = at + np.flatnonzero(events["kind"] == SAVE)
        copies += np.bincount(np.searchsorted(places, saves), minlength=len(copies))
        at += len(events)
    for sync, count in zip(syncs, copies[1:].tolist(), strict=True):
        sync["normal"] = count
    return syncs


def iterations_of(log: QemuLog, zero_us: int) -> dict[str, list[int]]:
    """Return the sender's iterations, one value each in every list, from `zero_us` on.

    An iteration begins with a look at what is pending, after the sync if there is one: t_host_ns.
    Its last page with content went out at until_host_ns (where none did, it is t_host_ns). normal,
    zero: pages of either kind sent up to the next look; zero pages are what else left the pending
    count. What is sent after the stop is the last one, from the sync on.
    """
    begins, sizes, ends, copies, dirtied, doubt = _looks(log)
    # What a look finds is what the one before did, less what was sent, and what syncs have added.
    last = sizes[-1:] // _PAGE_BYTES - copies[-1:] if log.counts[STOP] else np.zeros(1, np.int64)
    rest = np.append((sizes[:-1] - sizes[1:]) // _PAGE_BYTES + dirtied[1:] - copies[:-1], last)
    zeros = np.where(rest < 0, np.maximum(rest + np.append(doubt[1:], 0), 0), rest)
    known = begins >= zero_us
    times = [((t[known] - zero_us) * 1000).tolist() for t in (begins, np.maximum(begins, ends))]
    names = ("t_host_ns", "until_host_ns", "normal", "zero")
    return dict(zip(names, (*times, copies[known].tolist(), zeros[known].tolist()), strict=True))


def _looks(log: QemuLog) -> Int64s:
    """Return of each look, int64[6, looks]: us, pending bytes, us of the last copy, copies, ...

    ... the pages that syncs just before it made pending, and how many more that may have been.
    """
    looks = _Looks()
    for events in log.chunks():
        kind = events["kind"]
        marks = np.flatnonzero(np.isin(kind, (PENDING, EXACT, SYNC_START, SYNC_END, STOP)))
        saves = np.flatnonzero(kind == SAVE)
        # Copies before the first mark belong to the look before this chunk.
        edges = np.searchsorted(saves, [0, *marks.tolist(), len(kind)])
        for mark, first, past in zip([-1, *marks.tolist()], edges[:-1], edges[1:], strict=True):
            if mark >= 0:
                looks.saw(int(kind[mark]), int(events["t"][mark]), int(events["a"][mark]))
            if past > first:
                looks.copied(int(events["t"][saves[past - 1]]), int(past - first))
    return np.array(looks.rows, np.int64).reshape(-1, 6).T


class _Looks:
    """Follows a log from look to look; `rows` are those that `_looks` returns the columns of."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self._dirtied = _Dirtied()
        self._stopped = False
        #: us of the last copy, and copies, since a sync that no look has followed yet.
        self._aside = (0, 0)

    def saw(self, kind: int, t: int, value: int) -> None:
        """Take a look, the start or the end of a sync, or the stop."""
        if kind in (PENDING, EXACT):
            self._look(t, value, exact=kind == EXACT)
        elif kind == STOP:
            self._stopped = True
        else:
            self._dirtied.saw(kind, t, value)
            if self._stopped and kind == SYNC_END and self.rows:
                added, doubt = self._dirtied.taken()
                left = self.rows[-1][1] + (added - self.rows[-1][3]) * _PAGE_BYTES
                self.rows.append([t, left, 0, 0, added, doubt])

    def _look(self, t: int, left: int, *, exact: bool) -> None:
        added, doubt = self._dirtied.taken()
        until, copies = self._aside
        if copies and self.rows:
            # From 10 on a timer may sync in the middle of an iteration, which goes on after it.
            self.rows[-1][2:4] = until, self.rows[-1][3] + copies
        self._aside = (0, 0)
        if exact and self.rows and not self.rows[-1][3]:
            # The same look: its estimate was so small that it synced and counted.
            *_, before, before_doubt = self.rows.pop()
            added, doubt = added + before, doubt + before_doubt
        self.rows.append([t, left, 0, 0, added, doubt])

    def copied(self, until: int, copies: int) -> None:
        """Take so many copies, the last at `until` (us)."""
        if self._dirtied.syncing:
            # Of the iteration before, if there is one after it; else of none.
            self._aside = (until, self._aside[1] + copies)
        elif self.rows:
            self.rows[-1][2:4] = until, self.rows[-1][3] + copies


class _Dirtied:
    """Follows the syncs' counts of dirty pages, which QEMU sums up over periods of a second.

    (num_dirty_pages_period; migration_bitmap_sync begins a new period once one is over.) QEMU's
    clock has whole ms, so that a period of a second and a part of a ms may be over or not.
    """

    def __init__(self) -> None:
        self.syncing = False
        self._begun_us: int | None = None
        self._counted = self._added = self._doubt = 0
        #: When a period may have ended.
        self._perhaps_us: int | None = None

    def saw(self, kind: int, t: int, pages: int) -> None:
        """Take down the start or the end of a sync."""
        if kind == SYNC_START:
            self.syncing = True
            self._begun_us = t if self._begun_us is None else self._begun_us
            return
        if self._perhaps_us is not None and pages < self._counted:
            self._begun_us, self._counted = self._perhaps_us, 0
        elif self._perhaps_us is not None:
            self._doubt += self._counted
        self._added += max(pages - self._counted, 0)
        self._counted, self._perhaps_us = pages, None
        lasted = 0 if self._begun_us is None else t - self._begun_us
        if lasted >= _PERIOD_US + _MS_US:
            self._begun_us, self._counted = t, 0
        elif lasted > _PERIOD_US:
            self._perhaps_us = t

    def taken(self) -> tuple[int, int]:
        """Return the pages added since the last look, and how many more it may have been."""
        added, doubt = self._added, self._doubt
        self.syncing, self._added, self._doubt = False, 0, 0
        return added, doubt
