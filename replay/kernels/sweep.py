"""The compiled inner loop: a trace's rows and the cursor's copies, in the order of the model.

A stretch of pages is copied together. Rows of other pages and these copies do not see each other,
so rows up to the last of the copies are applied first; only a row of a page of the stretch stands
in the way, and then the stretch is cut short where the row's time has come.
"""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

import numpy as np

from replay.kernels.bits import lowest, popcount, run_mask, unowned
from replay.kernels.rows import (
    BLOCK,
    BYTES,
    BYTES_LIMIT,
    COPIES_LIMIT,
    CREDIT,
    CURSOR,
    DIRTY_ROW,
    DUE,
    EPOCH,
    FOREVER,
    FREE,
    FREE_SENT,
    FULL_RATE,
    GUEST_0,
    HELD,
    HOST_0,
    IN_THE_WAY,
    LINK_NS,
    LINK_REST,
    LOG,
    PENDING,
    RATE,
    REDUNDANT,
    SENT,
    SPENT,
    SUPERSEDED,
    SWEPT,
    SYNCED,
    WATCHED,
    ZERO,
    ZERO_SENT,
    all_rows,
    dirty_rows,
    settle,
    write,
)
from replay.kernels.stretch import (
    LONGEST,
    NARROW,
    SHORT,
    SOON,
    burnt_of,
    cut,
    gather,
    later,
    within,
)
from tracer.compiled import compiled

_ONE = np.uint64(1)
_NONE = np.uint64(0)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_SIX = np.uint64(6)


@compiled
def last_from(firsts, page):  # type: ignore[no-untyped-def]
    """Return the last of the ascending `firsts` that is not above `page`, -1 if all are."""
    # NumPy's search, once compiled, takes a tenth of a second to load.
    low, high = 0, len(firsts)
    while low < high:
        middle = (low + high) // 2
        if firsts[middle] <= page:
            low = middle + 1
        else:
            high = middle
    return low - 1


