"""The report of replays on a terminal: who is safe, what it cost, on what that rests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from analyses.compare import Comparison
from analyses.render.grid import labelled, wrap
from analyses.render.tables import STYLES, tables
from analyses.render.terminal import Page
from analyses.render.text import (
    all_of,
    duration,
    moment,
    pages,
    plain,
    rate,
    setting,
    size,
)
from analyses.safety import (
    EXACT_MEANING,
    MEANING,
    VERDICTS,
    Condition,
    Finding,
    conditions,
    findings,
    premise,
)
from replay.parameters import Parameters
from replay.result import UnsafeRow
from replay.strategies import Strategy
from tracer.format import Meta
from tracer.trace import Trace

_INDENT = 13


def show(comparisons: Sequence[Comparison], page: Page) -> None:
    """Print the report: one block for each trace."""
    for number, comparison in enumerate(comparisons):
        if number:
            page.lines([""])
        page.lines(_block(comparison, page))


def _block(comparison: Comparison, page: Page) -> Iterator[Text]:
    found = findings(comparison)
    width = page.prose
    yield Text(plain(comparison.trace.name), style="bold underline")
    yield from _header(comparison, width)
    yield Text()
    yield from _verdicts(comparison, found, width)
    yield Text()
    yield from tables(comparison, page)
    if witnesses := list(_witnesses(found, width)):
        yield Text()
        yield from witnesses
    yield Text()
    yield from _notes(comparison, width)


def _header(comparison: Comparison, width: int) -> Iterator[Text]:
    for label, body in settings(comparison.trace, comparison.parameters, *comparison.strategies):
        yield from labelled(label, body, width, _INDENT)


def settings(
    trace: Trace, parameters: Parameters, *strategies: Strategy
) -> Iterator[tuple[str, str]]:
    """Yield what was replayed and with which parameters, as labels and texts."""
    meta = trace.meta
    guest = (
        f"{size(meta.pages * meta.page_size)} ({pages(meta.pages)} of {size(meta.page_size)}), "
        f"{duration(meta.duration_ns)} recorded"
    )
    known = {
        "write": "every write",
        "first-write": "a page's first write in each epoch",
        "epoch": "the pages written in each epoch",
    }[meta.resolution]
    listed = {None: "no free list", "event": "every move of the free list"}
    recorded = f"{known}, {listed.get(meta.freelist_resolution, 'sampled free list')}"
    if meta.quantum_ns > 1:
        recorded += f", times in steps of {setting(meta.quantum_ns)}"
    yield "guest", guest
    yield "recording", recorded
    yield "migration", _migration(parameters, meta)
    if any(strategy.hints for strategy in strategies):
        yield "hints", _hints(parameters, strategies)


def _migration(parameters: Parameters, meta: Meta) -> str:
    limit = setting(parameters.downtime_limit_ns)
    if parameters.switchover_bandwidth is not None:
        limit += f" at {rate(parameters.switchover_bandwidth)}"
    said = (
        f"{rate(parameters.bandwidth)}, downtime limit {limit}, "
        f"{loop(parameters, meta)}, log mode {parameters.log_mode}"
    )
    if parameters.log_mode == "manual":
        said += f" in chunks of {pages(parameters.clear_chunk)}"
    if parameters.max_rounds is not None:
        said += f", at most {parameters.max_rounds} round{'s'[: parameters.max_rounds != 1]}"
    return said


def loop(parameters: Parameters, meta: Meta) -> str:
    """Say by which loop a trace is replayed, and of profile qemu whose that is."""
    whose = f" of {parameters.loop(meta)}" if parameters.profile == "qemu" else ""
    return f"profile {parameters.profile}{whose}"


def _hints(parameters: Parameters, strategies: Sequence[Strategy]) -> str:
    said = (
        f"snapshot {setting(parameters.request_delay_ns)} after the request, in the queue "
        f"{setting(parameters.report_delay_ns)} later, handled "
        f"{setting(parameters.handle_delay_ns)} later"
    )
    if parameters.request is not None:
        said += f", requested {parameters.request}"
    if any(s.request is not None and s.request.name not in ("once", "every-sync")
           for s in strategies):  # fmt: skip
        said += f", interval {setting(parameters.hint_interval_ns)}"
    if parameters.min_order:
        said += f", in blocks of {pages(1 << parameters.min_order)}"
    if parameters.log_mode == "manual":
        clears = "clears" if parameters.hint_clears_log else "does not clear"
        said += f", a report {clears} the log"
    holds: dict[str, list[str]] = {}
    for strategy in strategies:
        if strategy.hints:
            holds.setdefault(parameters.hold(strategy), []).append(strategy.name)
    few = sorted(holds.items(), key=lambda item: -len(item[1]))
    said += f"; guest hold {few[0][0]}"
    return said + "".join(f", {hold} for {', '.join(names)}" for hold, names in few[1:])


def _verdicts(comparison: Comparison, found: Sequence[Finding], width: int) -> Iterator[Text]:
    """Yield one paragraph for each verdict that there is: the answer at a glance."""
    for verdict in VERDICTS:
        alike: dict[str, list[Finding]] = {}
        for one in found:
            if one.verdict == verdict:
                alike.setdefault(meaning(one, exact=comparison.trace.exact), []).append(one)
        for meant, having in alike.items():
            yield from labelled(
                Text(verdict, style=STYLES[verdict]), _names(having), width, _INDENT
            )
            means = ", ".join(filter(None, (meant, premise(having, comparison))))
            for line in wrap(means, width, first=_INDENT, others=_INDENT):
                yield Text(line, style="dim")


def meaning(one: Finding, *, exact: bool) -> str:
    """Say what a verdict means; of one that is unknown, what is known of some scenarios."""
    if one.verdict == "unknown" and one.ended:
        does = "do" if len(one.endless) > 1 else "does"
        return (
            f"no page is lost in {all_of(one.ended)}; {all_of(one.endless)} {does} not switch "
            "over, so nothing is known there"
        )
    return (EXACT_MEANING if exact else MEANING)[one.verdict]


def _names(found: Sequence[Finding]) -> str:
    """Name strategies, those of equal losses or holds together."""
    groups: dict[str, list[str]] = {}
    for one in found:
        because = f"{pages(one.lost)} lost" if one.lost else ""
        if one.verdict == "safe" and one.hold != "none":
            because = f"by guest hold {one.hold}"
        groups.setdefault(because, []).append(plain(one.strategy))
    parts = []
    for because, names in groups.items():
        each = " each" if "lost" in because and len(names) > 1 else ""
        parts.append(", ".join(names) + (f" ({because}{each})" if because else ""))
    return ", ".join(parts)


def _witnesses(found: Sequence[Finding], width: int) -> Iterator[Text]:
    """Yield one paragraph for each lost page that stands for its strategies."""
    courses: dict[tuple[int, str], list[str]] = {}
    for one in found:
        if one.witness is not None:
            courses.setdefault((one.witness.page, _course(one.witness)), []).append(one.strategy)
    for (page_number, course), names in courses.items():
        loses = "loses" if len(names) == 1 else "lose"
        yield from labelled(
            Text(plain(", ".join(names)), style=STYLES["unsafe"]),
            f"{loses} page {page_number:,}: {course}",
            width,
            4,
        )


#: What a witness of a scenario other than the recorded one rests on.
_HIDDEN = {
    "expected": "with the hidden writes that are expected, ",
    "saturated": "if all hidden writes happen, ",
}


def _course(row: UnsafeRow) -> str:
    harvested = (
        "not in the dirty log"
        if row.t_harvested is None
        else f"harvested by the sync at {moment(row.t_harvested)}"
    )
    when = f"in round {row.round}" if row.round else "before round 1"
    hidden = _HIDDEN.get(row.scenario, "")
    return (
        f"{hidden}free in the snapshot at {moment(row.t_snapshot)}, written at "
        f"{moment(row.t_written)}, {harvested}, skipped at {moment(row.t_skipped)} {when}, "
        "never sent with that write"
    )


def _notes(comparison: Comparison, width: int) -> Iterator[Text]:
    notes = [_phrase(condition, comparison) for condition in conditions(comparison)]
    if len(comparison.scenarios) > 1:
        names = all_of(comparison.scenarios)
        notes.insert(0, f"{names} are scenarios of what the trace cannot say, not bounds")
    for note in notes:
        yield from labelled("-", plain(note), width, 4)


def _phrase(condition: Condition, comparison: Comparison) -> str:
    whom = [condition.scenario, _group(condition.strategies, comparison)]
    prefix = ", ".join(part for part in whom if part)
    return f"{prefix}: {condition.text}" if prefix else condition.text


def _group(names: Sequence[str], comparison: Comparison) -> str:
    """Say briefly whom it concerns."""
    everyone = [strategy.name for strategy in comparison.strategies]
    hints = [strategy.name for strategy in comparison.strategies if strategy.hints]
    for group, word in ((hints, "all with hints"), (everyone, "all")):
        others = [name for name in group if name not in names]
        if len(names) > 3 and set(names) <= set(group) and len(others) <= 3:
            return f"{word} but {', '.join(others)}" if others else word
    return ", ".join(names)
