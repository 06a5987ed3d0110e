"""The compiled part of the search for histories that lose a page; see `replay.doubt`.

A page's state is one int64 of bits, and the set of states that some allowed history leads to is
followed from control event to control event.
"""

from __future__ import annotations

import numpy as np

from tracer.compiled import compiled

# State bits of a page. P pending, L log, S synced, W written since the last take, Z content zero,
# D destination holds non-zero, H harvested, M chunk marked.
_P, _L, _S, _W, _Z, _D, _H, _M = (1 << bit for bit in range(8))
_SERVED_0, _MOST_SERVED = 8, 3  # how many of the open windows that need a write have had one
_SERVED = _MOST_SERVED << _SERVED_0
SLOTS, _SLOT_0 = 39, 10  # one bit a report that names the page and is on its way
_MOVE_0 = _SLOT_0 + SLOTS  # above: how many of its free-list transitions have happened
_MAX_MOVES = 1 << 13
_MEMBER = ((1 << SLOTS) - 1) << _SLOT_0

SYNC, SNAPSHOT, HANDLED, CHUNK, PASS = range(5)
#: More states than this for one page: the search gives up and says so.
MAX_STATES = 1 << 13
#: After so many pages given up on no other is looked at.
_MOST_GIVEN_UP = 64

SAFE, LOSES, GAVE_UP = range(3)


@compiled
def guest_at(host, segments):  # type: ignore[no-untyped-def]
    """Return the guest time at a host time; segments: int64 rows of host, guest, rate."""
    i = len(segments) - 1
    while i > 0 and segments[i, 0] > host:
        i -= 1
    return segments[i, 1] + (host - segments[i, 0]) * segments[i, 2] // 100


@compiled
def _add(states, count, state):  # type: ignore[no-untyped-def]
    """Put a state into the set if it is new; return the set's size."""
    for i in range(count):
        if states[i] == state:
            return count
    if count < len(states):
        states[count] = state
    return count + 1


@compiled
def _free_now(state, free):  # type: ignore[no-untyped-def]
    """Whether the page is on the free list: free[0] is its start, free[i] after transition i."""
    return free[state >> _MOVE_0]


@compiled
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


@compiled
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


@compiled
def _zeroed(states, count):  # type: ignore[no-untyped-def]
    kept = 0
    for i in range(count):
        s = states[i] | _Z
        kept = _add(states[: i + 1], kept, s if s & _D else s | _S)
    return kept


@compiled
def _cleared(s):  # type: ignore[no-untyped-def]
    """Clear the log of the page's chunk, if it is marked."""
    if s & _M:
        s = (s & ~_L if s & _H else s) & ~_M
    return s


@compiled
def _event(states, count, kind, member, keep, manual, clears):  # type: ignore[no-untyped-def]
    """Apply a sync, a handling, a chunk clear or a pass.

    member: the bit of the handled report; keep: that bit where other reports share it.
    """
    kept = 0
    for i in range(count):
        s = states[i]
        if kind == SYNC:
            if s & _L:
                s |= _P
            if manual:
                s = (s | _H if s & _L else s & ~_H) | _M
            else:
                s &= ~_L
        elif kind == HANDLED:
            if s & member:
                s &= ~(_P | member) | keep
                if clears:
                    s = _cleared(s)
        elif kind == CHUNK:
            s = _cleared(s)
        elif s & _P:  # the cursor passes: copied
            s = _cleared(s)
            s = (s & ~(_P | _D) if s & _Z else (s & ~_P) | _D) | _S
        kept = _add(states[: i + 1], kept, s)
    return kept


@compiled
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


@compiled
def _alike(states, count, member, free):  # type: ignore[no-untyped-def]
    """Whether the report of that bit names the page just where it is free now."""
    same = True
    for i in range(count):
        same &= (states[i] & member != 0) == _free_now(states[i], free)
    return same


@compiled
def write_windows(t, m_t, m_free, epochs, resolution, quantum, stop):  # type: ignore[no-untyped-def]
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


