"""The search behind the verdict `possible`, against every history one by one.

The model, section 7. The stories share one schedule. Four pages of 10 ns each: the first round
lasts to 40, where the first sync is. Page 0 is written all the time, so that the second round
copies it from 40 to 50 and passes page 3 at 50. The only report leaves the guest at 25 and is
handled at 45, between that sync and that pass. Page 3 is on the free list at the start, is copied
at 30, and is lost if it is named by the report, taken, and written after 30 but before the sync.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from replay.doubt import Doubt, can_lose, search
from replay.parameters import Parameters
from replay.profiles import profile
from replay.replay import replay
from replay.strategies import Hold, strategy
from tests.histories import (
    PAGE_BYTES,
    Case,
    Recording,
    TooManyError,
    losable,
    random_case,
)

PARAMETERS = Parameters(
    bandwidth=(PAGE_BYTES + 8) * 10**9 // 10,
    downtime_limit_ns=0,
    request_delay_ns=25,
    report_delay_ns=20,
    handle_delay_ns=0,
    max_rounds=2,
)
BUSY = tuple((t, 0) for t in range(5, 200, 10))
FREE_AT_START = (0, 0, 3, True)


def told(
    *rows: tuple[int, int, int, bool],
    written: tuple[int, ...] = (),
    epochs: tuple[int, ...] = (),
    resolution: str = "write",
    quantum: int = 1,
) -> Recording:
    """Return a recording of page 3: its free-list rows and when it was written."""
    dirty = tuple(sorted((*BUSY, *((t, 3) for t in written))))
    return Recording(4, 200, dirty, rows, (), epochs, resolution, quantum)


def verdict(recording: Recording, parameters: Parameters = PARAMETERS) -> str:
    """Return the verdict of `hint-flush`, which is the brute force's too."""
    case = Case(recording, strategy("hint-flush"), parameters)
    found = replay(case.trace, case.strategy, parameters)[0]
    if found.result.verdict in ("safe", "possible"):
        history = losable(case, 3, case.watched(3), most=20_000)
        assert found.result.verdict == ("safe" if history is None else "possible")
    return str(found.result.verdict)


def test_the_race_itself() -> None:
    """Taken after the snapshot, written after the copy: the sync swallows it, the report too."""
    assert verdict(told(FREE_AT_START, (28, 28, 3, False), written=(35,))) == "unsafe"


def test_a_hidden_write_may_straddle_the_sync() -> None:
    """The copy at 30 carries the recorded write; one that it hides may come between it and 40."""
    story = told(FREE_AT_START, (28, 28, 3, False), written=(29,), epochs=(60,))
    assert verdict(story) == "safe"
    assert verdict(replace(story, resolution="first-write")) == "possible"


@pytest.mark.parametrize(("epoch", "wanted"), [(24, "safe"), (28, "safe"), (31, "possible")])
def test_a_write_that_must_precede_the_snapshot_or_the_copy_harms_nobody(
    epoch: int, wanted: str
) -> None:
    """Written at 10 and maybe until the epoch ends, freed before the snapshot, taken after it.

    Up to 24 nothing hidden follows the snapshot, up to 28 the copy at 30 carries it.
    """
    life = [(20, 20, 3, True), (27, 27, 3, False)]
    story = told(*life, written=(10,), epochs=(epoch,), resolution="first-write")
    assert verdict(story) == wanted


@pytest.mark.parametrize(("since", "wanted"), [(22, "possible"), (25, "possible"), (26, "safe")])
def test_a_transition_may_have_been_early_enough_for_the_report(since: int, wanted: str) -> None:
    """Seen free at 27, when the snapshot of 25 is over: it may have been free since `since`."""
    story = told((since, 27, 3, True), (28, 28, 3, False), written=(35,))
    assert verdict(story) == wanted


@pytest.mark.parametrize(("quantum", "wanted"), [(1, "safe"), (5, "possible")])
def test_a_quantum_may_hide_that_the_take_followed_the_snapshot(quantum: int, wanted: str) -> None:
    """Both are at 25; to the nanosecond the take comes first and the report does not name it."""
    story = told(FREE_AT_START, (25, 25, 3, False), written=(35,), quantum=quantum)
    assert verdict(story) == wanted


@pytest.mark.parametrize("hold", ["none", "ack", "done"])
def test_a_hold_leaves_out_what_any_history_takes(hold: Hold) -> None:
    story = told((22, 27, 3, True), (28, 28, 3, False), written=(35,))
    wanted = "possible" if hold == "none" else "safe"
    assert verdict(story, replace(PARAMETERS, guest_hold=hold)) == wanted


