"""The history that is singled out is one that the recording allows, and it loses the page."""

from __future__ import annotations

import random
from bisect import bisect_right

from replay.doubt import search
from replay.history import losing_history
from replay.life import life
from replay.sequence import rows_of
from tests.histories import (
    WRITE,
    Life,
    _in_time,
    _within,
    is_lost,
    random_case,
    schedule,
    spans,
    story,
)


def _history(rows, cut):
    """Return the rows as what happens in each span; a second write in a row is no news."""
    found = []
    for span in cut:
        deeds = []
        for row in rows:
            again = row.kind == WRITE and deeds[-1:] == [WRITE]
            if span.low <= row.t <= span.high and row.kind != "zero" and not again:
                deeds.append(row.kind)
        found.append(tuple(deeds))
    return found


def test_it_is_allowed_and_loses():
    """Judged by the enumeration that the search itself is tested with, which shares no code."""
    told = 0
    for seed in range(500):
        case = random_case(random.Random(seed))
        for page in range(case.recording.pages):
            observation = case.watched(page)
            migration = observation.migration
            if migration.events[-1].kind != "stop" or migration.hold == "done":
                continue
            doubt = search(observation)
            supposed = losing_history(observation)
            assert (supposed is not None) == (doubt is not None), (seed, page)
            if supposed is None:
                continue
            told += 1
            stop = migration.clock.guest(observation.stop_ns)
            page_story = story(case.recording, page, stop)
            deeds = [
                deed
                for deed in schedule(observation)
                if deed.kind not in ("snapshot", "handled")
                or migration.hinting.reports[deed.number].outcome == "handled"
            ]
            chunk = bisect_right(migration.memory.chunks.tolist(), page) - 1
            deeds = [deed for deed in deeds if deed.kind != "chunk" or deed.number == chunk]
            cut = spans(page_story, deeds, stop)
            begin = sum(row.t <= 0 for row in rows_of(observation, 0))
            history = _history(supposed.rows[begin:], cut)
            moved = 0
            for at, (span, deeds) in enumerate(zip(cut, history, strict=True)):
                assert deeds in set(_within(page_story, span, moved)), (seed, page, at)
                moved += sum(deed != WRITE for deed in deeds)
                assert _in_time(page_story, cut, at, moved, history[: at + 1]), (seed, page, at)
            lived = Life(
                migration.memory.manual,
                migration.parameters.hint_clears_log,
                migration.hold == "ack",
                page_story.free,
                page_story.zero,
            )
            assert is_lost(lived, cut, history), (seed, page)
            last = life(observation, 0, supposed)[-1].after
            assert (last.free, last.synced, last.pending) == (False, False, False)
    assert told > 30
