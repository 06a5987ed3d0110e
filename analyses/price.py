"""What a repair costs on a trace: the strategy as it is, each repair, and plain pre-copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analyses.load import as_worked
from analyses.repair import Repair
from analyses.safety import Finding, finding
from replay.parameters import Parameters
from replay.replay import replay
from replay.result import Result
from replay.rewrites import Rewrites
from replay.scenarios import Readings
from replay.strategies import Strategy, strategy
from tracer.trace import Trace

#: Told what is being replayed, how many replays are done and how many there are in all.
Tell = Callable[[str, int, int], None]

_COUNTED = (
    "pages_sent",
    "zero_pages_sent",
    "wire_bytes",
    "total_ns",
    "downtime_ns",
    "vcpu_stopped_ns",
)


@dataclass(frozen=True)
class Price:
    """One strategy replayed in every scenario of the trace.

    repair: None for the strategy as it is and for precopy. result: of the leading scenario; its
    strategy tells those apart. finding: the verdict over all scenarios, as `replay` gives it.
    at_end: of the parameters.
    """

    repair: Repair | None
    result: Result
    finding: Finding
    at_end: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        row = self.result.to_dict()
        return {
            **({"changes": [], "states": None} if self.repair is None else self.repair.to_dict()),
            "strategy": row["strategy"],
            "verdict": self.finding.verdict,
            "no_switchover": list(self.finding.endless),
            **{name: row[name] for name in ("scenario", "completed", "lost", *_COUNTED)},
        }


def prices(
    trace: Trace,
    chosen: Strategy,
    parameters: Parameters,
    found: Sequence[Repair],
    tell: Tell | None = None,
) -> list[Price]:
    """Replay precopy, the strategy as it is and every repair; the cheapest repair comes first.

    trace: validated. Cheap is what sends few pages, then what is over soon; replays without a
    switchover come last.
    """
    works: list[tuple[Repair | None, Strategy, Parameters]] = [
        (None, strategy("precopy"), parameters),
        (None, chosen, parameters),
    ]
    for repair in found:
        changed = replace(
            parameters,
            # The axis is chosen already.
            request=None,
            guest_hold=repair.setting.hold,
            hint_clears_log=repair.setting.hint_clears_log,
        )
        works.append((repair, repair.setting.strategy, changed))
    trace = as_worked(trace, parameters)
    done = []
    drawn: dict[int, Rewrites] = {}
    for number, (made, one, with_) in enumerate(works):
        if tell is not None:
            tell(f"{trace.name}: {one.name}", number, len(works))
        replays = replay(trace, one, with_, readings=Readings(trace, with_, drawn))
        hold = with_.hold(one) if one.hints else "none"
        done.append(Price(made, replays[0].result, finding(replays, hold), with_.at_end))
    return [*done[:2], *sorted(done[2:], key=_cheap)]


def _cheap(price: Price) -> tuple[bool, int, int]:
    result = price.result
    return not result.completed, result.pages_sent, result.total_ns
