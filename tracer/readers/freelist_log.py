"""Samples of a Linux guest's free list: what a walk over /proc/kpageflags printed, as runs.

Each line may begin with the host's time. A sample is `FREELIST begin mono=… end=… real=… pfns=…`
(seconds of the guest's monotonic clock), then runs `start+count` in hex page frames that carry
KPF_BUDDY, then `FREELIST done`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracer.errors import TraceError
from tracer.readers.streams import Progress, read_blocks
from tracer.rows import Int64s

_FOUR_GIB = 4 << 30
_STAMP = re.compile(r"(?:(\d+)\.(\d{6}) )?(.*)")
_BEGIN = re.compile(r"FREELIST begin mono=(\d+\.\d+) end=(\d+\.\d+) real=\S+ pfns=(\d+)")
_RUN = re.compile(r"([0-9a-f]{1,13})\+([0-9a-f]{1,13})")


@dataclass(frozen=True)
class Sample:
    """One walk: begin and end in us of the guest's clock, the free runs as page frames (int64).

    `done_us` is the host time in us at which the sample was complete, None if it is not recorded;
    `line` is where it begins.
    """

    begin_us: int
    end_us: int
    done_us: int | None
    pfns: int
    start: Int64s
    count: Int64s
    line: int


@dataclass(frozen=True)
class FreelistLog:
    """A free-list log: samples in order of time, and how the guest's clock stands to the host's.

    `host = guest + offset_us`, by the sample that reached the host soonest after its walk's end
    (the guest's wall clock is up to a second off); `spread_us` is how much later the slowest came.
    `cut`: in what way the log ends too early, None where it is whole.
    """

    path: Path
    samples: Sequence[Sample]
    offset_us: int
    spread_us: int
    cut: str | None


def read_freelist(path: Path, progress: Progress | None = None) -> FreelistLog:
    """Read a free-list log, plain, gzip or zstd; an incomplete last sample is left out.

    Raises TraceError with file and line for a line that is none of a sample's, for runs that
    overlap or go back, for samples that go back in time or lack the host's time altogether.
    """
    parser = SampleParser(path)
    number = 0
    cuts: list[str] = []
    for number, raw in enumerate(_lines(path, cuts, progress), 1):
        if not parser.take(number, raw):
            raise TraceError(
                f"{path}, line {number}: {raw[:60]!a} belongs to no free-list sample; wanted "
                "'FREELIST begin mono=... end=... real=... pfns=...', 'start+count' or "
                "'FREELIST done'"
            )
    samples = parser.samples
    if not samples:
        raise TraceError(f"{path}: holds no complete free-list sample ({number} lines)")
    delays = [sample.done_us - sample.end_us for sample in samples if sample.done_us is not None]
    if not delays:
        raise TraceError(
            f"{path}: no line begins with the host's time, so the samples cannot be put in time; "
            "record the guest's output with 'SECONDS.MICROS ' before each line"
        )
    if parser.open:
        cuts.append("the last sample is cut short and was left out")
    cut = cuts[0] if cuts else None
    return FreelistLog(path, samples, min(delays), max(delays) - min(delays), cut)


class SampleParser:
    """Takes the lines of samples one by one; whole samples are in `samples`, in order of time."""

    def __init__(self, path: Path):
        self._path = path
        self.samples: list[Sample] = []
        self._begin: tuple[int, int, int, int] | None = None
        self._runs: list[tuple[int, int]] = []

    @property
    def open(self) -> bool:
        """Whether a sample has begun that is not complete."""
        return self._begin is not None

    def take(self, number: int, raw: str) -> bool:
        """Take line `number`; return whether it is a sample's, or empty.

        Raises TraceError with file and line for runs that overlap or go back, and for samples that
        go back in time.
        """
        stamp = _STAMP.fullmatch(raw.rstrip("\r"))
        text = stamp[3] if stamp else raw
        run = _RUN.fullmatch(text)
        if run and self._begin:
            self._runs.append((int(run[1], 16), int(run[2], 16)))
        elif text == "FREELIST done" and self._begin and stamp:
            done = int(stamp[1] + stamp[2]) if stamp[1] else None
            sample = _sample(self._path, self._begin, done, self._runs, self.samples)
            self.samples.append(sample)
            self._begin, self._runs = None, []
        elif found := _BEGIN.fullmatch(text):
            self._begin = (_us(found[1]), _us(found[2]), int(found[3]), number)
            self._runs = []
        else:
            return not text
        return True


def read_samples(path: Path) -> list[Sample]:
    """Read free-list samples that carry the guest's time alone.

    Raises TraceError as `read_freelist` does, but for a lack of the host's time.
    """
    parser = SampleParser(path)
    cuts: list[str] = []
    for number, raw in enumerate(_lines(path, cuts, None), 1):
        if not parser.take(number, raw):
            raise TraceError(f"{path}, line {number}: {raw[:60]!a} belongs to no free-list sample")
    if not parser.samples:
        raise TraceError(f"{path}: holds no complete free-list sample")
    return parser.samples


def to_pages(
    sample: Sample, ram_pages: int, below_4g: int, page_size: int
) -> tuple[Int64s, Int64s]:
    """Return the free runs of a sample as pages of the first RAM block: starts and counts, int64.

    below_4g: bytes of RAM under the hole that a PC leaves below 4 GiB; frames in the hole are no
    RAM. Raises ValueError with a run that lies outside the guest's RAM.
    """
    low, high = below_4g // page_size, _FOUR_GIB // page_size
    start = np.where(sample.start >= high, sample.start - (high - low), sample.start)
    end = start + sample.count
    inside = (start >= 0) & (end <= ram_pages)
    holes = (sample.start < high) & (sample.start + sample.count > low) & (ram_pages > low)
    bad = np.flatnonzero(~inside | holes)
    if len(bad):
        raise ValueError(f"{int(sample.start[bad[0]]):x}+{int(sample.count[bad[0]]):x}")
    return start, sample.count


def pc_below_4g(ram_bytes: int, machine: str = "pc") -> int:
    """Return how much RAM a PC has below 4 GiB (QEMU's pc_init1 and pc_q35_init, defaults)."""
    if "q35" in machine:
        return min(ram_bytes, (2 << 30) if ram_bytes >= 0xB0000000 else 0xB0000000)
    return min(ram_bytes, (3 << 30) if ram_bytes >= 0xE0000000 else 0xE0000000)


def _sample(
    path: Path,
    begin: tuple[int, int, int, int],
    done_us: int | None,
    runs: list[tuple[int, int]],
    before: Sequence[Sample],
) -> Sample:
    begin_us, end_us, pfns, line = begin
    table = np.array(runs, np.int64).reshape(-1, 2)
    start, count = np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])
    if len(runs) and (np.any(start[1:] < (start + count)[:-1]) or np.any(count < 1)):
        raise TraceError(f"{path}, line {line}: the sample's runs overlap, go back or are empty")
    if begin_us > end_us or (before and begin_us < before[-1].end_us):
        raise TraceError(
            f"{path}, line {line}: the sample goes back in time; is this more than one boot?"
        )
    return Sample(begin_us, end_us, done_us, pfns, start, count, line)


def _lines(path: Path, cuts: list[str], progress: Progress | None) -> Iterator[str]:
    """Yield whole lines as text; a last line without an end is left out."""
    tail = b""
    for block in read_blocks(path, cuts, progress):
        *lines, tail = (tail + block).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")
    if tail == b"FREELIST done" or tail.endswith(b" FREELIST done"):
        yield tail.decode()


def _us(seconds: str) -> int:
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 1_000_000 + int((fraction + "000000")[:6])