@compiled
def move_windows(m_t, m_since, m_free, quantum):  # type: ignore[no-untyped-def]
    """Return the windows (low, high) of a page's transitions; whether it is free, before and after.

    `free` is one longer than the windows and begins with the start.
    """
    first = np.searchsorted(m_t, 0, side="right")
    low = np.maximum(m_since[first:] // quantum * quantum, 0)
    high = m_t[first:] // quantum * quantum + quantum - 1
    free = np.zeros(len(low) + 1, np.bool_)
    free[0] = first > 0 and m_free[first - 1] == 1
    for i in range(len(low)):
        free[i + 1] = m_free[first + i] == 1
        if i:  # in their order
            low[i] = max(low[i], low[i - 1])
    return low, high, free


@compiled
def zero_at_start(w_t, z_t):  # type: ignore[no-untyped-def]
    """Whether a page is all zeros at the start."""
    z = np.searchsorted(z_t, 0, side="right")
    w = np.searchsorted(w_t, 0, side="right")
    return z > 0 and (w == 0 or z_t[z - 1] >= w_t[w - 1])


@compiled
def follow(  # type: ignore[no-untyped-def]
    round_, host, kind, guest, which, common, clears, passed, names, misses, segments,
    low, high, free, w_low, w_high, w_on_free, may_low, may_high, zero, z_t, stop, manual,
    hint_clears, ack, states,
):  # fmt: skip
    """Follow one page's set of states to switchover; return SAFE, LOSES or GAVE_UP."""
    if len(low) >= _MAX_MOVES:
        return GAVE_UP
    z = np.searchsorted(z_t, 0, side="right")
    states[0] = _P | (_L | _H | _M if manual else 0) | (_Z | _S if zero else 0)
    count, now = 1, -1
    slot_of = np.full(len(common), -1, np.int64)
    users = np.zeros(SLOTS, np.int64)
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
        until = stop if done else guest_at(passed[p], segments) if is_pass else guest[event]
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
                    return GAVE_UP
                count = _between(
                    states, count, w_open - w_over, may, w_on_free[w_over:w_open].any(),
                    m_over, m_open, free, ack,
                )  # fmt: skip
                if count > len(states):
                    return GAVE_UP
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
            count = _event(states, count, PASS, 0, 0, manual, hint_clears)
            p += 1
            continue
        report = which[event]
        if kind[event] == SNAPSHOT:
            named = names[report] if len(names) else True
            missed = misses[report] if len(misses) else False
            share = users[last_slot] > 0 and not missed and named
            if not (share and _alike(states, count, 1 << (_SLOT_0 + last_slot), free)):
                last_slot = 0
                while last_slot < SLOTS and users[last_slot]:
                    last_slot += 1
                if last_slot == SLOTS:
                    return GAVE_UP
                count = _snapshot(states, count, 1 << (_SLOT_0 + last_slot), free, named, missed)
                if count > len(states):
                    return GAVE_UP
            slot_of[report] = last_slot
            users[last_slot] += 1
        elif kind[event] == HANDLED:
            slot = slot_of[report]
            users[slot] -= 1
            member = 1 << (_SLOT_0 + slot)
            keep = member if users[slot] else 0
            count = _event(states, count, HANDLED, member, keep, manual, hint_clears)
        else:
            count = _event(states, count, kind[event], 0, 0, manual, hint_clears)
        if event < len(kind) and kind[event] == CHUNK:
            c += 1
        else:
            e += 1
    for i in range(count):
        s = states[i]
        if not s & (_P | _S) and s & _W and not _free_now(s, free):
            return LOSES
    return SAFE


@compiled
def search_pages(  # type: ignore[no-untyped-def]
    round_, host, kind, guest, which, common, clears, of_chunk, watch, passed, chunk, names,
    misses, segments, m_begin, m_t, m_since, m_free, w_begin, w_t, z_begin, z_t, epochs,
    resolution, quantum, stop, manual, hint_clears, ack,
):  # fmt: skip
    """Search page after page; return the index of one that can be lost, and what was found."""
    states = np.empty(MAX_STATES, np.int64)
    unproved = given_up = 0
    for i in range(len(watch)):
        m, w = slice(m_begin[i], m_begin[i + 1]), slice(w_begin[i], w_begin[i + 1])
        z = slice(z_begin[i], z_begin[i + 1])
        low, high, free = move_windows(m_t[m], m_since[m], m_free[m], quantum)
        w_low, w_high, w_on_free, may_low, may_high = write_windows(
            w_t[w], m_t[m], m_free[m], epochs, resolution, quantum, stop
        )
        found = follow(
            round_, host, kind, guest, which, common,
            clears[of_chunk[chunk[i]] : of_chunk[chunk[i] + 1]], passed[i],
            names[:, i].copy(), misses[:, i].copy(), segments, low, high, free,
            w_low, w_high, w_on_free, may_low, may_high, zero_at_start(w_t[w], z_t[z]), z_t[z],
            stop, manual, hint_clears, ack, states,
        )  # fmt: skip
        if found == LOSES:
            return i, found
        if found == GAVE_UP:
            unproved = i if given_up == 0 else unproved
            given_up += 1
            if given_up == _MOST_GIVEN_UP:
                break
    return unproved, GAVE_UP if given_up else SAFE
