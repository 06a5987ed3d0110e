"""What every strategy must hold to, the users' own included.

`check(strategy)` runs a strategy over random traces, checks the model's invariants and raises
AssertionError with the case that breaks one.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

from replay.link import wire_bytes
from replay.replay import replay
from replay.result import Replay, Result
from replay.strategies import Strategy
from tests.bridge import as_parameters, as_trace
from tests.random_traces import messy_case, random_case


def check(strategy: Strategy, *, cases: int = 25, seed: int = 5) -> None:
    """Check one strategy on `cases` random traces of each kind."""
    assert strategy.name
    assert strategy.origin, "a strategy says where it comes from"
    rng = random.Random(seed)
    for number in range(cases * 2):
        trace, parameters = (random_case, messy_case)[number % 2](rng)
        if strategy.drain and parameters.request == "resubmit":
            parameters = replace(parameters, request=None)
        chosen = as_parameters(parameters)
        runs = replay(as_trace(trace), strategy, chosen)
        again = replay(as_trace(trace, batch=2), strategy, chosen)
        assert again == runs, "the same input gives the same rows, however it is cut in batches"
        for run in runs:
            _counts_add_up(run, trace.page_size)
            _times_ascend(run)
            _verdict_fits(run.result)
            if run.result.completed:
                assert run.result.lost == len(run.unsafe)
            if chosen.hold(strategy) == "done":
                assert not run.result.lost, "a guest that keeps what it reported loses nothing"


def _counts_add_up(run: Replay, page_size: int) -> None:
    row = run.result
    if row.completed:
        parts = (row.redundant, row.free, row.superseded, row.freed_later, row.needed)
        assert sum(part or 0 for part in parts) == row.pages_sent
        assert row.wasted == row.pages_sent - (row.needed or 0)
    else:
        assert row.needed is None
        assert row.redundant + row.free + row.superseded <= row.pages_sent
    assert row.wire_bytes == wire_bytes(page_size, row.pages_sent, row.zero_pages_sent)
    assert sum(r.pages_sent for r in run.rounds) == row.pages_sent
    assert sum(r.zero_pages_sent for r in run.rounds) == row.zero_pages_sent
    assert row.reports_requested == len(run.reports)
    assert row.reports_handled + row.reports_dropped <= row.reports_requested
    assert row.skipped_pages == sum(r.skipped_pages for r in run.reports)
    assert row.hold_conflicts == sum(r.hold_conflicts for r in run.reports)


def _times_ascend(run: Replay) -> None:
    for report in run.reports:
        known = [report.requested_ns, report.snapshot_ns, report.arrived_ns, report.done_ns]
        times = [time for time in known if time is not None]
        assert times == sorted(times)
    for before, after in pairwise(run.rounds):
        assert before.start_ns <= before.end_ns <= after.start_ns
    if run.result.completed:
        assert run.rounds[-1].stopped
        assert run.rounds[-1].end_ns == run.result.total_ns
        assert run.rounds[-1].end_ns - run.rounds[-1].start_ns == run.result.downtime_ns
    for witness in run.unsafe:
        assert witness.t_snapshot <= witness.t_skipped
        assert witness.t_snapshot <= witness.t_written
        if witness.t_harvested is not None:
            assert witness.t_written <= witness.t_harvested <= witness.t_skipped


def _verdict_fits(row: Result) -> None:
    assert row.completed == (row.reason in {"downtime-limit", "max-rounds"})
    assert row.converged == (row.reason == "downtime-limit")
    if not row.completed:
        assert row.verdict == "unknown"
    elif row.scenario in ("exact", "recorded"):
        assert (row.verdict == "unsafe") == bool(row.lost)
