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

from replay.doubt_kernels import (
    CHUNK,
    HANDLED,
    LOSES,
    SAFE,
    SNAPSHOT,
    SYNC,
    guest_at,
    search_pages,
)
from replay.engine import Migration
from replay.feed import Feed, looped_epochs
from replay.hints import Report
from replay.observe import Observation, Touches, observe, touches
from tracer.rows import Flags, Int64s

#: Pages searched at once: bounds the memory for their passes.
_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Doubt:
    """A page that an allowed history loses; `proved` is false where the search gave up on it."""

    page: int
    proved: bool


#: Rows grouped by page: where each page's begin, t, since, free.
_ByPage = tuple[Int64s, Int64s, Int64s, Int64s]


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


class Question(NamedTuple):
    """What `doubt_kernels.search_pages` takes of an observation; rows grouped by page."""

    schedule: _Schedule
    common: Int64s
    clears: Int64s
    of_chunk: Int64s
    passed: Int64s
    chunk: Int64s
    names: Flags
    misses: Flags
    segments: Int64s
    moves: _ByPage
    writes: _ByPage
    zeros: _ByPage
    epochs: Int64s
    resolution: int
    quantum: int
    stop: int
    manual: bool
    hint_clears: bool
    ack: bool


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
            rows.append((*at, SYNC, event.guest_ns, 0))
        elif event.kind == "chunk":  # noted after the guest may have been stopped
            guest = int(guest_at(event.host_ns, segments))
            rows.append((*at, CHUNK, guest, event.chunk))
        elif event.report is not None and event.report.outcome == "handled":
            kind = SNAPSHOT if event.kind == "snapshot" else HANDLED
            rows.append((*at, kind, event.guest_ns, named.setdefault(event.report, len(named))))
    rows.sort(key=lambda row: row[:3])
    columns = np.array(rows, np.int64).reshape(-1, 6).T.copy()
    return _Schedule(*columns[[0, 1, 3, 4, 5]])


def search(observation: Observation) -> Doubt | None:
    """Return the first watched page that can be lost, else the first that was given up on."""
    asked = question(observation)
    index, verdict = search_pages(
        *asked.schedule, asked.common, asked.clears, asked.of_chunk, observation.migration.watch,
        asked.passed, asked.chunk, asked.names, asked.misses, asked.segments, *asked.moves,
        *asked.writes[:2], *asked.zeros[:2], asked.epochs, asked.resolution, asked.quantum,
        asked.stop, asked.manual, asked.hint_clears, asked.ack,
    )  # fmt: skip
    watch = observation.migration.watch
    return None if verdict == SAFE else Doubt(int(watch[index]), verdict == LOSES)


def question(observation: Observation) -> Question:
    """Return what the kernels want to know of the watched pages."""
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
    clears = np.flatnonzero(schedule.kind == CHUNK)
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
    return Question(
        schedule, np.flatnonzero(schedule.kind != CHUNK), clears, of_chunk, passed, chunk, names,
        misses, segments, moves, writes, zeros, epochs,
        ("write", "first-write", "epoch").index(meta.resolution), quantum, stop,
        migration.memory.manual, migration.parameters.hint_clears_log, migration.hold == "ack",
    )  # fmt: skip


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
    snapshots = schedule.guest[schedule.kind == SNAPSHOT] if order else schedule.guest[:0]
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


def _by_page(touched: Touches, pages: int) -> _ByPage:
    """Return rows grouped by page: where each page's begin, t, since, free (as int64)."""
    order = np.argsort(touched.who, kind="stable")
    begin = np.searchsorted(touched.who[order], np.arange(pages + 1))
    free = touched.free[order] if len(touched.free) else np.zeros(len(order), np.bool_)
    return begin, touched.t[order], touched.since[order], free.astype(np.int64)