@compiled
def last_before(guest, soon, h0, g0, rate):  # type: ignore[no-untyped-def]
    """Return the last host time before `soon` at which it is not yet `guest` for the guest."""
    if guest == FOREVER or rate == 0:
        return soon - 1
    if rate == FULL_RATE:
        return min(soon - 1, h0 + (guest - g0) - 1)
    return min(soon - 1, h0 + ((guest - g0) * FULL_RATE - 1) // rate)


@compiled
def clear_chunk(state, written, harvested, first, end):  # type: ignore[no-untyped-def]
    """KVM_CLEAR_DIRTY_LOG of pages first..end-1: what was harvested leaves the log.

    Returns how many good copies the writes so far outdate.
    """
    page, outdated = first, 0
    while page < end:
        word, low = page >> 6, page & 63
        width = min(64 - low, end - page)
        outdated += settle(state, written, word)
        state[word, LOG] &= ~(harvested[word] & run_mask(low, width))
        page += width
    return outdated


@compiled
def sweep(  # type: ignore[no-untyped-def]
    state, written, moved, hot, harvested, marks, chunks, cleared, blocks, watch, passed, sent,
    ctl, link, until, dt, dp, dc, d_more, ft, fp, fc, ff, f_more,
    zt, zp, zc, z_more, epochs, late_epochs,
):  # fmt: skip
    """Copy pending pages in order and let the guest run, up to host time `until`.

    Returns DUE when all rows up to `until` are applied and all copies before it are made; SWEPT
    when the cursor has passed the last page (at ctl[LINK_NS]); SPENT when the next copy would go
    beyond a limit; NEED_* when a table's rows ran out; EPOCH_END when a recording's epoch ends. The
    caller sees to it and calls again.

    `written` (words): pages whose writes are put off (see `rows`); what is still there when this
    comes back has not been settled. `moved` (a bit a word, or empty): words that
    free-list rows change. `hot` (words, or empty): pages that hidden writes dirty without
    pause. `harvested` (words, or empty), `marks` (uint8) and `chunks` (int64, first pages and a
    sentinel): manual log mode.
    `blocks` (int64, (3, blocks)): first pages, pages past the end, and the bytes that name a block
    on the wire where a page of it follows one of another block.
    `watch` (int64, ascending pages): `passed` takes the host time at which the cursor passed each,
    `sent` whether it was copied then. `cleared` takes the time at which a chunk was cleared.
    """
    state, written, hot = unowned(state), unowned(written), unowned(hot)
    dt, dp, dc = unowned(dt), unowned(dp), unowned(dc)
    words = len(state)
    rate, h0, g0 = ctl[RATE], ctl[HOST_0], ctl[GUEST_0]
    tau, fraction, cursor = ctl[LINK_NS], ctl[LINK_REST], ctl[CURSOR]
    watched, d = ctl[WATCHED], ctl[DIRTY_ROW]
    page_ns, page_rest, zero_ns, zero_rest, bandwidth, page_bytes, zero_bytes = link
    sent_pages = zero_pages = redundant = free_sent = outdated = 0
    plain = -FOREVER  # only dirty rows are ahead before this guest time
    te = epochs[ctl[EPOCH]] if ctl[EPOCH] < len(epochs) else FOREVER
    heating = hot[:0] if late_epochs else hot
    burning = len(hot) > 0 and rate != 0
    manual = len(harvested) > 0
    chunk = max(last_from(chunks, cursor), 0) if manual else 0
    upcoming_watch = watch[watched] if watched < len(watch) else FOREVER
    size, most, block = ctl[BYTES], ctl[BYTES_LIMIT], ctl[BLOCK]
    copies = ctl[COPIES_LIMIT] - ctl[SENT] - ctl[ZERO_SENT]
    small = max(page_ns, zero_ns) <= SHORT and bandwidth <= NARROW
    soon = min(until, SOON)  # before it all copies of a stretch are begun
    while True:
        # The guest first: everything up to the instant at which the link is free.
        now = min(tau, until)
        guest = g0 + (now - h0 if rate == FULL_RATE else (now - h0) * rate // FULL_RATE)
        d = dirty_rows(state, written, heating, dt, dp, dc, d, min(guest, plain - 1), 0, 0)
        if guest >= plain or (d == len(dt) and d_more):
            ctl[DIRTY_ROW] = d
            status, plain = all_rows(
                state, written, moved, hot, ctl, guest, 0, 0,
                dt, dp, dc, d_more, ft, fp, fc, ff, f_more,
                zt, zp, zc, z_more, epochs, late_epochs,
            )  # fmt: skip
            d = ctl[DIRTY_ROW]
            if status != DUE:
                break
        if tau >= until:
            status = DUE
            break
        if size > most or copies <= 0:
            status = SPENT
            break
        # Then the cursor: it passes what is not pending and comes to the next page that is.
        word, todo = np.uint64(cursor >> 6), _NONE
        if word < words:
            todo = state[word, PENDING] & (_ALL << np.uint64(cursor & 63))
            while todo == _NONE:
                word += _ONE
                if word == words:
                    break
                todo = state[word, PENDING]
        page = np.int64(word << _SIX) + (lowest(todo) if todo != _NONE else 0)
        while upcoming_watch <= page:
            passed[watched] = tau
            sent[watched] = upcoming_watch == page
            watched += 1
            upcoming_watch = watch[watched] if watched < len(watch) else FOREVER
        if todo == _NONE:
            cursor = page
            status = SWEPT
            break
        stop = upcoming_watch
        if manual:
            while chunks[chunk + 1] <= page:
                chunk += 1
            if marks[chunk]:
                marks[chunk] = 0
                cleared[chunk] = tau
                outdated += clear_chunk(state, written, harvested, chunks[chunk], chunks[chunk + 1])
            stop = min(stop, chunks[chunk + 1])
        if page < blocks[0, block] or page >= blocks[1, block]:
            block = last_from(blocks[0], page)
            size += blocks[2, block]
        stop = min(stop, blocks[1, block])
        # With it those after it, where nothing can come between them.
        past, fulls, zeros, gone = gather(state, written, hot, burning, page, stop)
        outdated += gone
        start, rest = tau, fraction  # of the last copy
        if fulls + zeros > 0:
            most_now = copies if small else 1
            if size + LONGEST * max(page_bytes, zero_bytes) > most:
                most_now = min(most_now, 1 + (most - size) // max(page_bytes, zero_bytes))
            latest = last_before(te, soon, h0, g0, rate)
            if fulls + zeros < most_now:
                start, rest = later(tau, fraction, fulls, zeros, link)
            if fulls + zeros >= most_now or start > latest:
                past, start, rest = cut(
                    state, hot, burning, page, past, tau, fraction, link, latest, most_now
                )
        if start > tau:
            guest = g0 + (start - h0 if rate == FULL_RATE else (start - h0) * rate // FULL_RATE)
            bound = min(guest, plain - 1)
            d = dirty_rows(state, written, heating, dt, dp, dc, d, bound, page, past)
            status, when = DUE, FOREVER
            if d < len(dt) and dt[d] <= bound:
                status, when = IN_THE_WAY, dt[d]
            elif guest >= plain or (d == len(dt) and d_more):
                ctl[DIRTY_ROW] = d
                status, plain = all_rows(
                    state, written, moved, hot, ctl, guest, page, past,
                    dt, dp, dc, d_more, ft, fp, fc, ff, f_more,
                    zt, zp, zc, z_more, epochs, late_epochs,
                )  # fmt: skip
                d, when = ctl[DIRTY_ROW], plain
                # Membership of a tuple would take numba a while longer to load.
                if status != DUE and status != IN_THE_WAY:
                    break
            if status == IN_THE_WAY:
                plain = -FOREVER
                latest = last_before(when, soon, h0, g0, rate)
                past, start, rest = cut(
                    state, hot, burning, page, past, tau, fraction, link, latest, LONGEST
                )
        # The copies.
        is_zero = False
        for number in range(page >> 6, ((past - 1) >> 6) + 1):
            at = np.uint64(number)
            todo = state[at, PENDING] & within(number, page, past)
            if todo == _NONE:
                continue
            burnt = burnt_of(state, hot, burning, at, todo)
            zero = state[at, ZERO] & ~burnt & todo
            if burnt:
                outdated += write(state, at, burnt)
            line = state[at]
            full = todo & ~zero
            known, unused = full & line[SYNCED], full & ~line[SYNCED] & line[FREE]
            good = full & ~known & ~unused
            redundant += popcount(known)
            free_sent += popcount(unused)
            line[PENDING] &= ~todo
            line[CREDIT] |= good
            line[SYNCED] |= todo
            line[HELD] = (line[HELD] & ~zero) | full
            if burnt:
                outdated += write(state, at, burnt)
            count, blank = popcount(full), popcount(zero)
            sent_pages += count
            zero_pages += blank
            copies -= count + blank
            size += count * page_bytes + blank * zero_bytes
            is_zero = zero >> np.uint64((past - 1) & 63) & _ONE != _NONE
        cursor = past
        tau = start + (zero_ns if is_zero else page_ns)
        fraction = rest + (zero_rest if is_zero else page_rest)
        if fraction >= bandwidth:
            fraction -= bandwidth
            tau += 1
    ctl[LINK_NS], ctl[LINK_REST], ctl[CURSOR] = tau, fraction, cursor
    ctl[WATCHED], ctl[DIRTY_ROW], ctl[BYTES], ctl[BLOCK] = watched, d, size, block
    ctl[SENT] += sent_pages
    ctl[ZERO_SENT] += zero_pages
    ctl[REDUNDANT] += redundant
    ctl[FREE_SENT] += free_sent
    ctl[SUPERSEDED] += outdated
    return status
