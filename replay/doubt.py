"""Whether a page could have been lost that the recorded moments did not lose (the model, section 7).

The schedule of the recorded replay stands: its syncs, snapshots, handlings, chunk clears and the
times at which the cursor passed each page. On it pages are independent of each other, so for each
page the set of states that some allowed history leads to is followed from event to event. A
history may place hidden writes, move a free-list transition within its [since_ns, t_ns] and
reorder what one quantum holds; a guest writes no page on its free list but where a row says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

from replay.engine import Event, Migration
from replay.feed import Feed, looped_epochs
from replay.hints import Report
from replay.observe import COPY, Observation, Touches, key, observe
from tracer.rows import Int64s

# State bits of a page. P pending, L log, S synced, W written since the last take, Z content zero,
# D destination holds non-zero, H harvested, M chunk marked.
_P, _L, _S, _W, _Z, _D, _H, _M = (1 << bit for bit in range(8))
_SERVED_0, _MOST_SERVED = 8, 3  # how many of the open windows that need a write have had one
_SLOTS, _SLOT_0 = 39, 10  # one bit a report that names the page and is on its way
_MOVE_0 = _SLOT_0 + _SLOTS  # above: how many of its free-list transitions have happened
_MAX_MOVES = 1 << 13
_MEMBER = ((1 << _SLOTS) - 1) << _SLOT_0

_SYNC, _SNAPSHOT, _HANDLED, _CHUNK, _PASS = range(5)
#: More states than this for one page: the search gives up and says so.
_MAX_STATES = 1 << 13
#: Pages searched at once: bounds the memory for their passes.
_AT_ONCE = 1 << 17

_SAFE, _LOSES, _GAVE_UP = range(3)


@dataclass(frozen=True)
class Doubt:
    """A page that an allowed history loses; `proved` is false where the search gave up on it."""

    page: int
    proved: bool


class _Schedule(NamedTuple):
    """Control events as arrays: number in order, round, host ns, kind, guest ns, report or chunk.

    round: how many rounds' sweeps had ended. The cursor passes the last pages at the instant of
    the sync that begins the next round, and before it.
    """

    number: Int64s
    round: Int64s
    host: Int64s
    kind: Int64s
    guest: Int64s
    which: Int64s


def can_lose(
    make: Callable[[Int64s], Migration], finished: Migration, stop_ns: int
) -> Doubt | None:
    """Return a page that some history allowed by the trace loses, or None.

    `make(watch)` gives a fresh migration like `finished`, which has switched over at `stop_ns`.
    """
    if finished.hold == "done":
        return None  # no page that the guest takes again is ever skipped
    candidates = _candidates(finished, stop_ns)
    for at in range(0, len(candidates), _AT_ONCE):
        observation = observe(make(candidates[at : at + _AT_ONCE]))
        page, verdict = _search_pages(observation)
        if verdict != _SAFE:
            return Doubt(page, verdict == _LOSES)
    return None


def _candidates(migration: Migration, stop_ns: int) -> Int64s:
    """Return the pages that may be taken where a handled report could hide it.

    A write is lost only if its page is taken after a report's snapshot and, unless the log can
    miss writes, harvested before the report is handled.
    """
    spans = []
    swallows = not migration.memory.manual
    pending: dict[Report, tuple[int, int]] = {}
    syncs = 0
    for event in migration.events:
        if event.kind == "sync":
            syncs += 1
        elif event.kind == "snapshot" and event.report is not None:
            pending[event.report] = (event.guest_ns, syncs)
        elif event.kind == "handled" and event.report is not None:
            begin, before = pending.pop(event.report)
            if swallows and syncs > before:
                spans.append((begin, event.guest_ns))
            elif not swallows:
                spans.append((begin, migration.clock.guest(stop_ns)))
    if not spans:
        return np.empty(0, np.int64)
    begin, end = _merged(spans)
    quantum = max(migration.trace.meta.quantum_ns, 1)
    words = np.zeros((migration.trace.meta.pages + 63) // 64 * 64, np.bool_)
    feed = Feed(migration.trace, "freelist", migration.passes)
    for rows in feed.between(0, None):
        if rows.t[0] > end[-1] + _slack(migration):
            break
        taken = np.flatnonzero(~rows.free)
        late = rows.t[taken] // quantum * quantum + quantum - 1
        early = (rows.since if len(rows.since) else rows.t)[taken] // quantum * quantum
        # The first span that ends at or after `early` must begin before `late`.
        span = np.minimum(np.searchsorted(end, early), len(end) - 1)
        for i in taken[(end[span] >= early) & (begin[span] < late)]:
            words[rows.page[i] : rows.page[i] + rows.count[i]] = True
    return np.flatnonzero(words).astype(np.int64)


def _slack(migration: Migration) -> int:
    """Return how far the latest window can reach back from its row's time."""
    if migration.trace.meta.freelist_resolution != "sampled":
        return max(migration.trace.meta.quantum_ns, 1)
    return int(migration.last_guest_ns)


