"""Run a migration again and watch some pages: when the cursor passed them, who skipped them.

A replay keeps one bit for each fact; where the history of a few pages is asked for, it is run a
second time (it is deterministic) with those pages on a watch list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from replay.engine import Event, Migration
from replay.feed import Feed
from replay.profiles import profile
from tracer.rows import Flags, Int64s

#: The order of things at one instant (the model, section 2), for `key`.
FREE_ROWS, EPOCH_FIRST, DIRTY_ROWS, ZERO_ROWS, EPOCH_LATE, CONTROL, CHUNK, COPY = range(8)


def key(host_ns: Int64s, order: int) -> Int64s:
    """Return sort keys: by host time, then by the order of things at one instant."""
    return host_ns * 8 + order


@dataclass(frozen=True)
class Touches:
    """Rows of one table that touch watched pages, one entry a row and page, in time order.

    t and since: int64 guest ns; who: int64, index into the watch list; free: bool (free list).
    """

    t: Int64s
    who: Int64s
    free: Flags
    since: Int64s


@dataclass(frozen=True)
class Observation:
    """A migration that was run to its end, with what happened to the watched pages.

    stop_ns: of the switchover, or where it ended without one. control: its events in replay order,
    without passes and looks, each with its sort key. passes: these, one a sweep of the cursor.
    """

    migration: Migration
    stop_ns: int
    writes: Touches
    moves: Touches
    zeros: Touches
    control: list[tuple[int, Event]]
    passes: list[Event]

    def host(self, guest: Int64s) -> Int64s:
        """Return the host times of guest times."""
        return self.migration.clock.host_of(guest)


def observe(migration: Migration) -> Observation:
    """Run a fresh migration that has a watch list."""
    outcome = profile(migration.parameters.profile)(migration)
    stop_ns = outcome.end_ns if outcome.stop_ns is None else outcome.stop_ns
    until = migration.clock.guest(stop_ns)
    passes = migration.parameters.at_end == "loop"
    writes, moves, zeros = (
        touches(Feed(migration.trace, table, migration.passes if passes else 1),
                migration.watch, until)
        for table in ("dirty", "freelist", "zero")
    )  # fmt: skip
    control = []
    for event in migration.events:
        if event.kind not in ("pass", "look"):
            copied = event.kind == "chunk" and event.report is None
            control.append((event.host_ns * 8 + (CHUNK if copied else CONTROL), event))
    control.sort(key=lambda entry: entry[0])
    return Observation(
        migration,
        stop_ns,
        writes,
        moves,
        zeros,
        control,
        [event for event in migration.events if event.kind == "pass"],
    )


def touches(feed: Feed, watch: Int64s, until: int) -> Touches:
    """Return the rows up to guest time `until` that touch the pages of `watch` (ascending)."""
    parts = []
    for rows in feed.between(0, None):
        if rows.t[0] > until:
            break
        end = int(np.searchsorted(rows.t, until, side="right"))
        page = rows.page[:end]
        low = np.searchsorted(watch, page)
        found = np.searchsorted(watch, page + rows.count[:end].astype(np.int64)) - low
        hit = np.flatnonzero(found)
        times = found[hit]
        ahead = np.cumsum(times) - times
        who = np.repeat(low[hit] - ahead, times) + np.arange(times.sum())
        parts.append(
            (
                np.repeat(rows.t[hit], times),
                who.astype(np.int64),
                np.repeat(rows.free[hit], times) if len(rows.free) else np.empty(0, np.bool_),
                np.repeat((rows.since if len(rows.since) else rows.t)[hit], times),
            )
        )
    if not parts:
        nothing = np.empty(0, np.int64)
        return Touches(nothing, nothing, np.empty(0, np.bool_), nothing)
    return Touches(*(np.concatenate(column) for column in zip(*parts, strict=True)))
