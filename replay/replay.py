"""Replay a trace under a strategy: all its scenarios, with verdicts and witnesses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from replay.assumptions import assumptions
from replay.doubt import Doubt, can_lose
from replay.engine import Migration
from replay.link import wire_bytes
from replay.memory import Judgement, memory_needed
from replay.observe import observe
from replay.parameters import Parameters
from replay.profiles import Outcome, profile
from replay.result import Replay, ReportRow, Result, RoundRow, Scenario, UnsafeRow, Verdict
from replay.scenarios import Readings, memory_to_draw, scenarios
from replay.strategies import Strategy
from replay.witness import Witness, witnesses
from tracer.errors import UsageError
from tracer.rows import Int64s
from tracer.trace import Trace

Progress = Callable[[int], None]

#: Under which condition a page is lost that is not lost at the recorded moments, by scenario.
LOST_IF: dict[Scenario, str] = {
    "expected": "with the hidden writes that are expected (scenario expected)",
    "saturated": "if every hidden write happens (scenario saturated)",
}


def replay(
    trace: Trace,
    strategy: Strategy,
    parameters: Parameters,
    *,
    readings: Readings | None = None,
    on_rows: Progress | None = None,
) -> list[Replay]:
    """Replay `trace` (validated) under `strategy` in each of its scenarios.

    readings: of the same trace and parameters, where several strategies are to share what is drawn.
    on_rows is called now and then with the dirty rows replayed in the scenario under way.
    Raises UsageError where the strategy needs a free list and the trace has none.
    """
    strategy = strategy.with_request(parameters.request)
    if strategy.hints and "freelist" not in trace:
        raise UsageError(
            f"{trace.name}: strategy {strategy.name} needs a free list and the trace has no "
            "freelist.arrow; record one along, or replay precopy"
        )
    enough_memory(trace, strategy, parameters)
    readings = readings or Readings(trace, parameters)
    replays = [
        _replay(readings, strategy, parameters, scenario, on_rows)
        for scenario in scenarios(trace, parameters)
    ]
    return _with_verdict(replays)


def needed_bytes(trace: Trace, strategy: Strategy, parameters: Parameters) -> int:
    """Return about how much memory a replay takes, less what drawing hidden writes takes."""
    return memory_needed(
        trace.meta.pages,
        manual=parameters.log_mode == "manual",
        hints=strategy.hints,
        saturated="saturated" in scenarios(trace, parameters),
    )


def enough_memory(trace: Trace, strategy: Strategy, parameters: Parameters) -> None:
    """Raise UsageError where this machine has too little memory for the replay."""
    needed = needed_bytes(trace, strategy, parameters)
    if "expected" in scenarios(trace, parameters):
        needed += memory_to_draw(trace)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UsageError(
            f"{trace.name}: a guest of {trace.meta.pages} pages "
            f"with {trace.num_rows('dirty')} dirty rows takes {needed >> 20} MiB to replay under "
            f"{strategy.name}, and this machine has {there >> 20} MiB; use a larger one, or leave "
            "scenarios out"
        )


def _replay(
    readings: Readings,
    strategy: Strategy,
    parameters: Parameters,
    scenario: Scenario,
    on_rows: Progress | None,
) -> Replay:
    saturated = scenario == "saturated"
    parameters = readings.parameters(scenario)
    for trace in readings.of(scenario):
        first = Migration(trace, strategy, parameters, saturated=saturated, on_rows=on_rows)
        outcome = profile(parameters.profile)(first)
        if outcome.reason != "trace-exhausted":
            break

    def migration(watch: Int64s) -> Migration:
        return Migration(trace, strategy, parameters, saturated=saturated, watch=watch)

    judgement = None if outcome.stop_ns is None else first.memory.judge()
    doubt: Doubt | None = None
    unsafe: tuple[Witness, ...] = ()
    if judgement is not None and judgement.lost:
        unsafe = witnesses(observe(migration(judgement.lost_pages)))
    elif outcome.stop_ns is not None and scenario == "recorded" and strategy.hints:
        doubt = can_lose(migration, first, outcome.stop_ns)
    tag = (trace.name, strategy.name, scenario)
    return Replay(
        _result(first, outcome, judgement, scenario, doubt, readings.drawn(scenario, trace)),
        tuple(_round_rows(tag, trace.meta.page_size, outcome)),
        tuple(_report_rows(tag, first)),
        tuple(UnsafeRow(*tag, *vars(witness).values()) for witness in unsafe),
    )


def _with_verdict(replays: list[Replay]) -> list[Replay]:
    """Give every scenario of a strategy its one verdict (the model, section 7).

    The verdict is that of the recorded scenario. Should hidden writes lose a page on the schedule
    of another where none is lost on the recorded one, a loss is possible all the same.
    """
    recorded, *others = (one.result for one in replays)
    verdict = recorded.verdict
    notes: tuple[str, ...] = ()
    for result in others:
        if result.lost and recorded.verdict in ("safe", "unknown"):
            verdict = "possible"
            notes += (f"{result.lost} pages are lost {LOST_IF[result.scenario]}",)
    if not others:
        return replays
    return [
        replace(
            one,
            result=replace(
                one.result,
                verdict=verdict if one.result.completed else "unknown",
                assumptions=one.result.assumptions + notes,
            ),
        )
        for one in replays
    ]


def _result(
    migration: Migration,
    outcome: Outcome,
    judgement: Judgement | None,
    scenario: Scenario,
    doubt: Doubt | None,
    drawn: Iterable[str],
) -> Result:
    counters = outcome.rounds
    sent = sum(row.pages_sent for row in counters)
    zero = sum(row.zero_pages_sent for row in counters)
    superseded = migration.memory.superseded()
    reports = migration.hinting.reports
    converged = outcome.reason == "downtime-limit"
    stopped_ns = migration.clock.account(
        outcome.end_ns if outcome.stop_ns is None else outcome.stop_ns
    )
    return Result(
        trace=migration.trace.name,
        strategy=migration.strategy.name,
        profile=migration.parameters.profile,
        log_mode=migration.parameters.log_mode,
        scenario=scenario,
        verdict=_verdict(judgement, doubt),
        completed=judgement is not None,
        converged=converged,
        reason=outcome.reason,
        rounds=migration.round,
        syncs=migration.syncs,
        pages_sent=sent,
        zero_pages_sent=zero,
        wire_bytes=wire_bytes(migration.trace.meta.page_size, sent, zero) + outcome.framing,
        redundant=sum(row.redundant for row in counters),
        free=sum(row.free for row in counters),
        superseded=superseded,
        freed_later=None if judgement is None else judgement.freed_later,
        needed=None if judgement is None else judgement.needed,
        wasted=None if judgement is None else sent - judgement.needed,
        total_ns=outcome.end_ns,
        downtime_ns=None if outcome.stop_ns is None else outcome.end_ns - outcome.stop_ns,
        vcpu_stopped_ns=stopped_ns,
        reports_requested=len(reports),
        reports_handled=sum(report.outcome == "handled" for report in reports),
        reports_dropped=sum(report.outcome == "dropped" for report in reports),
        skipped_pages=sum(report.skipped for report in reports),
        hold_conflicts=sum(report.conflicts for report in reports),
        lost=None if judgement is None else judgement.lost,
        unwritten=None if judgement is None else judgement.unwritten,
        stale_free=None if judgement is None else judgement.stale_free,
        old_bytes=None if judgement is None else judgement.old_bytes,
        near_misses=None if judgement is None else judgement.near_misses,
        assumptions=(*drawn, *assumptions(migration, scenario, doubt, stopped_ns)),
    )


def _verdict(judgement: Judgement | None, doubt: Doubt | None) -> Verdict:
    if judgement is None:
        return "unknown"
    if judgement.lost:
        return "unsafe"
    return "safe" if doubt is None else "possible"


def _round_rows(
    tag: tuple[str, str, Scenario], page_size: int, outcome: Outcome
) -> Iterator[RoundRow]:
    for row in outcome.rounds:
        yield RoundRow(
            *tag,
            row.round,
            row.stopped,
            row.start_ns,
            row.end_ns,
            row.pages_sent,
            row.zero_pages_sent,
            wire_bytes(page_size, row.pages_sent, row.zero_pages_sent),
            row.redundant,
            row.free,
            row.pending_pages,
        )


def _report_rows(tag: tuple[str, str, Scenario], migration: Migration) -> Iterator[ReportRow]:
    for report in migration.hinting.reports:
        yield ReportRow(
            *tag,
            report.number,
            report.requested_ns,
            report.snapshot_ns,
            report.arrived_ns,
            report.done_ns,
            report.outcome,
            report.pages,
            report.skipped,
            report.conflicts,
            report.missed,
        )
