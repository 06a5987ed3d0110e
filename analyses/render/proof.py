"""A proof or a counterexample on a terminal."""

from __future__ import annotations

from rich.text import Text

from analyses.enactment import Enactment
from analyses.proof import Proof
from analyses.render.grid import labelled
from analyses.render.invocation import replay_command
from analyses.render.story import legend, timeline
from analyses.render.tables import STYLES
from analyses.render.terminal import Page
from analyses.render.text import count, plain
from replay.result import Verdict

_INDENT = 13
_AS: dict[str, Verdict] = {"proved": "safe", "refuted": "unsafe", "undecided": "unknown"}


def show(proof: Proof, page: Page, path: str | None = None) -> None:
    """Print the answer, and the counterexample if there is one. path: of the trace written."""
    page.lines([Text(plain(proof.setting.strategy.name), style="bold underline")])
    page.lines(labelled("searched", _searched(proof), page.prose, _INDENT))
    page.lines(labelled("with", _setting(proof), page.prose, _INDENT))
    style = STYLES[_AS[proof.verdict]]
    page.lines(labelled(Text(proof.verdict, style=style), _answer(proof), page.prose, _INDENT))
    story = proof.story
    if story is None:
        return
    page.lines(["", *timeline(story, page), "", *legend([story], page)])
    page.lines(labelled("cause", f"{story.cause}.", page.prose, _INDENT))
    page.lines(labelled("replay", _replayed(proof, path), page.prose, _INDENT))
    if path is not None and proof.enactment is not None and not proof.guest_runs:
        page.lines(["", "  " + command(proof, proof.enactment, path)])


def command(proof: Proof, enactment: Enactment, path: str) -> str:
    """Return the command that replays the counterexample."""
    return replay_command(path, proof.setting.strategy, enactment.parameters)


def _searched(proof: Proof) -> str:
    guests = "a guest of 1 page" if proof.pages == 1 else f"guests of 1 to {proof.pages} pages"
    reports = proof.bounds.reports
    said = f"{guests}, up to {reports} report{'s'[: reports != 1]} outstanding"
    if proof.bounds.steps is not None:
        said += f", up to {_steps(proof.bounds.steps)}"
    return said + (": every order of steps" if proof.complete and not proof.course else "")


def _setting(proof: Proof) -> str:
    setting = proof.setting
    said = f"profile rounds, log mode {setting.log_mode}"
    if setting.log_mode == "manual":
        clears = "clears" if setting.hint_clears_log else "does not clear"
        said += f" (chunks of all sizes, a report {clears} the log)"
    if setting.strategy.request is not None:
        said += f", guest hold {setting.hold}, requested {setting.strategy.request.name}"
    if proof.guest_runs:
        said += "; the guest runs from snapshot to handling, though the strategy stops it"
    return said


def _answer(proof: Proof) -> str:
    states = f"{count(proof.states)} states"
    deep = f"{states}, {_steps(proof.depth)} deep"
    if proof.verdict == "proved":
        return f"no write is lost in any of {deep}"
    if proof.course is None:
        ends = f"{count(proof.switchovers)} end" if proof.switchovers else "none ends"
        return (
            f"nothing is proved: no write is lost within {_steps(proof.depth)} ({states}, of which "
            f"{ends} a migration)"
            + ("" if proof.complete else ", but courses go on: allow more --steps, or all")
        )
    lost = " and ".join(map(str, proof.course.lost_pages))
    return f"page {lost} is lost after {_steps(len(proof.course.labels))} ({deep})"


def _steps(number: int) -> str:
    return f"{count(number)} {'step' if number == 1 else 'steps'}"


def _replayed(proof: Proof, path: str | None) -> str:
    if proof.enactment is None:
        return (
            "none: no constant delays were found that bring these steps about in this order, only "
            "delays that vary from report to report"
        )
    lost = " and ".join(map(str, proof.enactment.lost))
    said = f"confirmed: as a trace with constant delays, replayed, it loses page {lost}"
    if path is None:
        return said
    return said + f"; {path} is that trace"
