"""What an import of a recorded migration found, in words, in counts and as `migration.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.format import Meta
from tracer.readers.blocks import Layout
from tracer.readers.contents import Contents
from tracer.readers.freelist_log import FreelistLog
from tracer.readers.freelist_merge import FreelistMerge
from tracer.readers.guest_clock import GuestClock
from tracer.readers.iterations import iterations_of, syncs_of
from tracer.readers.migration_log import MigrationLog
from tracer.readers.qemu_events import StepReader, told_throttles
from tracer.readers.qemu_lines import EXACT, PENDING, SAVE, STOP
from tracer.readers.qemu_log import QemuLog
from tracer.readers.report import ImportReport
from tracer.readers.sender import measure_sender

#: Threads stamp a line before they wait for the log's lock; later than this is a clock set back.
_CLOCK_JUMP_US = 1_000_000
#: Fewer windows do not say how fast the sender is.
_ENOUGH_WINDOWS = 10


@dataclass(frozen=True)
class Outcome:
    """Everything that an import read and made, for the words about it."""

    log: QemuLog
    answers: MigrationLog
    freelist: FreelistLog | None
    clock: GuestClock
    layout: Layout
    reader: StepReader
    free: FreelistMerge
    told: Contents
    rows: Mapping[str, int]
    zero_at_start: int
    assumed_zero: int
    assumed_data: int
    ring_notes: list[str]


#: What a count of the outcome means, where it is not zero.
_TURNED = (
    "pages had changed between zeros and content when they were sent, without a row of their own: "
    "rewrites that the log hides"
)
_STRAY = (
    "pages were sent or had turned to zeros though no row says that they were written (devices "
    "write past the log)"
)
_CLOSE = (
    "zero pages were passed so near to a write that their order is a guess (they are spread evenly "
    "between neighbouring rows)"
)
_BEYOND = "writes lie beyond the first block: the log does not tell whose pages they are; left out"
_STOPPED = "writes come after the guest was stopped, so of another run of it; left out"
_ASSUMED_START = (
    "no free-list sample is complete before the first sync: the first one stands in for the start"
)


def notes_on(outcome: Outcome) -> tuple[str, ...]:
    """Return what stays unknown or had to be assumed, as sentences."""
    told, log, reader = outcome.told, outcome.log, outcome.reader
    counted = (
        (told.turned, _TURNED),
        (told.stray + told.silent, _STRAY),
        (told.close, _CLOSE),
        (reader.beyond, _BEYOND),
        (reader.stopped, _STOPPED),
    )
    notes = [*outcome.layout.notes, *_throttle_notes(outcome), *_zero_notes(outcome)]
    notes += _look_notes(outcome)
    notes += [f"{count} {text}" for count, text in counted if count]
    notes += outcome.ring_notes
    if log.latest_us > _CLOCK_JUMP_US:
        notes.append(
            f"the host's clock went back by {log.latest_us} us; the rows behind are placed at the "
            "last time before"
        )
    if outcome.free.assumed_start:
        notes.append(_ASSUMED_START)
    return tuple(notes)


def _throttle_notes(outcome: Outcome) -> list[str]:
    if not outcome.clock.throttles or told_throttles(outcome.log):
        return []
    notes = []
    if not outcome.answers.parameters:
        notes.append(
            "the guest was throttled and no parameters were recorded: QEMU's default percentages "
            "were assumed"
        )
    if outcome.answers.parameters.get("cpu-throttle-tailslow") and not outcome.answers.throttles:
        notes.append(
            "cpu-throttle-tailslow was on: its smaller steps are in no log, and no answer of "
            "query-migrate says the percentage, so guest time may run faster than assumed"
        )
    return notes


def _zero_notes(outcome: Outcome) -> list[str]:
    ram = outcome.answers.ram
    if not outcome.log.counts[SAVE]:
        sent = ram.get("normal")
        more = f", though QEMU sent {sent} pages with content (with multifd it logs none)"
        return [
            f"the log has no ram_save_page rows: no page is known to be zero{more if sent else ''}"
        ]
    notes = []
    if outcome.answers.parameters.get("zero-page-detection") == "none":
        notes.append(
            "zero-page-detection was none: pages of zeros went out as all others did, so that no "
            "page is known to be zero"
        )
    zero, data = outcome.assumed_zero, outcome.assumed_data
    if zero or data:
        rule = f"without a free list all {data} are taken as having content"
        if outcome.free.at_start is not None:
            rule = (
                f"{zero} on the free list are taken as zero, like the nearest free page of known "
                f"content, {data} as having content"
            )
        notes.append(
            f"what {zero + data} pages held at the start is unknown, as they were written before "
            f"they were passed over or never passed: {rule}"
        )
    if outcome.answers.hinting:
        notes.append(
            "hinting was on: a page skipped because of a hint and a zero page look the same in the "
            "log; both are taken as zero"
        )
    return notes


def _look_notes(outcome: Outcome) -> list[str]:
    counts = outcome.log.counts
    notes = []
    if not counts[PENDING] + counts[EXACT]:
        notes.append(
            "the log has no looks at what is pending (migrate_pending up to QEMU 7.2, "
            "migrate_pending_estimate and migrate_pending_exact up to 10, "
            "qemu_savevm_query_pending from 11 on): when the sender ran, and how fast, is not "
            "known"
        )
    if outcome.answers.completed and not counts[STOP]:
        notes.append(
            "the log has no migration_completion_vm_stop: when the guest was stopped is not known, "
            "and guest time goes on"
        )
    return notes


def course_of(outcome: Outcome) -> dict[str, Any]:
    """Return the trace's `migration.json`: the final answer, the settings, and `recorded`.

    `recorded` holds what a comparison with a replay needs, in host ns since the first sync: the
    syncs and the sender's iterations (`tracer.readers.iterations`), the throttle's steps, the
    stop, at most 200 polls, and how fast the sender was.
    """
    answers, clock = outcome.answers, outcome.clock
    final = {key: value for key, value in answers.final.items() if key != "t"}
    if "ram" not in final and answers.ram:
        final["ram"] = dict(answers.ram)
    recorded: dict[str, Any] = {
        "zero_host_us": clock.zero_us,
        "syncs": syncs_of(outcome.log, clock.zero_us),
        "throttles": [
            {"t_host_ns": (t - clock.zero_us) * 1000, "percent": p} for t, p in clock.throttles
        ],
        "polls": answers.thinned(clock.zero_us),
        "iterations": iterations_of(outcome.log, clock.zero_us),
    }
    sender = measure_sender(outcome.log, hinting=answers.hinting)
    if sender.windows >= _ENOUGH_WINDOWS:
        speeds = ("line_rate", "zero_page_ns", "wake_ns")
        known = {name: getattr(sender, name) for name in speeds}
        recorded["sender"] = {name: value for name, value in known.items() if value is not None}
    if clock.stop_us is not None:
        recorded["stop_host_ns"] = (clock.stop_us - clock.zero_us) * 1000
    return {
        **final,
        "parameters": dict(answers.parameters),
        "capabilities": dict(answers.capabilities),
        "recorded": recorded,
    }


def report_on(outcome: Outcome, out: Path, meta: Meta, notes: tuple[str, ...]) -> ImportReport:
    """Return the counts of an import whose trace is at `out`."""
    log, freelist, ram = outcome.log, outcome.freelist, outcome.answers.ram
    cut = [f"{log.path}: {log.cut}"] if log.cut else []
    if freelist is not None and freelist.cut:
        cut.append(f"{freelist.path}: {freelist.cut}")
    moved, refreed, overruled = outcome.free.counts
    return ImportReport(
        out=out,
        pages=meta.pages,
        duration_ns=meta.duration_ns,
        resolution=meta.resolution,
        rows=outcome.rows,
        lines=log.lines,
        bytes_read=log.bytes_read,
        unknown_events=dict(log.unknown.most_common()),
        other_text_lines=log.other_text,
        late_lines=log.late_lines,
        latest_us=log.latest_us,
        cut=tuple(cut),
        notes=notes,
        straddling_writes=outcome.reader.straddling,
        writes_left_out=outcome.reader.beyond + outcome.reader.stopped,
        throttle_percents=tuple(percent for _, percent in outcome.clock.throttles),
        samples=len(freelist.samples) if freelist is not None else 0,
        samples_used=outcome.free.used,
        alignment_offset_us=freelist.offset_us if freelist is not None else None,
        alignment_spread_us=freelist.spread_us if freelist is not None else None,
        takes_moved=moved,
        refreed=refreed,
        overruled=overruled,
        zero_at_start=outcome.zero_at_start if log.counts[SAVE] else 0,
        assumed_zero=outcome.assumed_zero,
        assumed_data=outcome.assumed_data,
        copies=int(log.counts[SAVE]),
        copies_reported=ram.get("normal"),
        zero_copies=outcome.told.zero_copies if log.counts[SAVE] else None,
        zero_copies_reported=ram.get("duplicate"),
        hidden_rewrites=outcome.told.turned,
    )
