"""What a recorder would have seen of a guest: the model's section 1, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tracer.errors import UsageError
from tracer.format import FreelistResolution, Resolution
from tracer.rows import Int64s
from tracer.synth.chunks import Chunk
from tracer.words import setting


@dataclass(frozen=True)
class Recording:
    """How a guest is recorded. Times in ns.

    epoch_ns: how often the dirty log is harvested, for resolutions other than `write`. sample_ns:
    how often a `sampled` free list is looked at. quantum_ns: 1 for exact times.
    """

    resolution: Resolution = "write"
    epoch_ns: int = 1_000_000_000
    freelist: FreelistResolution = "event"
    sample_ns: int = 200_000_000
    quantum_ns: int = 1

    def __post_init__(self) -> None:
        for name, value in (("epoch", self.epoch_ns), ("sample interval", self.sample_ns)):
            if value < 2:
                raise UsageError(f"{name} {setting(value)}: wanted at least 2 ns")
        if self.quantum_ns < 1:
            raise UsageError(f"quantum {setting(self.quantum_ns)}: wanted at least 1 ns")

    @property
    def exact(self) -> bool:
        """Whether it hides nothing."""
        return self.resolution == "write" and self.freelist == "event" and self.quantum_ns == 1


class Stage(Protocol):
    """A step from what happens to what is recorded, chunk after chunk in order of time.

    `epochs` of a chunk are the times at which the dirty log was harvested.
    """

    def feed(self, chunk: Chunk) -> Iterator[Chunk]:
        """Take a chunk; yield what is recorded by now."""
        ...

    def finish(self) -> Iterator[Chunk]:
        """Yield the rest, at the end of the trace."""
        ...


def stages(recording: Recording, pages: int, duration_ns: int) -> list[Stage]:
    """Return the steps of a recording, in order."""
    from tracer.synth.quantum import Quantum  # noqa: PLC0415 - compiles; most need none of them
    from tracer.synth.sampled import Sampled  # noqa: PLC0415
    from tracer.synth.thinning import Thinning  # noqa: PLC0415

    found: list[Stage] = []
    if recording.quantum_ns > 1:
        found.append(Quantum(pages, recording.quantum_ns, duration_ns))
    if recording.resolution != "write":
        found.append(Thinning(pages, recording.resolution, recording.epoch_ns, duration_ns))
    if recording.freelist == "sampled":
        moved = recording.resolution != "epoch"
        found.append(Sampled(pages, recording.sample_ns, duration_ns, moved=moved))
    return found


def through(stage: Stage, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield what a stage makes of chunks."""
    for chunk in chunks:
        yield from stage.feed(chunk)
    yield from stage.finish()


def times(every: int, after: int, upto: int) -> Int64s:
    """Return the multiples of `every` in (after, upto], int64."""
    import numpy as np  # noqa: PLC0415

    return np.arange(after // every + 1, upto // every + 1, dtype=np.int64) * every