def _merged(spans: list[tuple[int, int]]) -> tuple[Int64s, Int64s]:
    merged: list[list[int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    columns = np.array(merged, np.int64).T
    return np.ascontiguousarray(columns[0]), np.ascontiguousarray(columns[1])


def _schedule(observation: Observation) -> _Schedule:
    """Return the control events that matter to a page; handled reports are numbered in turn."""
    named: dict[Report, int] = {}
    rows: list[tuple[int, int, int, int, int, int]] = []
    rounds = 0
    for event in observation.migration.events:
        copied = int(event.kind == "chunk" and event.report is None)
        at = (rounds, event.host_ns, copied)
        if event.kind == "pass":
            rounds += 1
        elif event.kind == "sync":
            rows.append((*at, _SYNC, event.guest_ns, 0))
        elif event.kind == "chunk":
            guest = _guest_at.py_func(event.host_ns, observation.migration.clock.segments_array)
            rows.append((*at, _CHUNK, guest, event.chunk))
        elif event.report is not None and event.report.outcome == "handled":
            which = named.setdefault(event.report, len(named))
            kind = _SNAPSHOT if event.kind == "snapshot" else _HANDLED
            rows.append((*at, kind, event.guest_ns, which))
    rows.sort(key=lambda row: row[:3])
    table = np.array(rows, np.int64).reshape(-1, 6).T
    return _Schedule(np.arange(len(rows)), table[0], *(column.copy() for column in table[[1,3,4,5]]))


def _by_page(touched: Touches, pages: int) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Return rows grouped by page: where each page's begin, t, since, free (as int64)."""
    order = np.argsort(touched.who, kind="stable")
    begin = np.searchsorted(touched.who[order], np.arange(pages + 1))
    free = touched.free[order] if len(touched.free) else np.zeros(len(order), np.bool_)
    return begin, touched.t[order], touched.since[order], free.astype(np.int64)


_jit = njit(cache=True, nogil=True)


@_jit
def _guest_at(host, segments):  # type: ignore[no-untyped-def]
    i = len(segments) - 1
    while i > 0 and segments[i, 0] > host:
        i -= 1
    return segments[i, 1] + (host - segments[i, 0]) * segments[i, 2] // 100


@_jit
def _add(states, count, state):  # type: ignore[no-untyped-def]
    """Put a state into the set if it is new; return the set's size."""
    for i in range(count):
        if states[i] == state:
            return count
    if count < len(states):
        states[count] = state
    return count + 1


@_jit
def _free_now(state, free):  # type: ignore[no-untyped-def]
    """Whether the page is on the free list: free[0] is its start, free[i] after transition i."""
    return free[state >> _MOVE_0]


@_jit
def _between(  # type: ignore[no-untyped-def]
    states, count, begin, end, low, high, free, w_low, w_high, w_must, w_any, ack
):
    """Close the set over what the guest may do in begin..end, in any order."""
    may, may_on_free, must = False, False, False
    for i in range(len(w_low)):
        if w_low[i] <= begin and end <= w_high[i]:
            may, must = True, must or w_must[i]
            may_on_free = may_on_free or w_any[i]
    at = 0
    while at < count:
        state = states[at]
        at += 1
        if may and (may_on_free or not _free_now(state, free)):
            written = (state | _L | _W) & ~(_S | _Z)
            count = _add(states, count, written | _O if must else written)
        move = state >> _MOVE_0
        if move < len(low) and low[move] <= begin and end <= high[move]:
            moved = state + (1 << _MOVE_0)
            if not free[move + 1]:
                moved &= ~_W
                if ack:
                    moved &= ~_MEMBER
            count = _add(states, count, moved)
        if count > len(states):
            return count
    return count


@_jit
def _expire(states, count, end, high, w_high, w_must):  # type: ignore[no-untyped-def]
    """Drop what could only have happened by `end` and has not."""
    due = 0
    while due < len(high) and high[due] <= end:
        due += 1
    served = True
    for i in range(len(w_high)):
        if w_high[i] == end and w_must[i]:
            served = False
    kept = 0
    for i in range(count):
        state = states[i]
        if (state >> _MOVE_0) < due or (not served and not state & _O):
            continue
        kept = _add(states[: i + 1], kept, state if served else state & ~_O)
    return kept


@_jit
def _event(states, count, kind, which, free, manual, clears):  # type: ignore[no-untyped-def]
    kept = 0
    for i in range(count):
        s = states[i]
        if kind == _SYNC:
            if s & _L:
                s |= _P
            if manual:
                s = (s | _H if s & _L else s & ~_H) | _M
            else:
                s &= ~_L
        elif kind == _SNAPSHOT:
            if _free_now(s, free):
                s |= 1 << (_SLOT_0 + which)
        elif kind == _HANDLED:
            if s & (1 << (_SLOT_0 + which)):
                s &= ~(_P | (1 << (_SLOT_0 + which)))
                if clears and s & _M:
                    s = (s & ~_L if s & _H else s) & ~_M
        elif kind == _CHUNK:
            if s & _M:
                s = (s & ~_L if s & _H else s) & ~_M
        elif s & _P:  # the cursor passes: copied
            if s & _M:
                s = (s & ~_L if s & _H else s) & ~_M
            s = (s & ~(_P | _D) if s & _Z else (s & ~_P) | _D) | _S
        kept = _add(states[: i + 1], kept, s)
    return kept


@_jit
def _windows(t, epochs, resolution, quantum, last):  # type: ignore[no-untyped-def]
    """Return the windows of a page's writes: low, high, must (one at least), row time."""
    low, high = np.empty(2 * len(t), np.int64), np.empty(2 * len(t), np.int64)
    must, row = np.zeros(2 * len(t), np.bool_), np.empty(2 * len(t), np.int64)
    n = 0
    for i in range(len(t)):
        end = t[i] // quantum * quantum + quantum - 1
        begin = t[i] // quantum * quantum
        if resolution == 2:
            before = np.searchsorted(epochs, t[i], side="left") - 1
            begin = (epochs[before] if before >= 0 else 0) + 1
        if t[i] > 0 and (n == 0 or not (must[n - 1] and low[n - 1] == max(begin, 1))):
            low[n], high[n], must[n], row[n] = max(begin, 1), max(end, 1), True, t[i]
            n += 1
        if resolution == 1:
            after = np.searchsorted(epochs, t[i], side="right")
            until = epochs[after] if after < len(epochs) else last
            until = until // quantum * quantum + quantum - 1
            if until >= 1:
                low[n], high[n], must[n], row[n] = max(begin, 1), until, False, t[i]
                n += 1
    return low[:n], high[:n], must[:n], row[:n]


@_jit
def _page(  # type: ignore[no-untyped-def]
    keys, kind, guest, which, passed, chunk, segments, m_t, m_since, m_free, w_t, z_t, epochs,
    resolution, quantum, stop, manual, clears, ack,
):  # fmt: skip
    """Follow one page's set of states to switchover; return _SAFE, _LOSES or _GAVE_UP."""
    first = np.searchsorted(m_t, 0, side="right")
    low = np.maximum(m_since[first:] // quantum * quantum, 0)
    high = m_t[first:] // quantum * quantum + quantum - 1
    free = np.zeros(len(low) + 1, np.bool_)
    if first > 0:
        free[0] = m_free[first - 1] == 1
    elif len(m_free):
        free[0] = m_free[0] == 0
    for i in range(len(low)):
        free[i + 1] = m_free[first + i] == 1
        if i:  # in their order
            low[i] = max(low[i], low[i - 1])
    w_low, w_high, w_must, w_row = _windows(w_t, epochs, resolution, quantum, stop)
    w_any = np.zeros(len(w_low), np.bool_)
    for i in range(len(w_low)):
        w_any[i] = w_must[i] and free[np.searchsorted(m_t[first:], w_row[i], side="right")]
    if len(low) >= _MAX_MOVES:
        return _GAVE_UP
    cuts = np.concatenate((low, high + 1, w_low, w_high + 1, z_t, z_t + 1, guest + 1))
    cuts = np.unique(np.concatenate((cuts, np.array([0, stop + 1]))))
    zero = len(z_t) > 0 and z_t[0] <= 0
    states = np.empty(_MAX_STATES, np.int64)
    states[0] = _P | (_L | _H | _M if manual else 0) | (_Z | _S if zero else 0)
    count, cut, e, p = 1, 0, 0, 0
    last_pass = len(passed)
    while True:
        pass_key = passed[p] if p < last_pass else np.int64(2**62)
        event_key = keys[e] if e < len(keys) else np.int64(2**62)
        is_pass = pass_key < event_key
        done = p == last_pass and e == len(keys)
        now = stop if done else _guest_at(passed[p] // 8, segments) if is_pass else guest[e]
        while cut < len(cuts) and cuts[cut] <= now:
            begin = cuts[cut]
            end = cuts[cut + 1] - 1 if cut + 1 < len(cuts) else now
            if end > now:  # a pass may fall inside an interval: cut it there
                end = now
                cuts[cut] = now + 1
            else:
                cut += 1
            if begin >= 0:
                count = _between(
                    states, count, begin, end, low, high, free, w_low, w_high, w_must, w_any, ack
                )
                if count > _MAX_STATES:
                    return _GAVE_UP
                for i in range(len(z_t)):
                    if z_t[i] == end and end > 0:
                        kept = 0
                        for j in range(count):
                            s = states[j] | _Z
                            kept = _add(states[: j + 1], kept, s if s & _D else s | _S)
                        count = kept
                count = _expire(states, count, end, high, w_high, w_must)
        if done:
            break
        if is_pass:
            count = _event(states, count, _PASS, 0, free, manual, clears)
            p += 1
        else:
            if kind[e] != _CHUNK or which[e] == chunk:
                count = _event(states, count, kind[e], which[e], free, manual, clears)
            e += 1
    for i in range(count):
        s = states[i]
        if not s & (_P | _S) and s & _W and not _free_now(s, free):
            return _LOSES
    return _SAFE


@_jit
def _search(  # type: ignore[no-untyped-def]
    keys, kind, guest, which, passed, chunk, segments, m_begin, m_t, m_since, m_free, w_begin, w_t,
    z_begin, z_t, epochs, resolution, quantum, stop, manual, clears, ack,
):  # fmt: skip
    for i in range(len(chunk)):
        m, w = slice(m_begin[i], m_begin[i + 1]), slice(w_begin[i], w_begin[i + 1])
        found = _page(
            keys, kind, guest, which, passed[:, i].copy(), chunk[i], segments,
            m_t[m], m_since[m], m_free[m], w_t[w], z_t[z_begin[i] : z_begin[i + 1]], epochs,
            resolution, quantum, stop, manual, clears, ack,
        )  # fmt: skip
        if found != _SAFE:
            return i, found
    return 0, _SAFE
