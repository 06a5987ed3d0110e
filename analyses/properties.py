"""What must be true of the replays of any strategy on any guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from analyses.random_guests import Case
from replay.link import wire_bytes
from replay.result import Replay, Result
from replay.strategies import Strategy

#: A check of the replays of one case: what is wrong with them, one sentence each.
Check = Callable[[Case, Strategy, Sequence[Replay]], Iterator[str]]


def _adds_up(case: Case, strategy: Strategy, runs: Sequence[Replay]) -> Iterator[str]:  # noqa: ARG001
    for run in runs:
        row = run.result
        parts = [row.redundant, row.free, row.superseded, row.freed_later, row.needed]
        total = sum(part or 0 for part in parts)
        if row.completed and total != row.pages_sent:
            yield f"the classes sum to {total} copies of {row.pages_sent}"
        if row.completed and row.wasted != row.pages_sent - (row.needed or 0):
            yield f"{row.wasted} copies wasted of {row.pages_sent}, {row.needed} needed"
        if not row.completed and (row.needed is not None or total > row.pages_sent):
            yield f"{total} copies in classes, {row.needed} needed, without a switchover"
        wire = wire_bytes(case.meta.page_size, row.pages_sent, row.zero_pages_sent)
        if row.profile == "rounds" and row.wire_bytes != wire:
            yield f"{row.wire_bytes} bytes on the wire, the copies make {wire}"
        for name in ("pages_sent", "zero_pages_sent"):
            rounds = sum(getattr(one, name) for one in run.rounds)
            if rounds != getattr(row, name):
                yield f"{name}: {getattr(row, name)}, the rounds sum to {rounds}"
        sums = {
            "reports_requested": len(run.reports),
            "reports_handled": sum(one.outcome == "handled" for one in run.reports),
            "reports_dropped": sum(one.outcome == "dropped" for one in run.reports),
            "skipped_pages": sum(one.skipped_pages for one in run.reports),
            "hold_conflicts": sum(one.hold_conflicts for one in run.reports),
        }
        for name, value in sums.items():
            if getattr(row, name) != value:
                yield f"{name}: {getattr(row, name)}, the reports sum to {value}"


def _ascends(case: Case, strategy: Strategy, runs: Sequence[Replay]) -> Iterator[str]:  # noqa: ARG001
    for run in runs:
        for report in run.reports:
            known = (report.requested_ns, report.snapshot_ns, report.arrived_ns, report.done_ns)
            times = [time for time in known if time is not None]
            if times != sorted(times):
                yield f"report {report.report} goes back in time: {times}"
        for before, after in pairwise(run.rounds):
            if not before.start_ns <= before.end_ns <= after.start_ns:
                yield f"round {after.round} begins before the one before has ended"
        for witness in run.unsafe:
            harvested = witness.t_harvested
            if harvested is not None and not witness.t_written <= harvested <= witness.t_skipped:
                yield f"page {witness.page} was harvested at {harvested}, before or after its time"
            if witness.t_snapshot > min(witness.t_skipped, witness.t_written):
                yield f"page {witness.page} was reported after it was skipped or written"
        row = run.result
        if row.completed and run.rounds[-1].end_ns != row.total_ns:
            yield f"it took {row.total_ns} ns, its last round ends at {run.rounds[-1].end_ns}"


def _fits(case: Case, strategy: Strategy, runs: Sequence[Replay]) -> Iterator[str]:  # noqa: ARG001
    for run in runs:
        row = run.result
        if row.completed != (row.reason in {"downtime-limit", "max-rounds"}):
            yield f"completed is {row.completed} for reason {row.reason}"
        if row.completed and row.lost != len(run.unsafe):
            yield f"{row.lost} pages lost, and {len(run.unsafe)} witnesses"
        if not _verdict_fits(row):
            yield f"verdict {row.verdict} with {row.lost} pages lost in scenario {row.scenario}"


def _verdict_fits(row: Result) -> bool:
    if not row.completed:
        return row.verdict == "unknown"
    if row.scenario in ("exact", "recorded"):
        return (row.verdict == "unsafe") == bool(row.lost)
    return True


def _holds(case: Case, strategy: Strategy, runs: Sequence[Replay]) -> Iterator[str]:
    for run in runs if applies("held", case, strategy) else ():
        if run.result.lost:
            yield f"{run.result.lost} pages are lost though the guest keeps what it reports"


def applies(name: str, case: Case, strategy: Strategy) -> bool:
    """Whether a case can show anything of a property: `held` takes a guest that holds."""
    return name != "held" or case.parameters.hold(strategy) == "done"


#: By the name of the property.
CHECKS: dict[str, Check] = {
    "adds up": _adds_up,
    "ascends": _ascends,
    "fits": _fits,
    "held": _holds,
}
