"""Which strategies are safe, and under which conditions that holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replay.pacing import FULL_LOAD
from replay.parameters import LONGEST

if TYPE_CHECKING:
    from analyses.compare import Comparison
    from replay.parameters import Parameters
    from replay.result import Replay, Result, Scenario, UnsafeRow, Verdict
    from replay.strategies import Hold

#: Gravest first.
VERDICTS: tuple[Verdict, ...] = ("unsafe", "possible", "unknown", "safe")

#: What each verdict means where the trace does not know everything.
MEANING: dict[Verdict, str] = {
    "unsafe": "recorded writes are lost",
    "possible": "writes, moments or orders that the recording hides may lose a page",
    "unknown": "no switchover, so nothing is known",
    "safe": "nothing that the recording allows loses a page",
}
#: What it means where the trace knows every write, moment and order.
EXACT_MEANING: dict[Verdict, str] = {
    **MEANING,
    "unsafe": "writes are lost",
    "safe": "no page is lost",
}


@dataclass(frozen=True)
class Finding:
    """The verdict on one strategy, over all its scenarios.

    lost: pages in the leading scenario, None without a switchover. hold: the guest hold that it
    was replayed with, "none" also for a strategy without reports. witness: of the first lost page.
    scenarios: all, the leading one first; ended, endless: those with and without a switchover.
    """

    strategy: str
    verdict: Verdict
    scenarios: tuple[Scenario, ...]
    ended: tuple[Scenario, ...]
    endless: tuple[Scenario, ...]
    lost: int | None
    hold: Hold
    witness: UnsafeRow | None


@dataclass(frozen=True)
class Condition:
    """Something that the results rest on or that they say only conditionally.

    strategies: the ones concerned, empty for all. scenario: the one concerned, None for all.
    """

    text: str
    strategies: tuple[str, ...] = ()
    scenario: str | None = None


def gravest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a strategy, given those of its scenarios: the gravest.

    A scenario is another course of events that the trace allows: a loss in one is possible, and
    where one ends without a switchover that strategy is not known to be safe.
    """
    return min(verdicts, key=VERDICTS.index)


def findings(comparison: Comparison) -> tuple[Finding, ...]:
    """Return the verdict on every strategy of a comparison, in their order."""
    return tuple(
        finding(comparison.of(one.name), comparison.parameters.hold(one) if one.hints else "none")
        for one in comparison.strategies
    )


def premise(found: Sequence[Finding], comparison: Comparison) -> str:
    """Return the condition without which these findings' losses must not be told, or nothing."""
    losing = [one for one in found if one.verdict in ("unsafe", "possible")]
    if not losing:
        return ""
    return loss_premise({one.hold for one in losing}, comparison.parameters)


def loss_premise(holds: Set[Hold], parameters: Parameters) -> str:
    """Return the same for losses under these guest holds."""
    if holds == {"ack"}:
        return "even if the guest reuses no reported page before the host has handled it"
    if parameters.log_mode == "manual":
        return (
            "if the guest reuses reported pages before the host has handled them, which Linux's "
            "driver does only under memory pressure"
        )
    return "if the guest may reuse reported pages at once (guest hold none)"


def conditions(comparison: Comparison) -> tuple[Condition, ...]:
    """Return what the results of a comparison rest on, each thing once."""
    return (
        *_assumptions(comparison.results),
        *_load(comparison),
        *_holds(comparison),
        *_what_free_pages_hold(comparison),
        *_endings(comparison),
    )


def finding(replays: Sequence[Replay], hold: Hold) -> Finding:
    """Return the verdict on a strategy over the replays of all its scenarios."""
    results = [replay.result for replay in replays]
    witnesses = [row for replay in replays for row in replay.unsafe]
    return Finding(
        results[0].strategy,
        gravest(result.verdict for result in results),
        tuple(result.scenario for result in results),
        tuple(result.scenario for result in results if result.completed),
        tuple(result.scenario for result in results if not result.completed),
        results[0].lost,
        hold,
        witnesses[0] if witnesses else None,
    )


