"""What a guest does to its memory: the compiled application of a trace's rows.

One bit a page. Eight of a page's bits lie in the same row of `state`, a (words, 8) uint64 array
aligned to cache lines, so that whoever asks about 64 pages reads one line and not eight. What a
write does to them is put off: it sets the page's bit in `written` (words), an eighth of that
memory, and `settle` makes up for it before anyone looks at the pages of a word, or changes them.
No bounds are checked: rows reach a kernel only from a trace that `Trace.validate` has passed.
"""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

import numpy as np
from numba import njit

from replay.kernels.bits import fetch_ahead, popcount, run_mask, set_and_clear, unowned
from tracer.compiled import compiled

#: Columns of `state`. Belief: PENDING, LOG. Truth: the others.
PENDING, LOG, SYNCED, CREDIT, FREE, ZERO, HELD, WRITTEN = range(8)
# SYNCED: what the destination has equals the source's content. CREDIT: the copy that made it so
# was non-zero, of a page in use, and no write has outdated it. FREE: on the guest's free list.
# ZERO: the source's content is zero. HELD: the destination holds non-zero bytes.
# WRITTEN: written at or after the last take.

#: Slots of the control vector `ctl` (int64).
CURSOR, LINK_NS, LINK_REST, SENT, ZERO_SENT, REDUNDANT, FREE_SENT, SUPERSEDED = range(8)
DIRTY_ROW, FREE_ROW, ZERO_ROW, EPOCH, GUEST_0, HOST_0, RATE, WATCHED = range(8, 16)
BYTES, BYTES_LIMIT, COPIES_LIMIT, BLOCK = range(16, 20)
# BYTES: all that was put on the wire. A copy is begun while BYTES is not above BYTES_LIMIT and
# fewer than COPIES_LIMIT pages have been copied. BLOCK: whose page was copied last.
CTL_SIZE = 20

#: Why `sweep` came back (the last only inside: a row of pages that are about to be copied).
DUE, SWEPT, NEED_DIRTY, NEED_FREE, NEED_ZERO, EPOCH_END, SPENT, IN_THE_WAY = range(8)

FOREVER = np.iinfo(np.int64).max
#: Guest time runs at RATE / FULL_RATE of host time; 0 while the vCPUs are stopped.
FULL_RATE = 100

_ONE = np.uint64(1)
_NONE = np.uint64(0)
_SIX = np.uint64(6)
_63 = np.uint64(63)
#: So many rows ahead a word is fetched: enough to hide the way to memory. The words of a guest of
#: fewer are in the processor's cache anyway.
_AHEAD, _NEAR = np.uint64(128), 1 << 17
# What a write sets and clears, as columns.
_SETS = 1 << LOG | 1 << WRITTEN
_CLEARS = 1 << SYNCED | 1 << CREDIT | 1 << ZERO


@njit(cache=True, nogil=True, inline="always")
def write(state, word, mask):  # type: ignore[no-untyped-def]
    """The guest writes the pages `mask` of `word`; return how many good copies that outdates."""
    outdated = popcount(state[word, CREDIT] & mask)
    set_and_clear(state, word, mask, _SETS, _CLEARS)
    return outdated


@njit(cache=True, nogil=True, inline="always")
def settle(state, written, word):  # type: ignore[no-untyped-def]
    """Do the writes to `word` that were put off; return how many good copies they outdate."""
    mask = written[word]
    if mask == _NONE:
        return 0
    written[word] = _NONE
    return write(state, np.uint64(word), mask)


@compiled
def set_run(words, page, count):  # type: ignore[no-untyped-def]
    """Set the run's bits in `words`."""
    end = page + count
    while page < end:
        low = page & 63
        width = min(64 - low, end - page)
        words[page >> 6] |= run_mask(low, width)
        page += width


@compiled
def _free_run(state, written, moved, hot, page, count, free):  # type: ignore[no-untyped-def]
    """The run enters or leaves the free list; return how many copies writes so far outdate."""
    outdated, end = 0, page + count
    while page < end:
        word, low = np.uint64(page >> 6), page & 63
        width = min(64 - low, end - page)
        mask = run_mask(low, width)
        outdated += settle(state, written, word)
        if len(moved):
            moved[word >> _SIX] |= _ONE << (word & _63)
        if free:
            if len(hot):  # written without pause until this moment
                outdated += write(state, word, mask & hot[word] & ~state[word, FREE])
            state[word, FREE] |= mask
        else:
            state[word, FREE] &= ~mask
            state[word, WRITTEN] &= ~mask
        page += width
    return outdated


