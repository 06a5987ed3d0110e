"""What came out of a sweep, strategy by strategy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from analyses.safety import gravest
from analyses.sweep.plan import Plan
from analyses.sweep.results import Row, columns
from analyses.sweep.run import State
from replay.result import Verdict


@dataclass
class Tally:
    """One strategy: verdicts, and ns of its replays in the leading scenario that completed."""

    verdicts: Counter[str] = field(default_factory=Counter)
    converged: int = 0
    total_ns: list[int] = field(default_factory=list)
    downtime_ns: list[int] = field(default_factory=list)

    @property
    def replays(self) -> int:
        """How many replays there are."""
        return self.verdicts.total()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it; the medians are the lower ones, None without a switchover."""
        return {
            "replays": self.replays,
            **{name: self.verdicts[name] for name in ("unsafe", "possible", "safe", "unknown")},
            "converged": self.converged,
            "median_total_ns": median(self.total_ns),
            "median_downtime_ns": median(self.downtime_ns),
        }


class Summary:
    """Counts result rows as they pass by."""

    def __init__(self) -> None:
        self.strategies: defaultdict[str, Tally] = defaultdict(Tally)
        self._verdict: Verdict = "unknown"

    def __call__(self, row: Row) -> None:
        """Count a result row; those of other scenarios follow the leading one of their task."""
        tally = self.strategies[row["strategy"]]
        if row["scenario"] not in ("exact", "recorded"):
            tally.verdicts[self._verdict] -= 1
            self._verdict = gravest((self._verdict, row["verdict"]))
            tally.verdicts[self._verdict] += 1
            return
        self._verdict = row["verdict"]
        tally.verdicts[self._verdict] += 1
        tally.converged += row["converged"]
        if row["completed"]:
            tally.total_ns.append(row["total_ns"])
            tally.downtime_ns.append(row["downtime_ns"])


def median(values: list[int]) -> int | None:
    """Return the lower median, which is one of the values."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def to_dict(plan: Plan, state: State, summary: Summary) -> dict[str, Any]:
    """Return what came out as JSON takes it."""
    failed = [
        {
            "trace": task.trace.name,
            "path": task.trace.shown,
            "strategy": task.name,
            "parameters": columns(task.parameters),
            "problem": state.failed[task.key],
        }
        for task in plan.tasks
        if task.key in state.failed
    ]
    return {
        "traces": len(plan.traces),
        "parameters": len(plan.parameters),
        "tasks": state.total,
        "before": state.before,
        "done": state.done,
        "tried_again": state.again,
        "failed": failed,
        "strategies": {name: tally.to_dict() for name, tally in summary.strategies.items()},
    }


def failures(plan: Plan, state: State, most: int) -> Iterator[str]:
    """Yield a sentence on each failed task, at most so many, with the parameters that vary."""
    varied = _varied(plan)
    failed = [task for task in plan.tasks if task.key in state.failed]
    for task in failed[:most]:
        with_what = ", ".join(
            f"{k} {v}" for k, v in columns(task.parameters).items() if k in varied
        )
        under = f"{task.name} ({with_what})" if with_what else task.name
        yield f"{task.trace.shown} under {under}: {state.failed[task.key]}"
    if len(failed) > most:
        yield f"and {len(failed) - most} more"


def _varied(plan: Plan) -> set[str]:
    """Return the parameters that have more than one value."""
    first = columns(plan.parameters[0])
    return {k for one in plan.parameters for k, v in columns(one).items() if v != first[k]}