def _assumptions(results: tuple[Result, ...]) -> Iterator[Condition]:
    """Gather equal assumptions; name those concerned only where it is not all."""
    texts = dict.fromkeys(text for result in results for text in result.assumptions)
    scenarios = {result.scenario for result in results}
    for text in texts:
        having = [result for result in results if text in result.assumptions]
        found = {result.scenario for result in having}
        alone = next(iter(found)) if len(found) == 1 and len(scenarios) > 1 else None
        yield Condition(text, _unless_all(results, having), alone)


def _load(comparison: Comparison) -> Iterator[Condition]:
    """At which pace a guest that is held back works, and at which the recorded one did."""
    taken, shown = comparison.parameters.guest_load, comparison.shown_load
    if not comparison.parameters.holds_back:
        return
    pace = (
        "is taken to work as fast as it may (guest load 100 %)"
        if taken == FULL_LOAD
        else f"is taken to need {taken} % of its vCPUs' time (guest load {taken} %)"
    )
    if taken != FULL_LOAD and comparison.trace.meta.source.get("throttle_percents"):
        pace += ", and was taken so while it was recorded throttled"
    if shown is None:
        seen = "the recording does not show how fast that is"
    elif shown == taken:
        seen = "as the recording shows"
    else:
        seen = (
            f"the recording, in which it was throttled, shows a guest load of {shown} % "
            "(--guest-load)"
        )
    yield Condition(f"a guest that is held back {pace}; {seen}")


def _holds(comparison: Comparison) -> Iterator[Condition]:
    parameters = comparison.parameters
    for hold in ("ack", "done"):
        held = [s for s in comparison.strategies if s.hints and parameters.hold(s) == hold]
        leaky = parameters.log_mode == "manual" and not parameters.hint_clears_log
        if held and not (hold == "ack" and leaky):
            yield Condition(
                f"guest hold {hold} makes a replay safe by construction, whatever the strategy; "
                "it shows nothing about the strategy itself",
                tuple(s.name for s in held),
            )


def _what_free_pages_hold(comparison: Comparison) -> Iterator[Condition]:
    """Skipped pages whose content nobody wrote: conditional findings (the model, section 4)."""
    leading = [r for r in comparison.results if r.scenario == comparison.scenarios[0]]
    old = _by_count((r.strategy, r.old_bytes or 0) for r in leading)
    for pages, names in old.items():
        yield Condition(
            f"{pages:,} skipped pages hold old bytes at the destination: wrong for a guest that "
            "counts on what free pages contain (init_on_free, page poisoning), harmless otherwise",
            names,
        )
    unwritten = _by_count((r.strategy, r.unwritten or 0) for r in leading)
    for pages, names in unwritten.items():
        yield Condition(
            f"{pages:,} skipped pages are in use but were not written since they were taken: they "
            "hold what a free page happened to hold",
            names,
        )


def _endings(comparison: Comparison) -> Iterator[Condition]:
    results = comparison.results
    over = "the trace ends first"
    if comparison.parameters.at_end != "stop":
        over = f"the replay stops at {LONGEST} times the trace's length"
    for reason, text in (
        ("trace-exhausted", f"no switchover: {over} (trace-exhausted)"),
        ("livelock", "no switchover: rounds copy nothing and take no time (livelock)"),
        ("max-rounds", "not converged: switched over at the round limit (max-rounds)"),
    ):
        having = [result for result in results if result.reason == reason]
        for scenario in dict.fromkeys(result.scenario for result in having):
            here = [result for result in having if result.scenario == scenario]
            among = tuple(result for result in results if result.scenario == scenario)
            alone = scenario if len(among) < len(results) else None
            yield Condition(text, _unless_all(among, here), alone)


def _by_count(counts: Iterable[tuple[str, int]]) -> dict[int, tuple[str, ...]]:
    grouped: dict[int, tuple[str, ...]] = {}
    for name, pages in counts:
        if pages:
            grouped[pages] = (*grouped.get(pages, ()), name)
    return grouped


def _unless_all(results: tuple[Result, ...], having: list[Result]) -> tuple[str, ...]:
    concerned = tuple(dict.fromkeys(result.strategy for result in having))
    return () if concerned == tuple(dict.fromkeys(r.strategy for r in results)) else concerned
