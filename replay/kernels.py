"""The compiled inner loops: rows and copies merged in time order, and whole-bitmap operations.

One bit a page. Eight of a page's bits lie in the same row of `state`, a (words, 8) uint64 array:
64 pages are one cache line, so that a guest write touches one line and not six. The kernels check
no bounds: rows reach them only from a trace that `Trace.validate` has passed.
"""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

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

#: Slots of the constants `link` (int64): ns and rest of ns for a page and a zero page.
PAGE_NS, PAGE_REST, ZERO_NS, ZERO_REST, BANDWIDTH, PAGE_BYTES, ZERO_BYTES = range(7)

#: Why `sweep` came back.
DUE, SWEPT, NEED_DIRTY, NEED_FREE, NEED_ZERO, EPOCH_END, SPENT = range(7)

FOREVER = np.iinfo(np.int64).max
#: Guest time runs at RATE / FULL_RATE of host time; 0 while the vCPUs are stopped.
FULL_RATE = 100

_ONE = np.uint64(1)
_NONE = np.uint64(0)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

_jit = njit(cache=True, nogil=True)
_inline = njit(cache=True, nogil=True, inline="always")


@intrinsic  # type: ignore[untyped-decorator]
def popcount(_context: Any, _word: Any) -> Any:
    """Count the set bits of a uint64."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def lowest(_context: Any, _word: Any) -> Any:
    """Return the index of the lowest set bit of a non-zero uint64."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        flag = context.get_constant(types.boolean, True)
        return builder.cttz(args[0], flag)

    return types.uint64(types.uint64), codegen


@_inline
def run_mask(low, width):  # type: ignore[no-untyped-def]
    """Return the mask of `width` (1..64) bits from bit `low`."""
    return (_ALL >> np.uint64(64 - width)) << np.uint64(low)


@_inline
def _write(state, word, mask):  # type: ignore[no-untyped-def]
    """The guest writes the pages `mask` of `word`; return how many good copies that outdates."""
    outdated = popcount(state[word, CREDIT] & mask)
    keep = ~mask
    state[word, LOG] |= mask
    state[word, SYNCED] &= keep
    state[word, CREDIT] &= keep
    state[word, ZERO] &= keep
    state[word, WRITTEN] |= mask
    return np.int64(outdated)


@_jit
def _write_run(state, page, count):  # type: ignore[no-untyped-def]
    outdated, end = 0, page + count
    while page < end:
        low = page & 63
        width = min(64 - low, end - page)
        outdated += _write(state, page >> 6, run_mask(low, width))
        page += width
    return outdated


@_jit
def _heat_run(hot, page, count):  # type: ignore[no-untyped-def]
    end = page + count
    while page < end:
        low = page & 63
        width = min(64 - low, end - page)
        hot[page >> 6] |= run_mask(low, width)
        page += width


@_jit
def _free_run(state, hot, page, count, free):  # type: ignore[no-untyped-def]
    """The run enters or leaves the free list; return how many copies hidden writes outdate."""
    outdated, end = 0, page + count
    while page < end:
        word, low = page >> 6, page & 63
        width = min(64 - low, end - page)
        mask = run_mask(low, width)
        if free:
            if len(hot):  # written without pause until this moment
                outdated += _write(state, word, mask & hot[word] & ~state[word, FREE])
            state[word, FREE] |= mask
        else:
            state[word, FREE] &= ~mask
            state[word, WRITTEN] &= ~mask
        page += width
    return outdated


@_jit
def _zero_run(state, hot, page, count):  # type: ignore[no-untyped-def]
    end = page + count
    while page < end:
        word, low = page >> 6, page & 63
        width = min(64 - low, end - page)
        mask = run_mask(low, width)
        if len(hot):
            mask &= ~hot[word] | state[word, FREE]
        state[word, ZERO] |= mask
        state[word, SYNCED] |= mask & ~state[word, HELD]
        page += width


