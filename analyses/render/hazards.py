"""Hazard windows on a terminal: the answer, a picture of the range, a table of the windows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.text import Text

from analyses.hazards import Danger, Hazards, Interval, State
from analyses.render.grid import Column, Row, grid, labelled, wrap
from analyses.render.report import loop
from analyses.render.tables import STYLES
from analyses.render.terminal import Page
from analyses.render.text import count, duration, moment, pages, percent, plain, rate, setting

_INDENT = 13
_ROWS = 4
_MOST_WINDOWS = 12
#: Eighths of a column's height.
_STEPS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
#: A value that was checked among others that were not: block character, ASCII character.
_DOT = "\u2022", "+"

#: What a column of the picture shows: the gravest of what is known of its values, or how it stands
#: with one of which not every value is known.
_Sign = Literal[State, "lost-in-part", "no-switchover-in-part"]

#: The sign where not all is known; what is healed or safe is harmless, and unknown outweighs it.
_IN_PART: dict[_Sign, _Sign] = {
    "lost": "lost-in-part",
    "no-switchover": "no-switchover-in-part",
}

#: How it is drawn: block character, ASCII character, colour, and its meaning.
_LOOK: dict[_Sign, tuple[str, str, str, str]] = {
    "lost": ("\u2588", "#", "red", "pages lost"),
    "lost-in-part": ("\u2592", "+", "red", "pages lost where checked, the rest unknown"),
    "healed": ("\u2591", "h", "yellow", "lost for a while, healed before the switchover"),
    "no-switchover": ("\u00d7", "x", "magenta", "no switchover"),
    "no-switchover-in-part": ("/", "/", "magenta", "no switchover where checked, the rest unknown"),
    "unknown": ("?", "?", "dim", "unknown, but for values checked that lose none"),
    "safe": ("\u00b7", ".", "green", "safe"),
}
#: Of values that are all known the first that there is.
_GRAVEST: tuple[State, ...] = ("lost", "no-switchover", "healed", "unknown", "safe")


_RECORDED = (
    "the trace does not know every write or moment; what it hides is taken not to happen, so more "
    "values may be unsafe than these"
)


def show(found: Hazards, page: Page) -> None:
    """Print the answer."""
    page.lines([Text(plain(found.trace.name), style="bold underline")])
    for label, said in _facts(found):
        page.lines(labelled(label, said, page.prose, _INDENT))
    page.lines([""])
    word, said = _answer(found)
    style = STYLES["unsafe" if found.unsafe else "safe" if found.complete else "possible"]
    page.lines(labelled(Text(word, style=style), said, page.prose, _INDENT))
    for label, said in _provisos(found):
        page.lines(labelled(label, said, page.prose, _INDENT))
    if found.hi > found.lo and any(one.state != "safe" for one in found.intervals):
        page.lines(["", *_picture(found, page)])
    if found.dangers:
        page.lines(["", *_table(found)])


def value(found: Hazards, number: int) -> str:
    """Return a value of what is varied, short but not rounded to another one's."""
    return _bits(number, 3) if found.varied == "bandwidth" else _delay(number)


def _delay(ns: int) -> str:
    short = setting(ns)
    if short == "0 s" or ns < 1_000 or ns % 1_000_000 == 0:
        return short
    return moment(ns)


def _bits(bytes_per_second: int, digits: int) -> str:
    """A bandwidth in bits, so that values of one range have one unit."""
    bits = bytes_per_second * 8
    for unit, length in (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)):
        if bits >= length:
            return f"{bits / length:.{digits}f} {unit}"
    return f"{bits} bit/s"