@compiled
def _zero_run(state, written, hot, page, count):  # type: ignore[no-untyped-def]
    """The run's content becomes zero; return how many copies writes so far outdate."""
    outdated, end = 0, page + count
    while page < end:
        word, low = np.uint64(page >> 6), page & 63
        width = min(64 - low, end - page)
        mask = run_mask(low, width)
        outdated += settle(state, written, word)
        if len(hot):
            mask &= ~hot[word] | state[word, FREE]
        state[word, ZERO] |= mask
        state[word, SYNCED] |= mask & ~state[word, HELD]
        page += width
    return outdated


@njit(cache=True, nogil=True, inline="always")
def dirty_rows(  # type: ignore[no-untyped-def]
    state, written, hot, dt, dp, dc, row, bound, first, past
):
    """Apply dirty rows up to guest time `bound`, up to the first one that is in the way.

    In the way is a row of pending pages among first..past-1, which are about to be copied, and any
    run that has a page of them. `hot` is empty where rows make no page hot. Returns the next row.
    """
    at, end = np.uint64(row), np.uint64(len(dt))
    begin, span = np.uint64(first), np.uint64(past - first)
    distant, cold = len(written) > _NEAR, len(hot) == 0
    while True:
        # Most rows are of one page. A loop that has nothing else in it is half as fast again.
        while cold and at < end and dt[at] <= bound and dc[at] == 1:
            if distant:
                fetch_ahead(written, np.uint64(dp[min(at + _AHEAD, end - _ONE)]) >> _SIX)
            page = np.uint64(dp[at])
            word, bit = page >> _SIX, _ONE << (page & _63)
            if page - begin < span and state[word, PENDING] & bit != _NONE:
                return np.int64(at)
            written[word] |= bit
            at += _ONE
        if at >= end or dt[at] > bound:
            return np.int64(at)
        page, count = np.uint64(dp[at]), np.int64(dc[at])
        if dp[at] < past and dp[at] + count > first:
            bit = _ONE << (page & _63)
            if count > 1 or state[page >> _SIX, PENDING] & bit != _NONE:
                return np.int64(at)
        set_run(written, dp[at], count)
        if not cold:
            set_run(hot, dp[at], count)
        at += _ONE


@compiled
def all_rows(  # type: ignore[no-untyped-def]
    state, written, moved, hot, ctl, guest, first, past,
    dt, dp, dc, d_more, ft, fp, fc, ff, f_more, zt, zp, zc, z_more, epochs, late_epochs,
):  # fmt: skip
    """Apply all rows up to guest time `guest`, in the model's order at one instant.

    Returns DUE or what is needed, and the time before which only dirty rows are ahead; IN_THE_WAY,
    and its time, at the first row of pages among first..past-1. Epoch ends come before the dirty
    rows of their instant, or with `late_epochs` after all of its rows.
    """
    state, written, hot = unowned(state), unowned(written), unowned(hot)
    dt, dp, dc = unowned(dt), unowned(dp), unowned(dc)
    d, f, z = ctl[DIRTY_ROW], ctl[FREE_ROW], ctl[ZERO_ROW]
    te = epochs[ctl[EPOCH]] if ctl[EPOCH] < len(epochs) else FOREVER
    heating = hot[:0] if late_epochs else hot
    outdated = 0
    status, plain = DUE, -FOREVER
    while True:
        if f == len(ft) and f_more:
            status = NEED_FREE
            break
        if z == len(zt) and z_more:
            status = NEED_ZERO
            break
        tf = ft[f] if f < len(ft) else FOREVER
        tz = zt[z] if z < len(zt) else FOREVER
        plain = min(min(tf, tz), te)
        bound = min(min(guest, tf - 1), min(tz, te if late_epochs else te - 1))
        d = dirty_rows(state, written, heating, dt, dp, dc, d, bound, first, past)
        if d == len(dt) and d_more:
            status = NEED_DIRTY
            break
        td = dt[d] if d < len(dt) else FOREVER
        if td <= bound:
            status, plain = IN_THE_WAY, td
            break
        upcoming = min(min(td, te), min(tf, tz))
        if upcoming > guest:
            break
        if tf == upcoming:
            if fp[f] < past and fp[f] + fc[f] > first:
                status, plain = IN_THE_WAY, upcoming
                break
            outdated += _free_run(state, written, moved, hot, fp[f], fc[f], ff[f])
            f += 1
        elif te == upcoming and not (late_epochs and (td == te or tz == te)):
            status = EPOCH_END
            break
        else:
            if zp[z] < past and zp[z] + zc[z] > first:
                status, plain = IN_THE_WAY, upcoming
                break
            outdated += _zero_run(state, written, hot, zp[z], zc[z])
            z += 1
    ctl[DIRTY_ROW], ctl[FREE_ROW], ctl[ZERO_ROW] = d, f, z
    ctl[SUPERSEDED] += outdated
    return status, plain