@_jit
def _rows(  # type: ignore[no-untyped-def]
    state, hot, ctl, guest, dt, dp, dc, d_more, ft, fp, fc, ff, f_more, zt, zp, zc, z_more,
    epochs, late_epochs,
):  # fmt: skip
    """Apply all rows up to guest time `guest`, in the model's order at one instant.

    Returns DUE or what is needed, and the time before which only dirty rows are ahead. Epoch ends
    come before the dirty rows of their instant, or with `late_epochs` after all of its rows.
    """
    d, f, z = ctl[DIRTY_ROW], ctl[FREE_ROW], ctl[ZERO_ROW]
    te = epochs[ctl[EPOCH]] if ctl[EPOCH] < len(epochs) else FOREVER
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
        while d < len(dt) and dt[d] <= bound:
            if dc[d] == 1:
                outdated += _write(state, dp[d] >> 6, _ONE << np.uint64(dp[d] & 63))
            else:
                outdated += _write_run(state, dp[d], np.int64(dc[d]))
            if len(hot) and not late_epochs:
                _heat_run(hot, dp[d], np.int64(dc[d]))
            d += 1
        if d == len(dt) and d_more:
            status = NEED_DIRTY
            break
        td = dt[d] if d < len(dt) else FOREVER
        upcoming = min(min(td, te), min(tf, tz))
        if upcoming > guest:
            break
        if tf == upcoming:
            outdated += _free_run(state, hot, fp[f], fc[f], ff[f])
            f += 1
        elif te == upcoming and not (late_epochs and (td == te or tz == te)):
            status = EPOCH_END
            break
        else:
            _zero_run(state, hot, zp[z], zc[z])
            z += 1
    ctl[DIRTY_ROW], ctl[FREE_ROW], ctl[ZERO_ROW] = d, f, z
    ctl[SUPERSEDED] += outdated
    return status, plain


@_jit
def _clear_chunk(state, harvested, first, end):  # type: ignore[no-untyped-def]
    """KVM_CLEAR_DIRTY_LOG of pages first..end-1: what was harvested leaves the log."""
    page = first
    while page < end:
        word, low = page >> 6, page & 63
        width = min(64 - low, end - page)
        state[word, LOG] &= ~(harvested[word] & run_mask(low, width))
        page += width


