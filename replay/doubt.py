"""Whether a page could have been lost that the recorded moments did not lose.

The model, section 7. The schedule of the recorded replay stands: its syncs, snapshots, handlings,
chunk clears and the times at which the cursor passed each page. On it pages are independent of
each other, so for each page the set of states that some allowed history leads to is followed from
event to event. A history may place hidden writes, move a free-list transition within its
[since_ns, t_ns] and reorder what one quantum holds; a guest writes no page on its free list but
where a row says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from replay.engine import Migration
from replay.feed import Feed, looped_epochs
from replay.hints import Report
from replay.observe import Observation, Touches, observe, touches
from tracer.rows import Flags, Int64s

# State bits of a page. P pending, L log, S synced, W written since the last take, Z content zero,
# D destination holds non-zero, H harvested, M chunk marked.
_P, _L, _S, _W, _Z, _D, _H, _M = (1 << bit for bit in range(8))
_SERVED_0, _MOST_SERVED = 8, 3  # how many of the open windows that need a write have had one
_SERVED = _MOST_SERVED << _SERVED_0
_SLOTS, _SLOT_0 = 39, 10  # one bit a report that names the page and is on its way
_MOVE_0 = _SLOT_0 + _SLOTS  # above: how many of its free-list transitions have happened
_MAX_MOVES = 1 << 13
_MEMBER = ((1 << _SLOTS) - 1) << _SLOT_0

_SYNC, _SNAPSHOT, _HANDLED, _CHUNK, _PASS = range(5)
#: More states than this for one page: the search gives up and says so.
_MAX_STATES = 1 << 13
#: After so many pages given up on no other is looked at.
_MOST_GIVEN_UP = 64
#: Pages searched at once: bounds the memory for their passes.
_AT_ONCE = 1 << 17

_SAFE, _LOSES, _GAVE_UP = range(3)


@dataclass(frozen=True)
class Doubt:
    """A page that an allowed history loses; `proved` is false where the search gave up on it."""

    page: int
    proved: bool


class _Schedule(NamedTuple):
    """The control events in order, as arrays: round, host ns, kind, guest ns, report or chunk.

    round: how many rounds had ended. The cursor passes the last pages of a round at the instant
    of the sync that begins the next, and before it.
    """

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
    unproved = None
    candidates = _candidates(finished, stop_ns)
    for at in range(0, len(candidates), _AT_ONCE):
        doubt = search(observe(make(candidates[at : at + _AT_ONCE])))
        if doubt is not None and doubt.proved:
            return doubt
        unproved = unproved or doubt
    return unproved


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
            asked, before = pending.pop(event.report)
            if swallows and syncs > before:
                spans.append((asked, event.guest_ns))
            elif not swallows:
                spans.append((asked, migration.clock.guest(stop_ns)))
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


def _schedule(migration: Migration, segments: Int64s) -> _Schedule:
    """Return the control events that matter to a page; handled reports are numbered in turn."""
    named: dict[Report, int] = {}
    rows = []
    rounds = 0
    for event in migration.events:
        if event.kind == "pass":
            rounds += 1
            continue
        by_cursor = event.kind == "chunk" and event.report is None
        at = (rounds, event.host_ns, by_cursor)
        if event.kind == "sync":
            rows.append((*at, _SYNC, event.guest_ns, 0))
        elif event.kind == "chunk":  # noted after the guest may have been stopped
            guest = int(_guest_at(event.host_ns, segments))
            rows.append((*at, _CHUNK, guest, event.chunk))
        elif event.report is not None and event.report.outcome == "handled":
            kind = _SNAPSHOT if event.kind == "snapshot" else _HANDLED
            rows.append((*at, kind, event.guest_ns, named.setdefault(event.report, len(named))))
    rows.sort(key=lambda row: row[:3])
    columns = np.array(rows, np.int64).reshape(-1, 6).T.copy()
    return _Schedule(*columns[[0, 1, 3, 4, 5]])


def search(observation: Observation) -> Doubt | None:
    """Return the first watched page that can be lost, else the first that was given up on."""
    migration = observation.migration
    meta, watch = migration.trace.meta, migration.watch
    quantum = max(meta.quantum_ns, 1)
    segments = np.array(migration.clock.segments, np.int64)
    stop = migration.clock.guest(observation.stop_ns)
    schedule = _schedule(migration, segments)
    passed = np.zeros((len(watch), len(observation.passes)), np.int64)
    for i, event in enumerate(observation.passes):
        assert event.passed is not None
        passed[:, i] = event.passed
    chunk = np.searchsorted(migration.memory.chunks, watch, side="right") - 1
    # Of the chunk clears a page needs those of its own chunk only.
    clears = np.flatnonzero(schedule.kind == _CHUNK)
    clears = clears[np.argsort(schedule.which[clears], kind="stable")]
    of_chunk = np.searchsorted(schedule.which[clears], np.arange(len(migration.memory.chunks) + 1))
    epochs = _epochs(migration)
    writes_end = _last_row_that_matters(migration, epochs, stop)
    moves_end = writes_end
    if meta.freelist_resolution == "sampled":
        passes_end = -(-(stop + quantum) // max(meta.duration_ns, 1)) * meta.duration_ns
        moves_end = max(writes_end, passes_end)
    moves, writes, zeros = (
        _by_page(touches(feed, watch, until), len(watch))
        for feed, until in (
            (Feed(migration.trace, "freelist", migration.passes), moves_end),
            (Feed(migration.trace, "dirty", migration.passes), writes_end),
            (Feed(migration.trace, "zero", migration.passes), stop),
        )
    )
    names, misses = _named_blocks(migration, schedule)
    index, verdict = _search(
        *schedule, np.flatnonzero(schedule.kind != _CHUNK), clears, of_chunk, watch, passed, chunk,
        names, misses, segments, *moves, *writes[:2], *zeros[:2], epochs,
        ("write", "first-write", "epoch").index(meta.resolution), quantum, stop,
        migration.memory.manual, migration.parameters.hint_clears_log, migration.hold == "ack",
    )  # fmt: skip
    return None if verdict == _SAFE else Doubt(int(watch[index]), verdict == _LOSES)


def _epochs(migration: Migration) -> Int64s:
    """Return when epochs end; without epochs.arrow every time of an `epoch` trace's rows is one."""
    epochs = looped_epochs(migration.trace, migration.passes)
    if len(epochs) or migration.trace.meta.resolution != "epoch":
        return epochs
    parts = [rows.t for rows in migration.trace.rows("dirty")]
    return np.unique(np.concatenate([epochs, *parts]))


