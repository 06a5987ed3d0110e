"""Files that each stand for one epoch: which they are, and when each epoch ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tracer.errors import TraceError, UsageError

#: `names`: the last number in a name is a time; `mtimes`: when the file was last written;
#: `interval`: the epochs are equally long.
Times = Literal["names", "mtimes", "interval"]

#: What a name says of the slot of KVM's memory that a file is of.
SLOT = re.compile(r"(?<![a-z])slot[-_.]?(\d+)", re.IGNORECASE)
_NUMBERS = re.compile(r"(\d+)")
_COMPRESSED = (".gz", ".zst")
#: What people lay beside recordings; of text, so that no recording is taken for it.
_ASIDE = re.compile(
    r"(readme|licen[cs]e|notes?)\b.*|.*\.(md|txt|rst|json|log|csv|html|xml|ya?ml|toml|sh|py)",
    re.IGNORECASE,
)
_HEAD = 4096


def find_files(paths: Sequence[str | Path], left_out: list[str]) -> list[Path]:
    """Return the files at `paths`, those in folders in the order of the numbers in their names.

    Files that are named one by one keep their order. Of a folder, texts like a README beside files
    of another kind are left out, and `left_out` gets a sentence on each. Raises TraceError where
    one is missing or cannot be looked at, and for a folder without files.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        try:
            folder, there = path.is_dir(), path.exists()
            inside = [f for f in path.glob("*") if f.is_file()] if folder else [path]
            texts = [f for f in inside if _ASIDE.fullmatch(f.name) and _is_text(f)]
        except OSError as error:
            raise TraceError(f"{path}: cannot be opened ({error.strerror})") from None
        inside = [file for file in inside if not folder or not file.name.startswith(".")]
        if not inside:
            raise TraceError(f"{path}: holds no file; nothing to import")
        if not there:
            raise TraceError(f"{path}: does not exist")
        if folder and len(texts) < len(inside):
            left_out += [f"{text} is text: left out" for text in sorted(texts)]
            inside = [file for file in inside if file not in texts]
        found += sorted(inside, key=natural) if folder else inside
    if not found:
        raise UsageError("nothing to import: pass the files, or a folder that holds them")
    return found


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return bool(head) and not any(byte < 9 or byte > 126 for byte in head)


def natural(path: Path) -> tuple[object, ...]:
    """Return a key that sorts names by the numbers in them: epoch-9 before epoch-10."""
    parts = _NUMBERS.split(path.name)
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts)


def number_in(path: Path) -> int:
    """Return the last number in a file's name that is no slot's; raises TraceError for none."""
    name = SLOT.sub("", path.name)
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    numbers = _NUMBERS.findall(name)
    if not numbers:
        raise TraceError(f"{path}: no number in its name to take for a time (--times interval)")
    return int(numbers[-1])


@dataclass(frozen=True)
class Epochs:
    """When epochs ended, in ns since the trace's start; `zero` is that on the files' clock.

    guessed: whether nothing but the second epoch's length tells when the first began.
    """

    ends: list[int]
    zero: int
    times: Times
    guessed: bool


def epochs_of(
    files: Sequence[Path],
    times: Times | None,
    *,
    unit_ns: int = 10**9,
    interval_ns: int | None = None,
    before: Path | None = None,
) -> Epochs:
    """Return the epochs of files; by their mtimes where neither `times` nor an interval is given.

    before: a file of the moment at which the first epoch began. Raises UsageError and TraceError as
    `epoch_ends` does, and UsageError where the first epoch's length is not known.
    """
    times = times or ("interval" if interval_ns is not None else "mtimes")
    if times == "interval":
        return Epochs(epoch_ends(files, times, interval_ns=interval_ns), 0, times, False)
    stamped = [*([] if before is None else [before]), *files]
    ends = epoch_ends(stamped, times, unit_ns=unit_ns)
    if before is not None:
        zero = ends.pop(0)
    elif interval_ns is None and len(ends) < 2:
        raise UsageError("one file alone does not tell how long its epoch was: pass --interval")
    else:
        zero = ends[0] - (interval_ns if interval_ns is not None else ends[1] - ends[0])
    return Epochs([end - zero for end in ends], zero, times, before is None)


def epoch_ends(
    files: Sequence[Path], times: Times, *, unit_ns: int = 10**9, interval_ns: int | None = None
) -> list[int]:
    """Return the ns, on whatever clock, at which the epoch of each file ended, ascending.

    Raises UsageError where an interval is wanted and missing, TraceError where times go back or
    stand still (with the two files).
    """
    if times == "interval":
        if interval_ns is None or interval_ns < 1:
            raise UsageError("how long an epoch is, is not known: pass --interval")
        return [interval_ns * (number + 1) for number in range(len(files))]
    if times == "names":
        ends = [number_in(file) * unit_ns for file in files]
    else:
        ends = [file.stat().st_mtime_ns for file in files]
    for index in range(1, len(files)):
        if ends[index] <= ends[index - 1]:
            raise TraceError(
                f"{files[index]}: its time ({times}) is not later than that of "
                f"{files[index - 1]}; pass the files in order, or --interval"
            )
    return ends