@_jit
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
    sent_pages = zero_pages = redundant = free_sent = outdated = 0
    plain = -FOREVER  # only dirty rows are ahead before this guest time
    manual = len(harvested) > 0
    chunk = max(np.searchsorted(chunks, cursor, side="right") - 1, 0) if manual else 0
    upcoming_watch = watch[watched] if watched < len(watch) else FOREVER
    size, most, block = ctl[BYTES], ctl[BYTES_LIMIT], ctl[BLOCK]
    copies = ctl[COPIES_LIMIT] - ctl[SENT] - ctl[ZERO_SENT]
    while True:
        # The guest first: everything up to the instant at which the link is free.
        now = min(tau, until)
        guest = g0 + (now - h0 if rate == FULL_RATE else (now - h0) * rate // FULL_RATE)
        bound = min(guest, plain - 1)
        while d < len(dt) and dt[d] <= bound:
            if dc[d] == 1:
                outdated += _write(state, dp[d] >> 6, _ONE << np.uint64(dp[d] & 63))
            else:
                outdated += _write_run(state, dp[d], np.int64(dc[d]))
            if len(hot) and not late_epochs:
                _heat_run(hot, dp[d], np.int64(dc[d]))
            d += 1
        if guest >= plain or (d == len(dt) and d_more):
            ctl[DIRTY_ROW] = d
            status, plain = _rows(
                state, hot, ctl, guest, dt, dp, dc, d_more, ft, fp, fc, ff, f_more,
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
        # Then the cursor: it passes what is not pending and copies the next page that is.
        word, todo = cursor >> 6, _NONE
        if word < words:
            todo = state[word, PENDING] & (_ALL << np.uint64(cursor & 63))
            while todo == _NONE:
                word += 1
                if word == words:
                    break
                todo = state[word, PENDING]
        page = (word << 6) + np.int64(lowest(todo)) if todo != _NONE else words << 6
        while upcoming_watch <= page:
            passed[watched] = tau
            sent[watched] = upcoming_watch == page
            watched += 1
            upcoming_watch = watch[watched] if watched < len(watch) else FOREVER
        if todo == _NONE:
            cursor = page
            status = SWEPT
            break
        if manual:
            while chunks[chunk + 1] <= page:
                chunk += 1
            if marks[chunk]:
                marks[chunk] = 0
                cleared[chunk] = tau
                _clear_chunk(state, harvested, chunks[chunk], chunks[chunk + 1])
        bit = _ONE << np.uint64(page & 63)
        state[word, PENDING] &= ~bit
        cursor = page + 1
        burning = len(hot) > 0 and rate != 0 and (hot[word] & ~state[word, FREE] & bit) != _NONE
        if burning:
            outdated += _write(state, word, bit)
        if state[word, ZERO] & bit:
            state[word, SYNCED] |= bit
            state[word, HELD] &= ~bit
            zero_pages += 1
            step, rest = link[ZERO_NS], link[ZERO_REST]
            size += link[ZERO_BYTES]
        else:
            sent_pages += 1
            if state[word, SYNCED] & bit:
                redundant += 1
            elif state[word, FREE] & bit:
                free_sent += 1
            else:
                state[word, CREDIT] |= bit
            state[word, SYNCED] |= bit
            state[word, HELD] |= bit
            step, rest = link[PAGE_NS], link[PAGE_REST]
            size += link[PAGE_BYTES]
        copies -= 1
        if page < blocks[0, block] or page >= blocks[1, block]:
            block = np.searchsorted(blocks[0], page, side="right") - 1
            size += blocks[2, block]
        if burning:
            outdated += _write(state, word, bit)
        fraction += rest
        if fraction >= link[BANDWIDTH]:
            fraction -= link[BANDWIDTH]
            step += 1
        tau += step
    ctl[LINK_NS], ctl[LINK_REST], ctl[CURSOR] = tau, fraction, cursor
    ctl[WATCHED], ctl[DIRTY_ROW], ctl[BYTES], ctl[BLOCK] = watched, d, size, block
    ctl[SENT] += sent_pages
    ctl[ZERO_SENT] += zero_pages
    ctl[REDUNDANT] += redundant
    ctl[FREE_SENT] += free_sent
    ctl[SUPERSEDED] += outdated
    return status


@_jit
def sync_legacy(state):  # type: ignore[no-untyped-def]
    """Harvest and clear the dirty log; return the number of pending pages."""
    pending = 0
    for word in range(len(state)):
        row = state[word]
        row[PENDING] |= row[LOG]
        row[LOG] = _NONE
        pending += popcount(row[PENDING])
    return np.int64(pending)


@_jit
def sync_manual(state, harvested, marks):  # type: ignore[no-untyped-def]
    """Harvest the dirty log without clearing it, mark every chunk; return the pending pages."""
    pending = 0
    for word in range(len(state)):
        row = state[word]
        row[PENDING] |= row[LOG]
        harvested[word] = row[LOG]
        pending += popcount(row[PENDING])
    marks[:] = 1
    return np.int64(pending)


@_jit
def touch(state, hot):  # type: ignore[no-untyped-def]
    """Write every hot page in use; return how many good copies that outdates."""
    outdated = 0
    for word in range(len(state)):
        mask = hot[word] & ~state[word, FREE]
        if mask != _NONE:
            outdated += _write(state, word, mask)
    return np.int64(outdated)


@_jit
def heat(hot, page, count):  # type: ignore[no-untyped-def]
    """Make the runs hot."""
    for i in range(len(page)):
        _heat_run(hot, page[i], np.int64(count[i]))


@_jit
def take_away(bits, page, count, free):  # type: ignore[no-untyped-def]
    """Clear in `bits` the pages that the rows take from the free list; return how many were set."""
    gone = 0
    for i in range(len(page)):
        if free[i]:
            continue
        p, end = page[i], page[i] + count[i]
        while p < end:
            low = p & 63
            width = min(64 - low, end - p)
            mask = run_mask(low, width)
            gone += popcount(bits[p >> 6] & mask)
            bits[p >> 6] &= ~mask
            p += width
    return np.int64(gone)


@_jit
def snapshot(state, first, end, order, report):  # type: ignore[no-untyped-def]
    """Put into `report` the free pages of first..end-1 that lie in wholly free blocks of 2^order.

    Returns their number.
    """
    found, size, page = 0, np.int64(1) << order, first
    while page + size <= end:
        if size == 1 and (page & 63) == 0 and page + 64 <= end:  # a whole word at once
            report[page >> 6] = state[page >> 6, FREE]
            found += popcount(report[page >> 6])
            page += 64
            continue
        whole, p = True, page
        while whole and p < page + size:
            low = p & 63
            width = min(64 - low, page + size - p)
            mask = run_mask(low, width)
            whole = state[p >> 6, FREE] & mask == mask
            p += width
        p = page
        while whole and p < page + size:
            low = p & 63
            width = min(64 - low, page + size - p)
            report[p >> 6] |= run_mask(low, width)
            found += width
            p += width
        page += size
    return np.int64(found)


@_jit
def clear_named_chunks(state, harvested, marks, chunks, report):  # type: ignore[no-untyped-def]
    """Clear the log of every marked chunk of which the report names a page."""
    for chunk in range(len(marks)):
        if not marks[chunk]:
            continue
        page, end = chunks[chunk], chunks[chunk + 1]
        while page < end:
            low = page & 63
            width = min(64 - low, end - page)
            if report[page >> 6] & run_mask(low, width):
                marks[chunk] = 0
                _clear_chunk(state, harvested, chunks[chunk], end)
                break
            page += width


@_jit
def skip(state, report, skipped):  # type: ignore[no-untyped-def]
    """Clear the pending bits of the report's pages; leave in `report` those that were set.

    `skipped` gathers them over the migration. Returns their number.
    """
    found = 0
    for word in range(len(state)):
        if report[word] == _NONE:
            continue
        row = state[word]
        report[word] &= row[PENDING]
        row[PENDING] &= ~report[word]
        skipped[word] |= report[word]
        found += popcount(report[word])
    return np.int64(found)


@_jit
def note_missed(state, report, missed):  # type: ignore[no-untyped-def]
    """Add to `missed` the pages just skipped (`report`) that are lost as things stand.

    Such a page was free at the snapshot and is in use now, so its last take came after the
    snapshot, and WRITTEN alone says that a write followed. Returns how many there are.
    """
    found = 0
    for word in range(len(state)):
        if report[word] == _NONE:
            continue
        row = state[word]
        carried = row[PENDING] | row[LOG] | row[SYNCED] | row[FREE]
        lost = report[word] & row[WRITTEN] & ~carried
        missed[word] |= lost
        found += popcount(lost)
    return np.int64(found)


@_jit
def final_counts(state, skipped, missed, last_word, lost_bits):  # type: ignore[no-untyped-def]
    """Judge every page at switchover (the model, sections 3 and 4).

    Returns (needed, freed_later, lost, unwritten, stale_free, old_bytes, near_misses, bugs) as
    int64[8] and leaves the lost pages in `lost_bits`. `last_word` masks the pages of the last
    word.
    """
    counts = np.zeros(8, np.int64)
    for word in range(len(state)):
        row = state[word]
        exists = last_word if word == len(state) - 1 else _ALL
        free, credit = row[FREE], row[CREDIT]
        counts[0] += popcount(credit & ~free)
        counts[1] += popcount(credit & free)
        unsynced = ~row[SYNCED] & exists
        if unsynced == _NONE and (len(missed) == 0 or missed[word] == _NONE):
            continue
        ever = skipped[word] if len(skipped) else _NONE
        lost = unsynced & ~free & ever & row[WRITTEN]
        unwritten = unsynced & ~free & ever & ~row[WRITTEN]
        stale = unsynced & free
        counts[2] += popcount(lost)
        counts[3] += popcount(unwritten)
        counts[4] += popcount(stale)
        counts[5] += popcount((stale | unwritten) & row[HELD])
        if len(missed):
            counts[6] += popcount(missed[word] & ~lost)
        counts[7] += popcount(unsynced & ~free & ~ever) + popcount(stale & ~ever)
        lost_bits[word] = lost
    return counts