def _facts(found: Hazards) -> Iterator[tuple[str, str]]:
    parameters = found.parameters
    request = found.strategy.request
    asked = "" if request is None else f", asked {request.name}"
    name, hold = plain(found.strategy.name), parameters.hold(found.strategy)
    told = f"{loop(parameters, found.trace.meta)}, log mode {parameters.log_mode}"
    yield "strategy", f"{name}{asked}, guest hold {hold}, {told}"
    what = found.varied.replace("-", " ")
    yield "varied", f"{what} from {value(found, found.lo)} up to {value(found, found.hi)}"
    delays = {
        "request-delay": f"request delay {setting(parameters.request_delay_ns)}",
        "report-delay": f"report delay {setting(parameters.report_delay_ns)}",
        "handle-delay": f"handle delay {setting(parameters.handle_delay_ns)}",
        "bandwidth": rate(parameters.bandwidth),
    }
    yield "fixed", ", ".join(text for name, text in delays.items() if name != found.varied)


def _answer(found: Hazards) -> tuple[str, str]:
    what = found.varied.replace("-", " ")
    if found.unsafe:
        assert found.smallest is not None
        windows = len(found.dangers)
        where = "1 window" if windows == 1 else f"{count(windows)} windows"
        where = where if found.complete else f"at least {where}"
        least = "the smallest" if found.smallest_open is None else "the smallest known"
        first = f"{value(found, found.smallest)} ({_exact(found, found.smallest)})"
        said = f"in {where}; {least} unsafe {what} is {first}"
        return "unsafe", f"{said}; {pages(found.worst)} lost at worst"
    endless = any(one.state == "no-switchover" for one in found.intervals)
    but = ", or there is no switchover" if endless else ""
    if not found.complete:
        return "none found", f"no {what} that was checked loses a page{but}"
    if endless:
        return "none lost", f"no {what} in the range loses a page{but}"
    return "safe", f"no {what} in the range loses a page on this trace"


def _exact(found: Hazards, number: int) -> str:
    return f"{number:,} {'B/s' if found.varied == 'bandwidth' else 'ns'}"


def _provisos(found: Hazards) -> Iterator[tuple[str, str]]:
    unit = "B/s" if found.varied == "bandwidth" else "ns"
    replays = "1 replay" if found.replays == 1 else f"{count(found.replays)} replays"
    how = f"every {unit} of the range is settled ({replays})"
    if not found.complete:
        share = percent(found.settled, found.hi - found.lo + 1)
        how = f"in part: {replays} settle {share} of the range, and the rest is unknown"
        if found.by_handling:
            how = (
                "the delays at which a handling can lose a page at all, exactly; what becomes of "
                f"those pages in part: {replays} were made, and between them it is unknown"
            )
        how += "; --budget allows for more"
    yield "known", how
    if found.smallest_open is not None and found.unsafe:
        yield "", f"not known from {value(found, found.smallest_open)} on, below the smallest known"
    if found.scenario == "recorded":
        yield "recorded", _RECORDED


# -- the picture ----------------------------------------------------------------------------------


def _picture(found: Hazards, page: Page) -> Iterator[Text]:
    """Yield the pages lost as a curve over the values, a strip of states, the axis, a legend."""
    lo, hi = _interest(found)
    margin = max(len(count(found.worst)), 1)
    width = min(max(page.width - margin - 1, 20), 150, hi - lo + 1)
    columns = _columns(found.intervals, lo, hi, width)
    if found.worst > 1:
        yield from _curve(columns, found.worst, margin, page)
    strip = Text(" " * (margin + 1))
    for column in columns:
        look = _LOOK[column.sign]
        strip.append(look[0 if page.blocks else 1], style=look[2])
    yield strip
    yield Text(" " * (margin + 1) + _axis(found, lo, hi, width), style="dim")
    yield from _legend({column.sign for column in columns}, page)
    if hi < found.hi:
        yield Text(f"From {value(found, hi)} on nothing is lost in the range.", style="dim")


