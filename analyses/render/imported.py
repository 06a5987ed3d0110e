"""What an import read and what it leaves open, as lines for stderr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.text import Text

from analyses.render.grid import labelled
from analyses.render.terminal import Page
from analyses.render.text import count, duration, pages, plain, size
from tracer.readers.report import ImportReport, ReadReport

_INDENT = 16


def show(report: ImportReport, page: Page) -> None:
    """Print what an import made of a recording, and what stays unknown."""
    page.lines([Text(plain(report.out), style="bold underline")])
    for label, body in _facts(report):
        page.lines(labelled(label, plain(body), page.prose, _INDENT))
    _open_ends(report, page)


def show_read(report: ReadReport, page: Page) -> None:
    """Print what an import of events, bitmaps or images read and made, and what stays unknown."""
    page.lines([Text(plain(report.out), style="bold underline")])
    read = [f"{number:,} {name}" for name, number in report.read.items()]
    rows = ", ".join(f"{number:,} {name} rows" for name, number in report.rows.items() if number)
    memory = f"{pages(report.pages)} ({size(report.pages * report.page_size)})"
    facts = [
        ("read", ", ".join([*read, size(report.bytes_read)])),
        ("made", rows or "no rows"),
        ("memory", f"{memory}, {duration(report.duration_ns)}, resolution {report.resolution}"),
    ]
    passed = ", ".join(f"{name} ({number:,})" for name, number in report.passed_over.items())
    if passed:
        facts.append(("passed over", passed))
    for label, body in facts:
        page.lines(labelled(label, plain(body), page.prose, _INDENT))
    _open_ends(report, page)


def _open_ends(report: ImportReport | ReadReport, page: Page) -> None:
    open_ends = [*(f"cut short: {what}" for what in report.cut), *report.notes]
    if open_ends:
        page.lines(["", Text("What stays unknown or was assumed", style="bold")])
        for note in open_ends:
            page.lines(labelled("-", plain(note), page.prose, 4))


def _facts(report: ImportReport) -> Iterator[tuple[str, str]]:
    yield "read", f"{report.lines:,} lines, {size(report.bytes_read)}"
    rows = ", ".join(f"{number:,} {name} rows" for name, number in report.rows.items() if number)
    yield "made", rows or "no rows"
    yield (
        "guest",
        (
            f"{pages(report.pages)}, {duration(report.duration_ns)} of guest time, resolution "
            f"{report.resolution}"
        ),
    )
    if report.samples:
        yield "free list", _free_list(report)
    yield "zero pages", f"{pages(report.zero_at_start)} at the start"
    yield "copies", _told(report.copies, report.copies_reported)
    yield "zero copies", _told(report.zero_copies, report.zero_copies_reported)
    if report.throttle_percents:
        steps = ", ".join(f"{percent} %" for percent in report.throttle_percents)
        yield "throttled", f"by {steps}"
    if report.late_lines:
        late = duration(report.latest_us * 1000)
        yield "out of order", f"{report.late_lines:,} lines, by {late} at most"
    if report.writes_left_out:
        yield "left out", f"{report.writes_left_out:,} writes"
    unknown = [f"{name} ({number:,})" for name, number in report.unknown_events.items()]
    if report.other_text_lines:
        unknown.append(f"{count(report.other_text_lines)} lines that are no trace events")
    if unknown:
        yield "passed over", ", ".join(unknown)


def _free_list(report: ImportReport) -> str:
    said = (
        f"{report.samples_used:,} of {report.samples:,} samples used, {report.takes_moved:,} takes "
        f"moved to the write that proves them"
    )
    if report.alignment_spread_us is not None:
        said += f", delays spread over {duration(report.alignment_spread_us * 1000)}"
    return said


def _told(found: int | None, reported: int | None) -> str:
    known = "not known" if found is None else pages(found)
    if reported is None:
        return known
    return f"{known}, QEMU counted {reported:,}"


def programs(known: Mapping[str, str], page: Page) -> None:
    """Print the names of the recording programs and what each records."""
    for name, text in known.items():
        page.lines(labelled(name, plain(text), page.prose, 16))