@pytest.mark.parametrize(("epoch", "wanted"), [(15, "possible"), (39, "possible"), (40, "safe")])
def test_a_row_after_switchover_may_stand_for_a_write_before_it(epoch: int, wanted: str) -> None:
    """Written at some time in an epoch that begins before the sync at 40 and ends at 180."""
    story = Recording(
        pages=4,
        duration=200,
        dirty=((epoch, 0), (180, 0), (180, 3)),
        freelist=(FREE_AT_START, (28, 28, 3, False)),
        epochs=(epoch, 180),
        resolution="epoch",
    )
    assert verdict(story) == wanted


def test_a_transition_seen_after_switchover_may_have_come_before_it() -> None:
    """On the list until 28 or so; the sample says 190, and writes say no more than their epoch."""
    story = Recording(
        pages=4,
        duration=200,
        dirty=((15, 0), (195, 3)),
        freelist=(FREE_AT_START, (20, 190, 3, False)),
        epochs=(15, 195),
        resolution="epoch",
    )
    assert verdict(story) == "possible"


def test_the_cursor_passes_the_last_pages_before_the_next_sync() -> None:
    """Written between 46 and 50, page 3 is not pending as the cursor passes it at 50.

    The sync of the same instant comes after that, and the report of 55 before the next pass at 60.
    """
    story = Recording(
        pages=4,
        duration=200,
        dirty=((30, 0), (45, 0), (58, 3), (200, 0)),
        freelist=(FREE_AT_START, (28, 28, 3, False)),
        epochs=(30, 45, 58, 200),
        resolution="epoch",
    )
    late = replace(PARAMETERS, report_delay_ns=30, max_rounds=3)
    assert verdict(story, late) == "possible"


@pytest.mark.parametrize(("neighbour", "wanted"), [(25, "possible"), (26, "safe")])
def test_a_report_of_whole_blocks_depends_on_the_neighbours(neighbour: int, wanted: str) -> None:
    """Of order 1 it names page 3 only if page 2, seen free at 27, was so by the snapshot of 25."""
    story = told((0, 0, 3, True), (neighbour, 27, 2, True), (28, 28, 3, False), written=(35,))
    case = Case(story, strategy("hint-flush"), replace(PARAMETERS, min_order=1))
    assert replay(case.trace, case.strategy, case.parameters)[0].result.verdict == wanted


@pytest.mark.parametrize(("epoch", "wanted"), [(139, False), (160, True)])
def test_more_reports_on_their_way_than_the_search_keeps_apart(epoch: int, wanted: bool) -> None:
    """Sixty at once, but nothing happens to the page between most of their snapshots."""
    story = told(
        (18, 21, 3, True),
        (140, 140, 3, False),
        written=(10,),
        epochs=(epoch,),
        resolution="first-write",
    )
    parameters = replace(PARAMETERS, report_delay_ns=60, hint_interval_ns=1, max_rounds=16)
    case = Case(story, strategy("hint-flush").with_request("periodic"), parameters)
    observation = case.watched(3)
    reports = observation.migration.hinting.reports
    assert sum(report.outcome == "handled" for report in reports) > 100
    assert (losable(case, 3, observation, most=20_000) is not None) == wanted
    assert search(observation) == (Doubt(3, proved=True) if wanted else None)


@pytest.mark.parametrize("begin", range(0, 300, 100))
def test_against_every_history(begin: int) -> None:
    """Random races: page by page, and the pages that can_lose leaves aside.

    Few pages have too many histories to go through; enough of either verdict are left.
    """
    seen: Counter[str] = Counter()
    for seed in range(begin, begin + 100):
        case = random_case(random.Random(seed))
        finished = case.migration(np.empty(0, np.int64))
        outcome = profile(case.parameters.profile)(finished)
        if outcome.stop_ns is None or finished.memory.judge().lost:
            continue
        lost = set()
        for page in range(case.recording.pages):
            observation = case.watched(page)
            try:
                history = losable(case, page, observation, most=3000)
            except TooManyError:
                seen["skipped"] += 1
                break
            found = search(observation)
            assert (found is not None) == (history is not None), (seed, page, history)
            assert found is None or found.proved
            if history is not None:
                lost.add(page)
        else:
            doubt = can_lose(case.migration, finished, outcome.stop_ns)
            assert doubt is None if not lost else doubt is not None and doubt.page in lost, seed
            seen["possible" if lost else "safe"] += 1
    assert seen["possible"] >= 2, seen
    assert seen["safe"] >= 50, seen
    assert seen["skipped"] <= 15, seen
