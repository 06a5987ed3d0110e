"""How a strategy went through the conformance suite, on a terminal."""

from __future__ import annotations

from rich.text import Text

from analyses.conformance import Conformance, Finding
from analyses.render.grid import labelled
from analyses.render.invocation import replay_command
from analyses.render.tables import STYLES
from analyses.render.terminal import Page
from analyses.render.text import count, plain

_INDENT = 13


def show(found: Conformance, page: Page, path: str | None = None) -> None:
    """Print each property and how it went. path: of the failing guest's trace, if written."""
    strategy = found.strategy
    page.lines([Text(plain(strategy.name), style="bold underline")])
    page.lines(labelled("from", plain(strategy.origin), page.prose, _INDENT))
    page.lines(labelled("tried", _tried(found), page.prose, _INDENT))
    page.lines([""])
    for finding in found.findings:
        word, style = _outcome(finding)
        label = Text(word, style=STYLES[style])
        label.append(f"  {finding.name}", style="bold" if finding.failed else "")
        says = f"{finding.says} ({_guests(finding.tried)})"
        page.lines(labelled(label, says, page.prose, _INDENT + 8))
        if finding.reason is not None:
            page.lines(labelled("", _reason(finding), page.prose, _INDENT + 8))
    if path is not None and found.case is not None:
        parameters = found.case[1].parameters
        page.lines(["", "  " + replay_command(path, strategy, parameters)])


def _outcome(finding: Finding) -> tuple[str, str]:
    if finding.failed:
        return "FAIL", "unsafe"
    return ("pass", "safe") if finding.tried else ("open", "unknown")


def _guests(number: int, kind: str = "") -> str:
    return f"{count(number)} {kind}guest{'s' if number != 1 else ''}"


def _tried(found: Conformance) -> str:
    said = _guests(found.cases, "random ") + ", each replayed twice"
    if not any(found.losing.values()):
        return said
    modes = " and ".join(f"{count(n)} in log mode {mode}" for mode, n in found.losing.items() if n)
    return said + (
        f"; a write was lost on {modes}, which is no failure here: see `dirtylog prove` with "
        "--log-mode"
    )


def _reason(finding: Finding) -> str:
    where = ""
    if finding.case is not None:
        where = f" ({count(finding.failed)} of {count(finding.tried)} guests)"
    return f"{plain(finding.reason)}{where}"
