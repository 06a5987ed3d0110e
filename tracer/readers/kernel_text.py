"""The text of Linux's tracers: ftrace's trace file, trace-cmd report, perf script, bpftrace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tracer.errors import TraceError
from tracer.readers.kernel_lines import (
    ELSE,
    GARBLED,
    KINDS,
    NOTHING,
    PUSH,
    TEXT,
    parse_lines,
)
from tracer.readers.kernel_tasks import Tasks
from tracer.readers.spool import Records, Spool
from tracer.readers.streams import Progress, read_lines
from tracer.rows import Int64s

#: What tracers say of events that they dropped.
_LOST = re.compile(r"\[(?:LOST )?(\d+) EVENTS(?: DROPPED)?\]|^Lost (\d+) events$", re.IGNORECASE)
_WRITTEN = re.compile(r"# *entries-in-buffer/entries-written: (\d+)/(\d+)")
_KNOWN = (b"kvm_dirty_ring_", b"mm_page_alloc:", b"mm_page_free:", b"mark_page_dirty_in_slot:")
#: So many lines without one event are no trace.
_PATIENCE = 100_000

#: Looks at a line that is no event; says whether it is somebody's.
Aside = Callable[[int, str], bool]


@dataclass
class KernelText:
    """What a tracer's text holds, apart from its events, which are in a `Spool`.

    counts: events by kind (`kernel_lines`); digits: of the finest time's fraction, 6 or 9; lost:
    events that the tracer dropped; left_out: events of others' tasks, which are not in counts;
    unknown: other events by name; text: lines that are none.
    """

    path: Path
    lines: int = 0
    bytes_read: int = 0
    digits: int = 0
    lost: int = 0
    other_text: int = 0
    left_out: int = 0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(KINDS, np.int64))
    unknown: Counter[str] = field(default_factory=Counter)
    cuts: list[str] = field(default_factory=list)

    @property
    def events(self) -> int:
        """All events, of whatever kind."""
        return int(self.counts[ELSE:].sum()) + self.left_out


def read_kernel_text(
    path: Path,
    spool: Spool,
    progress: Progress | None = None,
    *,
    wanted: tuple[int, ...],
    look: Callable[[Records], None] | None = None,
    aside: Aside | None = None,
    tasks: Tasks | None = None,
) -> KernelText:
    """Read the events of `wanted` kinds into `spool`; plain, gzip or zstd, `-` is standard input.

    `look` sees each chunk's events as they come; `aside(line, text)` takes lines that are no
    events; `tasks` says whose events are read. Other events are counted, and so is what tracers say
    between them. Raises TraceError with file and line for an event of ours that cannot be read, and
    where none is in the file.
    """
    text = KernelText(path)
    for chunk in read_lines(path, text.cuts, progress):
        records, who, digits = parse_lines(chunk, text.lines + 1)
        text.digits = max(text.digits, digits)
        kind = records["kind"]
        for index in np.flatnonzero((kind < PUSH) & (kind != ELSE)).tolist():
            _look_at(text, chunk, records[index], aside)
        _count_others(text, chunk, records[kind == ELSE])
        text.lines += len(records)
        text.bytes_read += len(chunk)
        text.counts += np.bincount(kind, minlength=KINDS)
        chosen = np.flatnonzero(np.isin(kind, wanted))
        if tasks is not None and len(chosen):
            tasked = tasks.choose(records[chosen], who[:, chosen], _lines(chunk, chosen))
            text.left_out += int(np.count_nonzero(~tasked))
            text.counts -= np.bincount(kind[chosen[~tasked]], minlength=KINDS)
            chosen = chosen[tasked]
        events = records[chosen]
        if look is not None:
            look(events)
        spool.add(events)
        if text.other_text > _PATIENCE and not text.events:
            raise _foreign(path)
    spool.finish()
    if not text.bytes_read and not text.cuts:
        raise TraceError(f"{path}: is empty; did the tracer run?")
    if not text.events:
        raise _foreign(path)
    return text


def _lines(chunk: bytes, chosen: Int64s) -> Callable[[int], str]:
    """Return what gives the text of the chosen lines of a chunk."""
    return lambda at: chunk.split(b"\n", int(chosen[at]) + 1)[int(chosen[at])].decode(
        errors="replace"
    )


def _count_others(text: KernelText, chunk: bytes, others: Records) -> None:
    _, first, counts = np.unique(others["t"], return_index=True, return_counts=True)
    for record, count in zip(others[first], counts.tolist(), strict=True):
        start, length = int(record["a"]), int(record["b"])
        text.unknown[chunk[start : start + length].decode("utf-8", "replace")] += count


def _look_at(text: KernelText, chunk: bytes, record: Records, aside: Aside | None) -> None:
    _, start, line, length, kind = record.item()
    raw = chunk[start : start + length]
    shown = raw.decode("utf-8", "replace")
    if kind == GARBLED or (kind == TEXT and any(name in raw for name in _KNOWN)):
        why = "without a time in seconds" if kind == TEXT else "whose fields cannot be read"
        raise TraceError(
            f"{text.path}, line {line}: an event {why}: {shown[:80]!a}; record with a clock "
            "in seconds (trace_clock local, global, mono or boot) and the event's usual format"
        )
    if kind == NOTHING:
        if found := _WRITTEN.match(shown):
            text.lost += max(int(found[2]) - int(found[1]), 0)
        return
    if found := _LOST.search(shown):
        text.lost += int(found[1] or found[2])
    elif aside is not None and aside(line, shown):
        return
    elif any(byte < 9 or 13 < byte < 27 for byte in raw):
        raise _foreign(text.path, line)
    else:
        text.other_text += 1


def _foreign(path: Path, line: int = 1) -> TraceError:
    return TraceError(
        f"{path}, line {line}: no text of ftrace, trace-cmd report, perf script or bpftrace; "
        "wanted lines such as 'TASK-PID [CPU] SECONDS.MICROS: EVENT: FIELDS' (for perf.data or "
        "trace.dat: perf script, trace-cmd report)"
    )
