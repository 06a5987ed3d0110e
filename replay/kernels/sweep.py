"""The compiled inner loop: a trace's rows and the cursor's copies, in the order of the model.

The pages of a word are copied together. Rows of other words and these copies do not see each
other, so rows up to the last of the copies are applied first; only a row of the word itself stands
in the way, and then its pages are copied one by one until the row's time has come.
"""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

import numpy as np

from replay.kernels.bits import highest, lowest, popcount, run_mask
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
    NOWHERE,
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
    write,
)
from tracer.compiled import compiled

#: Slots of the constants `link` (int64): ns and rest of ns for a page and a zero page.
PAGE_NS, PAGE_REST, ZERO_NS, ZERO_REST, BANDWIDTH, PAGE_BYTES, ZERO_BYTES = range(7)

_ONE = np.uint64(1)
_NONE = np.uint64(0)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_SIX = np.uint64(6)
#: Up to which ns a page, ns in all and bandwidth 64 copies are reckoned together in int64.
_SHORT, _SOON, _NARROW = 1 << 40, 1 << 62, 1 << 56


@compiled
def _last_from(firsts, page):  # type: ignore[no-untyped-def]
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
def clear_chunk(state, harvested, first, end):  # type: ignore[no-untyped-def]
    """KVM_CLEAR_DIRTY_LOG of pages first..end-1: what was harvested leaves the log."""
    page = first
    while page < end:
        word, low = page >> 6, page & 63
        width = min(64 - low, end - page)
        state[word, LOG] &= ~(harvested[word] & run_mask(low, width))
        page += width


@compiled
def sweep(  # type: ignore[no-untyped-def]
    state, hot, harvested, marks, chunks, cleared, blocks, watch, passed, sent, ctl, link, until,
    dt, dp, dc, d_more, ft, fp, fc, ff, f_more, zt, zp, zc, z_more, epochs, late_epochs,
):  # fmt: skip
    """Copy pending pages in order and let the guest run, up to host time `until`.

    Returns DUE when all rows up to `until` are applied and all copies before it are made; SWEPT
    when the cursor has passed the last page (at ctl[LINK_NS]); SPENT when the next copy would go
    beyond a limit; NEED_* when a table's rows ran out; EPOCH_END when a recording's epoch ends. The
    caller sees to it and calls again.

    `hot` (words, or empty): pages that hidden writes dirty without pause. `harvested` (words, or
    empty), `marks` (uint8) and `chunks` (int64, first pages and a sentinel): manual log mode.
    `blocks` (int64, (3, blocks)): first pages, pages past the end, and the bytes that name a block
    on the wire where a page of it follows one of another block.
    `watch` (int64, ascending pages): `passed` takes the host time at which the cursor passed each,
    `sent` whether it was copied then. `cleared` takes the time at which a chunk was cleared.
    """
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
    chunk = max(_last_from(chunks, cursor), 0) if manual else 0
    upcoming_watch = watch[watched] if watched < len(watch) else FOREVER
    size, most, block = ctl[BYTES], ctl[BYTES_LIMIT], ctl[BLOCK]
    copies = ctl[COPIES_LIMIT] - ctl[SENT] - ctl[ZERO_SENT]
    # Before this host time the copies of one word are made together.
    small = max(page_ns, zero_ns) <= _SHORT and bandwidth <= _NARROW
    soon = min(until, _SOON) if small else -FOREVER
    while True:
        # The guest first: everything up to the instant at which the link is free.
        now = min(tau, until)
        guest = g0 + (now - h0 if rate == FULL_RATE else (now - h0) * rate // FULL_RATE)
        d, gone = dirty_rows(state, heating, dt, dp, dc, d, min(guest, plain - 1), NOWHERE)
        outdated += gone
        if guest >= plain or (d == len(dt) and d_more):
            ctl[DIRTY_ROW] = d
            status, plain = all_rows(
                state, hot, ctl, guest, NOWHERE, dt, dp, dc, d_more, ft, fp, fc, ff, f_more,
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
                clear_chunk(state, harvested, chunks[chunk], chunks[chunk + 1])
            stop = min(stop, chunks[chunk + 1])
        if page < blocks[0, block] or page >= blocks[1, block]:
            block = _last_from(blocks[0], page)
            size += blocks[2, block]
        stop = min(stop, blocks[1, block])
        if stop >> 6 == page >> 6:
            todo &= ~(_ALL << np.uint64(stop & 63))
        # Its word's pages together, where nothing can come between them.
        burnt = _NONE
        if burning:
            burnt = hot[word] & ~state[word, FREE] & todo
        zero = state[word, ZERO] & ~burnt & todo
        start, rest = tau, fraction  # of the last copy
        if todo & (todo - _ONE) != _NONE:
            number, last = popcount(todo) - 1, _ONE << np.uint64(highest(todo))
            zeros = popcount(zero & ~last)
            rest = fraction + (number - zeros) * page_rest + zeros * zero_rest
            carry = np.int64(np.uint64(rest) // np.uint64(bandwidth))
            start = tau + (number - zeros) * page_ns + zeros * zero_ns + carry
            rest -= carry * bandwidth
            together = (
                start < soon
                and number < copies
                and size + number * max(page_bytes, zero_bytes) <= most
            )
            if together:
                guest = g0 + (start - h0 if rate == FULL_RATE else (start - h0) * rate // FULL_RATE)
                together = guest < te
            if together:
                bound = min(guest, plain - 1)
                d, gone = dirty_rows(state, heating, dt, dp, dc, d, bound, word)
                outdated += gone
                status = IN_THE_WAY if d < len(dt) and dt[d] <= bound else DUE
                if status == DUE and (guest >= plain or (d == len(dt) and d_more)):
                    ctl[DIRTY_ROW] = d
                    status, plain = all_rows(
                        state, hot, ctl, guest, word, dt, dp, dc, d_more, ft, fp, fc, ff, f_more,
                        zt, zp, zc, z_more, epochs, late_epochs,
                    )  # fmt: skip
                    d = ctl[DIRTY_ROW]
                    if status not in (DUE, IN_THE_WAY):
                        break
                together = status == DUE
            if not together:
                todo &= ~todo + _ONE
                burnt, zero = burnt & todo, zero & todo
                start, rest = tau, fraction
        if burnt:
            outdated += write(state, word, burnt)
        # The copies.
        line = state[word]
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
            outdated += write(state, word, burnt)
        number, zeros = popcount(full), popcount(zero)
        sent_pages += number
        zero_pages += zeros
        copies -= number + zeros
        size += number * page_bytes + zeros * zero_bytes
        cursor = np.int64(word << _SIX) + highest(todo) + 1
        is_zero = zero >> np.uint64((cursor - 1) & 63) & _ONE != _NONE
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