def _last_row_that_matters(migration: Migration, epochs: Int64s, stop: int) -> int:
    """Return the guest time of the last dirty row that may stand for a write up to `stop`."""
    quantum = max(migration.trace.meta.quantum_ns, 1)
    last = stop // quantum * quantum + quantum - 1
    if migration.trace.meta.resolution == "epoch":
        later = epochs[epochs > last]
        return int(later[0]) if len(later) else migration.last_guest_ns
    return last


def _named_blocks(migration: Migration, schedule: _Schedule) -> tuple[Flags, Flags]:
    """Return whether its neighbours let a report name a watched page, and whether they forbid it.

    Each is bool, (reports, watched pages), or has no rows without a minimum order. With one a
    report names a free page if the rest of its block is free too; both may be possible. Every
    neighbour is taken through its own windows, each snapshot apart.
    """
    order, pages, watch = (
        migration.parameters.min_order,
        migration.trace.meta.pages,
        migration.watch,
    )
    snapshots = schedule.guest[schedule.kind == _SNAPSHOT] if order else schedule.guest[:0]
    names, misses = np.zeros((2, len(snapshots), len(watch)), np.bool_)
    parts = list(Feed(migration.trace, "freelist", migration.passes).between(0, None))
    if not len(snapshots) or not parts:
        return names, misses
    quantum = max(migration.trace.meta.quantum_ns, 1)
    t, page, past, sign, since = (
        np.concatenate(columns)
        for columns in zip(
            *(
                (
                    rows.t,
                    rows.page,
                    rows.page + rows.count,
                    np.where(rows.free, 1, -1),
                    rows.since if len(rows.since) else rows.t,
                )
                for rows in parts
            ),
            strict=True,
        )
    )
    low = np.maximum(since // quantum * quantum, 0)
    high = np.where(t > 0, t // quantum * quantum + quantum - 1, 0)

    def over(rows: Int64s, values: Int64s) -> Int64s:
        steps = np.zeros(pages + 1, np.int64)
        np.add.at(steps, page[rows], values)
        np.add.at(steps, past[rows], -values)
        return np.cumsum(steps[:-1])

    for i, guest in enumerate(snapshots):
        done, open_ = np.flatnonzero(high <= guest), np.flatnonzero((high > guest) & (low <= guest))
        free, unsure = over(done, sign[done]) > 0, over(open_, np.ones(len(open_), np.int64)) > 0
        for block in migration.trace.meta.blocks:
            run = slice(block.first_page, block.first_page + (block.pages >> order << order))
            shape = (-1, 1 << order)
            never, used = ~(free | unsure)[run].reshape(shape), (~free | unsure)[run].reshape(shape)
            inside = (watch >= run.start) & (watch < run.stop)
            at = watch[inside] - run.start
            names[i, inside] = ((never.sum(1, keepdims=True) - never) == 0).ravel()[at]
            misses[i, inside] = ((used.sum(1, keepdims=True) - used) > 0).ravel()[at]
    return names, misses


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
    states, count, served, may, may_on_free, first_move, past_move, free, ack
):
    """Close the set over what the guest may do in a span of time, in any order.

    Transitions first_move..past_move-1 may happen in it; a write leaves `served` of the open
    windows served.
    """
    at = 0
    while at < count:
        state = states[at]
        at += 1
        if may and (may_on_free or not _free_now(state, free)):
            written = (state | _L | _W) & ~(_S | _Z | _SERVED)
            count = _add(states, count, written | served << _SERVED_0)
        move = state >> _MOVE_0
        if first_move <= move < past_move:
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
def _expire(states, count, moves_due, writes_due):  # type: ignore[no-untyped-def]
    """Drop what could only have happened by now and has not."""
    kept = 0
    for i in range(count):
        state = states[i]
        served = (state & _SERVED) >> _SERVED_0
        if (state >> _MOVE_0) >= moves_due and served >= writes_due:
            left = state & ~_SERVED | (served - writes_due) << _SERVED_0
            kept = _add(states[: i + 1], kept, left)
    return kept


@_jit
def _zeroed(states, count):  # type: ignore[no-untyped-def]
    kept = 0
    for i in range(count):
        s = states[i] | _Z
        kept = _add(states[: i + 1], kept, s if s & _D else s | _S)
    return kept


@_jit
def _cleared(s):  # type: ignore[no-untyped-def]
    """Clear the log of the page's chunk, if it is marked."""
    if s & _M:
        s = (s & ~_L if s & _H else s) & ~_M
    return s


@_jit
def _event(states, count, kind, member, keep, manual, clears):  # type: ignore[no-untyped-def]
    """Apply a sync, a handling, a chunk clear or a pass.

    member: the bit of the handled report; keep: that bit where other reports share it.
    """
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
        elif kind == _HANDLED:
            if s & member:
                s &= ~(_P | member) | keep
                if clears:
                    s = _cleared(s)
        elif kind == _CHUNK:
            s = _cleared(s)
        elif s & _P:  # the cursor passes: copied
            s = _cleared(s)
            s = (s & ~(_P | _D) if s & _Z else (s & ~_P) | _D) | _S
        kept = _add(states[: i + 1], kept, s)
    return kept


@_jit
def _snapshot(states, count, member, free, named, missed):  # type: ignore[no-untyped-def]
    """The guest notes its free pages; the report may name this one (or not) if it is free."""
    fresh = count
    for i in range(count):
        if _free_now(states[i], free) and named:
            if missed:
                fresh = _add(states, fresh, states[i] | member)
            else:
                states[i] |= member
    return fresh


@_jit
def _alike(states, count, member, free):  # type: ignore[no-untyped-def]
    """Whether the report of that bit names the page just where it is free now."""
    same = True
    for i in range(count):
        same &= (states[i] & member != 0) == _free_now(states[i], free)
    return same


@_jit
def _windows(t, m_t, m_free, epochs, resolution, quantum, stop):  # type: ignore[no-untyped-def]
    """Return the windows of a page's writes, each kind ascending at both ends.

    (low, high, on_free) of those that need a write (on_free: the recording has it on the free
    list), and (low, high) of those that may have some.
    """
    low, high = np.empty(len(t), np.int64), np.empty(len(t), np.int64)
    on_free = np.zeros(len(t), np.bool_)
    may_low, may_high = np.empty(len(t), np.int64), np.empty(len(t), np.int64)
    n = may = 0
    for i in range(len(t)):
        begin = t[i] // quantum * quantum
        end = begin + quantum - 1
        if resolution == 2:
            before = np.searchsorted(epochs, t[i], side="left") - 1
            begin = epochs[before] if before >= 0 else 0
            begin = begin + 1 if quantum == 1 else begin // quantum * quantum
        begin = max(begin, 1)
        if t[i] > 0:
            if n == 0 or low[n - 1] != begin or high[n - 1] != end:
                low[n], high[n] = begin, end
                n += 1
            row = np.searchsorted(m_t, t[i], side="right") - 1
            on_free[n - 1] |= row >= 0 and m_free[row] == 1
        if resolution == 1:
            after = np.searchsorted(epochs, t[i], side="right")
            until = epochs[after] if after < len(epochs) else stop
            may_low[may], may_high[may] = begin, until // quantum * quantum + quantum - 1
            may += 1
    return low[:n], high[:n], on_free[:n], may_low[:may], may_high[:may]


@_jit
def _page(  # type: ignore[no-untyped-def]
    round_, host, kind, guest, which, common, clears, passed, names, misses, segments,
    m_t, m_since, m_free, w_t, z_t, epochs, resolution, quantum, stop, manual, hint_clears, ack,
    states,
):  # fmt: skip
    """Follow one page's set of states to switchover; return _SAFE, _LOSES or _GAVE_UP."""
    first = np.searchsorted(m_t, 0, side="right")
    low = np.maximum(m_since[first:] // quantum * quantum, 0)
    high = m_t[first:] // quantum * quantum + quantum - 1
    free = np.zeros(len(low) + 1, np.bool_)
    free[0] = first > 0 and m_free[first - 1] == 1
    for i in range(len(low)):
        free[i + 1] = m_free[first + i] == 1
        if i:  # in their order
            low[i] = max(low[i], low[i - 1])
    if len(low) >= _MAX_MOVES:
        return _GAVE_UP
    w_low, w_high, w_on_free, may_low, may_high = _windows(
        w_t, m_t, m_free, epochs, resolution, quantum, stop
    )
    z = np.searchsorted(z_t, 0, side="right")
    w = np.searchsorted(w_t, 0, side="right")
    zero = z > 0 and (w == 0 or z_t[z - 1] >= w_t[w - 1])
    states[0] = _P | (_L | _H | _M if manual else 0) | (_Z | _S if zero else 0)
    count, now = 1, -1
    slot_of = np.full(len(common), -1, np.int64)
    users = np.zeros(_SLOTS, np.int64)
    last_slot = 0
    m_open = m_over = w_open = w_over = may_open = may_over = 0
    e = c = p = 0
    while True:
        # What is next: an event of all pages, a clear of the page's chunk, or a pass.
        event = common[e] if e < len(common) else len(kind)
        if c < len(clears) and clears[c] < event:
            event = clears[c]
        is_pass = p < len(passed) and (
            event == len(kind)
            or round_[event] > p
            or (round_[event] == p and host[event] > passed[p])
        )
        done = event == len(kind) and not is_pass
        until = stop if done else _guest_at(passed[p], segments) if is_pass else guest[event]
        while now < until:
            # What the guest may do from begin to end, between which no window opens or closes.
            begin, end = now + 1, until
            while m_open < len(low) and low[m_open] <= begin:
                m_open += 1
            while w_open < len(w_low) and w_low[w_open] <= begin:
                w_open += 1
            while may_open < len(may_low) and may_low[may_open] <= begin:
                may_open += 1
            while may_over < may_open and may_high[may_over] < begin:
                may_over += 1
            if m_open < len(low):
                end = min(end, low[m_open] - 1)
            if m_over < m_open:
                end = min(end, high[m_over])
            if w_open < len(w_low):
                end = min(end, w_low[w_open] - 1)
            if w_over < w_open:
                end = min(end, w_high[w_over])
            if may_open < len(may_low):
                end = min(end, may_low[may_open] - 1)
            if may_over < may_open:
                end = min(end, may_high[may_over])
            if z < len(z_t):
                end = min(end, begin if z_t[z] == begin else z_t[z] - 1)
            may = w_over < w_open or may_over < may_open
            if may or m_over < m_open:
                if w_open - w_over > _MOST_SERVED:
                    return _GAVE_UP
                count = _between(
                    states, count, w_open - w_over, may, w_on_free[w_over:w_open].any(),
                    m_over, m_open, free, ack,
                )  # fmt: skip
                if count > len(states):
                    return _GAVE_UP
            if z < len(z_t) and z_t[z] == end:
                count = _zeroed(states, count)
                while z < len(z_t) and z_t[z] == end:
                    z += 1
            writes_due = 0
            while w_over < w_open and w_high[w_over] == end:
                w_over += 1
                writes_due += 1
            moves_due = m_over
            while moves_due < m_open and high[moves_due] == end:
                moves_due += 1
            if writes_due or moves_due > m_over:
                count = _expire(states, count, moves_due, writes_due)
                m_over = moves_due
            now = end
        if done:
            break
        if is_pass:
            count = _event(states, count, _PASS, 0, 0, manual, hint_clears)
            p += 1
            continue
        report = which[event]
        if kind[event] == _SNAPSHOT:
            named = names[report] if len(names) else True
            missed = misses[report] if len(misses) else False
            share = users[last_slot] > 0 and not missed and named
            if not (share and _alike(states, count, 1 << (_SLOT_0 + last_slot), free)):
                last_slot = 0
                while last_slot < _SLOTS and users[last_slot]:
                    last_slot += 1
                if last_slot == _SLOTS:
                    return _GAVE_UP
                count = _snapshot(states, count, 1 << (_SLOT_0 + last_slot), free, named, missed)
                if count > len(states):
                    return _GAVE_UP
            slot_of[report] = last_slot
            users[last_slot] += 1
        elif kind[event] == _HANDLED:
            slot = slot_of[report]
            users[slot] -= 1
            member = 1 << (_SLOT_0 + slot)
            keep = member if users[slot] else 0
            count = _event(states, count, _HANDLED, member, keep, manual, hint_clears)
        else:
            count = _event(states, count, kind[event], 0, 0, manual, hint_clears)
        if event < len(kind) and kind[event] == _CHUNK:
            c += 1
        else:
            e += 1
    for i in range(count):
        s = states[i]
        if not s & (_P | _S) and s & _W and not _free_now(s, free):
            return _LOSES
    return _SAFE


@_jit
def _search(  # type: ignore[no-untyped-def]
    round_, host, kind, guest, which, common, clears, of_chunk, watch, passed, chunk, names,
    misses, segments, m_begin, m_t, m_since, m_free, w_begin, w_t, z_begin, z_t, epochs,
    resolution, quantum, stop, manual, hint_clears, ack,
):  # fmt: skip
    states = np.empty(_MAX_STATES, np.int64)
    unproved = given_up = 0
    for i in range(len(watch)):
        m, w = slice(m_begin[i], m_begin[i + 1]), slice(w_begin[i], w_begin[i + 1])
        found = _page(
            round_, host, kind, guest, which, common,
            clears[of_chunk[chunk[i]] : of_chunk[chunk[i] + 1]], passed[i],
            names[:, i].copy(), misses[:, i].copy(),
            segments, m_t[m], m_since[m], m_free[m], w_t[w],
            z_t[z_begin[i] : z_begin[i + 1]], epochs, resolution, quantum, stop, manual,
            hint_clears, ack, states,
        )  # fmt: skip
        if found == _LOSES:
            return i, found
        if found == _GAVE_UP:
            unproved = i if given_up == 0 else unproved
            given_up += 1
            if given_up == _MOST_GIVEN_UP:
                break
    return unproved, _GAVE_UP if given_up else _SAFE
