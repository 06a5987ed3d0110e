"""An explanation on a terminal: what became of the pages, and a story for each way it came."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from analyses.explain import RUNS, Explanation, Group
from analyses.render.grid import labelled
from analyses.render.report import settings
from analyses.render.story import legend, timeline
from analyses.render.tables import STYLES
from analyses.render.terminal import Page
from analyses.render.text import count, pages, plain
from analyses.story import CAUSES

_INDENT = 13
_RECORDED = (
    "judged by the recorded writes alone; `dirtylog replay` also tries those that the recording "
    "hides"
)
#: Of one page, of several.
_TITLES = {
    "lost": ("is lost", "are lost"),
    "near-miss": ("was lost for a while", "were lost for a while"),
    "possible": ("could have been lost", "could have been lost"),
    "not-lost": ("was not lost", "were not lost"),
}


def show(explanation: Explanation, page: Page) -> None:
    """Print it."""
    page.lines([Text(plain(explanation.trace.name), style="bold underline")])
    for label, body in settings(explanation.trace, explanation.parameters, explanation.strategy):
        page.lines(labelled(label, body, page.prose, _INDENT))
    verdict = Text(explanation.verdict, style=STYLES[explanation.verdict])
    said = f"{explanation.strategy.name}: {explanation.answer}"
    if explanation.premise:
        said += f", {explanation.premise}"
    page.lines(labelled(verdict, plain(said), page.prose, _INDENT))
    if explanation.trace.meta.resolution != "write":
        page.lines(labelled("recorded", _RECORDED, page.prose, _INDENT))
    for group in explanation.groups:
        page.lines(["", *_heading(group, page), "", *timeline(group.story, page), ""])
        page.lines(
            labelled(
                "cause" if group.kind else "fate", f"{group.story.cause}.", page.prose, _INDENT
            )
        )
    if explanation.groups:
        stories = [group.story for group in explanation.groups]
        page.lines(["", *legend(stories, page)])


def _heading(group: Group, page: Page) -> Iterator[Text]:
    one, more = _TITLES[group.fate]
    title = f"page {group.page} {one}" if group.pages == 1 else f"{pages(group.pages)} {more}"
    yield Text(title, style="bold")
    if group.fate == "possible":
        said = (
            "not as recorded but as the recording allows, at the syncs and handlings of the replay"
        )
        yield from labelled("note", said, page.prose, _INDENT)
    if group.kind is not None:
        yield from labelled("how", CAUSES[group.kind], page.prose, _INDENT)
    if group.pages > 1:
        yield from labelled("pages", _runs(group), page.prose, _INDENT)
        yield from labelled("told", f"page {group.page}, the first", page.prose, _INDENT)


def _runs(group: Group) -> str:
    named = [
        str(first) if length == 1 else f"{first} to {first + length - 1}"
        for first, length in group.runs
    ]
    left = group.pages - sum(length for _, length in group.runs)
    if left and len(group.runs) == RUNS:
        named.append(f"and {count(left)} more")
    return ", ".join(named)