def _interest(found: Hazards) -> tuple[int, int]:
    """Return the part of the range that is drawn: up to a little past the last that is not safe."""
    last = max((one.hi for one in found.intervals if one.state != "safe"), default=found.hi)
    return found.lo, min(found.hi, last + (last - found.lo) // 8 + 1)


@dataclass(frozen=True)
class _Drawn:
    """A column of the picture: its sign, and the most pages lost at a value known."""

    sign: _Sign
    lost: int


def _columns(intervals: Sequence[Interval], lo: int, hi: int, width: int) -> list[_Drawn]:
    """Return the columns; one shows as whole only what is known of all its values."""
    lows, highs = [one.lo for one in intervals], [one.hi for one in intervals]
    columns: list[_Drawn] = []
    for i in range(width):
        first = lo + (hi - lo + 1) * i // width
        last = lo + (hi - lo + 1) * (i + 1) // width - 1
        inside = intervals[bisect_left(highs, first) : bisect_right(lows, last)]
        states = {one.state for one in inside}
        sign: _Sign = next(state for state in _GRAVEST if state in states)
        if "unknown" in states:
            sign = _IN_PART.get(sign, "unknown")
        columns.append(_Drawn(sign, max(one.lost or 0 for one in inside)))
    return columns


def _curve(columns: Sequence[_Drawn], worst: int, margin: int, page: Page) -> Iterator[Text]:
    """Yield the lines of the curve: bars where all is known, else a dot at the most known."""
    for row in reversed(range(_ROWS)):
        label = count(worst) if row == _ROWS - 1 else ""
        line = Text(label.rjust(margin) + " ", style="dim")
        for column in columns:
            eighths = -(-column.lost * 8 * _ROWS // worst) - 8 * row
            step = min(max(eighths, 0), 8)
            sign = _STEPS[step] if page.blocks else "#" if step else " "
            if column.sign == "lost-in-part":
                sign = _DOT[not page.blocks] if 0 < eighths <= 8 else " "
            line.append(sign, style=_LOOK["lost"][2])
        yield line


def _axis(found: Hazards, lo: int, hi: int, width: int) -> str:
    """Return the values at the ends and at the quarters between, as many as there is room for."""
    line = [" "] * width
    for part in (0, 4, 2, 1, 3):
        at = lo + (hi - lo) * part // 4
        text = _bits(at, 2) if found.varied == "bandwidth" else duration(at)
        middle = (width - 1) * part // 4
        start = min(max(middle - len(text) // 2, 0), max(width - len(text), 0))
        around = line[max(start - 2, 0) : start + len(text) + 2]
        if all(sign == " " for sign in around) and start + len(text) <= width:
            line[start : start + len(text)] = text
    return "".join(line)


def _legend(signs: set[_Sign], page: Page) -> Iterator[Text]:
    line = Text()
    for sign, look in _LOOK.items():
        if sign not in signs:
            continue
        entry = Text(look[0 if page.blocks else 1], style=look[2]).append(
            f" {look[3]}", style="default"
        )
        if line and line.cell_len + 3 + entry.cell_len > page.width:
            yield line
            line = Text()
        line = Text("   ").join([line, entry]) if line else entry
    yield line


def _known(danger: Danger) -> str:
    """Say how much of a window is known to lose pages."""
    return "everywhere" if danger.whole else f"{percent(danger.settled, danger.values)} of it"


def _table(found: Hazards) -> Iterator[Text]:
    unit = "B/s" if found.varied == "bandwidth" else "ns"
    columns = (
        Column(f"from ({unit})"),
        Column(f"to ({unit})"),
        Column("pages lost"),
        Column("known", right=False),
    )
    rows: list[Row] = [
        [
            count(danger.lo),
            count(danger.hi),
            Text(count(danger.lost), style=STYLES["unsafe"]),
            _known(danger),
        ]
        for danger in found.dangers[:_MOST_WINDOWS]
    ]
    yield from grid(columns, rows)
    more = len(found.dangers) - _MOST_WINDOWS
    if more > 0:
        for line in wrap(f"and {count(more)} more; --json has all", 80):
            yield Text(line, style="dim")
