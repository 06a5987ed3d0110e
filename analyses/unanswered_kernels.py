"""The life of single pages in a migration whose report is not answered, compiled."""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated,assignment,arg-type"

from __future__ import annotations

import numpy as np
from numba import njit

#: Kinds of rows.
FREE, TAKE, WRITE, ZERO = range(4)
#: Kinds of control events: a sync, the clearing of a chunk, a round (its number beside it).
SYNC, CHUNK, PASS = range(3)


@njit(cache=True, nogil=True)
def intervals(  # type: ignore[no-untyped-def]
    t, kind, starts, control, times, copied, chunk_of, manual, sync_first, forever
):
    """Return when a handling would lose each page and when it is free, page by page, in order.

    t (int64 ns) and kind: the rows of page i are starts[i] to starts[i + 1], in the model's order.
    control: int64 (events, 2), a kind and the number of a chunk or round; times: their host ns.
    copied: int64 (rounds, pages), host ns of the copy or -1. chunk_of: int64, -1 in log mode
    legacy. sync_first: the strategy syncs before it skips. The guest's clock is the host's.

    Four int64 arrays: page, first and last ns, and 1 for an interval of loss, 0 for one on the
    free list. A handling at an instant comes after its rows and before its syncs and copies.
    """
    out = [(np.int64(0), np.int64(0), np.int64(0), np.int64(0)) for _ in range(0)]
    for page in range(len(starts) - 1):
        row, end = starts[page], starts[page + 1]
        pending, free, written, synced, zero, held = True, False, False, False, False, False
        log, harvested, marked, begun = manual, manual, manual, False
        losing, freed = -1, -1
        event = 0
        now = np.int64(0)
        while True:
            # What comes next: a row takes effect at its instant, a control event just after.
            at_row = max(t[row], 0) if row < end else forever
            at_event, copy = forever, False
            while event < len(control):
                what = control[event, 0]
                if what == SYNC:
                    at_event = times[event] + 1
                elif what == CHUNK and control[event, 1] == chunk_of[page]:
                    at_event = times[event] + 1
                elif what == PASS and copied[control[event, 1], page] >= 0:
                    at_event = copied[control[event, 1], page] + 1
                    copy = True
                if at_event != forever:
                    break
                event += 1
            following = min(at_row, at_event)
            if not begun and following > 0:
                # Rows up to the start are the initial state.
                begun, written, log = True, False, manual
            if following > now:
                left = log and not (manual and harvested and marked)
                if sync_first:
                    bad = pending or log
                else:
                    bad = pending and not left
                bad = bad and begun and written and not synced and not free
                if bad and losing < 0:
                    losing = now
                elif not bad and losing >= 0:
                    out.append((page, losing, now - 1, np.int64(1)))
                    losing = -1
                if free and freed < 0:
                    freed = now
                elif not free and freed >= 0:
                    out.append((page, freed, now - 1, np.int64(0)))
                    freed = -1
                now = following
            if following == forever:
                break
            if at_event <= at_row:
                what = control[event, 0]
                if what == SYNC:
                    pending = pending or log
                    harvested, marked = log, manual
                    log = log and manual
                elif what == CHUNK:
                    log = log and not harvested
                    marked = False
                elif copy:
                    pending = False
                    synced = True
                    held = not zero
                event += 1
                continue
            what = kind[row]
            if what == FREE:
                free = True
            elif what == TAKE:
                free, written = False, False
            elif what == WRITE:
                log, written, synced, zero = True, True, False, False
            else:
                zero = True
                synced = synced or not held
            row += 1
        if losing >= 0:
            out.append((page, losing, forever, np.int64(1)))
        if freed >= 0:
            out.append((page, freed, forever, np.int64(0)))
    found = np.empty((4, len(out)), np.int64)
    for i in range(len(out)):
        found[0, i], found[1, i], found[2, i], found[3, i] = out[i]
    return found
