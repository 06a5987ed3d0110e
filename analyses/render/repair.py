"""Repairs on a terminal: which policy to change, and what that costs on a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from analyses.interleavings import Setting
from analyses.price import Price
from analyses.render.grid import Column, Row, Span, grid, labelled, wrap
from analyses.render.report import meaning
from analyses.render.tables import STYLES, no_switchover
from analyses.render.terminal import Page
from analyses.render.text import all_of, change, count, duration, plain, size
from analyses.repair import Change, Repair, Repairs

_INDENT = 13
#: From this width on, what was sent is also given in bytes and the states of the proof stand by.
_WIDE = 110

_WORDS = {
    ("drain", "yes"): "drain before each sync",
    ("drain", "no"): "no drain",
    ("guest", "stopped"): "guest stopped till handled",
    ("guest", "runs"): "guest runs on",
    ("start", "wait"): "wait for the first answer",
    ("start", "eager"): "start eager",
    ("sync", "none"): "no sync with handling",
    ("sync", "before"): "sync before handling",
    ("sync", "after"): "sync after handling",
    ("log", "cleared"): "report clears the log",
}


def words(one: Change) -> str:
    """Return a change in words."""
    said = _WORDS.get((one.axis, one.after))
    if said is not None:
        return said
    return f"guest hold {one.after}" if one.axis == "hold" else f"{one.axis} {one.after}"


def title(repair: Repair) -> str:
    """Return what a repair changes."""
    return " + ".join(words(one) for one in repair.changes)


def offer(found: Repairs, page: Page) -> None:
    """Print the repairs below a refutation."""
    page.lines(labelled("repairs", _said(found), page.prose, _INDENT))
    for repair in found.found:
        line = f"{title(repair)} ({count(repair.states)} states)"
        page.lines(Text(text) for text in wrap(line, page.prose, first=_INDENT, others=_INDENT + 2))
    if found.undecided:
        line = "dirtylog repair TRACE -s NAME spends more on it, and says what each costs"
        page.lines(Text(text) for text in wrap(line, page.prose, first=_INDENT, others=_INDENT))


def show(
    trace_name: str, setting: Setting, found: Repairs | None, spent: Sequence[Price], page: Page
) -> None:
    """Print repairs with what they cost on a trace; found: None where nothing needs repair."""
    page.lines([Text(plain(trace_name), style="bold underline")])
    page.lines(labelled("strategy", _setting(setting), page.prose, _INDENT))
    if found is None:
        said = "no order of steps loses a write: there is nothing to repair"
        page.lines(labelled(Text("proved", style=STYLES["safe"]), said, page.prose, _INDENT))
    else:
        page.lines(labelled("repairs", _said(found), page.prose, _INDENT))
    page.lines(["", *_table(spent, page)])
    page.lines(Text(line, style="dim") for line in wrap(_legend(spent, page), page.prose))
    if notes := list(_notes(spent)):
        page.lines([""])
        for note in notes:
            page.lines(labelled("-", note, page.prose, 4))


def _setting(setting: Setting) -> str:
    said = f"{plain(setting.strategy.name)}, guest hold {setting.hold}, log mode {setting.log_mode}"
    if setting.log_mode == "manual":
        said += f" (log {'cleared' if setting.hint_clears_log else 'left'} by a handled report)"
    return said


def _said(found: Repairs) -> str:
    undecided = ""
    if found.undecided:
        undecided = f"; {count(found.undecided)} more take more states than allowed to decide"
    if not found.found:
        return f"none: no change of one policy, nor of two, makes it safe{undecided}"
    single = "one policy changed" if found.distance == 1 else (
        "no change of one policy is enough; two policies changed"
    )  # fmt: skip
    return f"{single}, and no order of steps loses a write{undecided}:"


def _table(spent: Sequence[Price], page: Page) -> Iterator[Text]:
    baseline, original = spent[0].result, spent[1].result
    # A baseline without a switchover says how long the trace is, and no more.
    sent, took = (baseline.pages_sent, baseline.total_ns) if baseline.completed else (None, None)
    wide = page.width >= _WIDE
    columns = [
        Column("change", right=False),
        Column("here", right=False),
        Column("lost"),
        Column("pages sent"),
        Column("vs."),
        Column("total"),
        Column("vs."),
    ]
    if wide:
        columns[5:5] = [Column("on the wire"), Column("vs. precopy")]
        columns.append(Column("vs. precopy"))
        columns.append(Column("proved in"))
    rows: list[Row] = []
    for price in spent:
        result = price.result
        first = price is spent[0]
        name = Text(_name(price, first=first), style="" if price.repair else "dim")
        verdict = price.finding.verdict
        row: list[Text | str | Span] = [name, Text(verdict, style=STYLES[verdict])]
        if not result.completed:
            said = no_switchover(result, price.at_end)
            rows.append([*row, Span(Text(said, style="italic"))])
            continue
        pages_vs, time_vs = "", ""
        if price.repair is not None and original.completed:
            pages_vs = change(result.pages_sent, original.pages_sent)
            time_vs = change(result.total_ns, original.total_ns)
        row += [count(result.lost), count(result.pages_sent), pages_vs]
        if wide:
            row += [size(result.wire_bytes), _against(result.pages_sent, sent, first)]
        row += [duration(result.total_ns), time_vs]
        if wide:
            row.append(_against(result.total_ns, took, first))
            row.append("" if price.repair is None else f"{count(price.repair.states)} states")
        rows.append(row)
    yield from grid(columns, rows)


def _against(new: int, old: int | None, first: bool) -> str:
    return "" if first else change(new, old)


def _name(price: Price, *, first: bool) -> str:
    if price.repair is not None:
        return title(price.repair)
    return "precopy" if first else "as it is"


def _notes(spent: Sequence[Price]) -> Iterator[str]:
    """Yield what a verdict rests on where no figure of its row says so, and who stands still."""
    meant: dict[str, list[str]] = {}
    still: dict[int, list[str]] = {}
    for price in spent:
        name, one = _name(price, first=price is spent[0]), price.finding
        if one.verdict == "possible" or (one.verdict == "unknown" and one.ended):
            meant.setdefault(meaning(one, exact=False), []).append(name)
        if price.result.vcpu_stopped_ns:
            still.setdefault(price.result.vcpu_stopped_ns, []).append(name)
    for text, names in meant.items():
        yield f"{'all' if len(names) == len(spent) > 2 else ', '.join(names)}: {text}"
    for stopped_ns, names in still.items():
        yield (
            f"{', '.join(names)}: the guest stands still for {duration(stopped_ns)} before the "
            "switchover begins, which no downtime counts"
        )


def _legend(spent: Sequence[Price], page: Page) -> str:
    said = "here: the verdict on this trace"
    names = spent[0].finding.scenarios
    if len(names) > 1:
        said += f", the gravest of scenarios {all_of(names)}; what follows is of {names[0]}"
    elif names != ("exact",):
        said += f" in scenario {names[0]}"
    said += ". vs.: against the strategy as it is."
    if page.width < _WIDE:
        said += " --json and 110 columns show bytes, states and the difference to precopy."
    if any(c.axis == "hold" for price in spent if price.repair for c in price.repair.changes):
        said += (
            " A guest hold is the guest's to keep; pages that the recorded guest took while held "
            "are left out, as if it had taken others."
        )
    return said + " Proofs are of the loop of profile rounds."
