"""How near predictions come over many recorded migrations, beside how real ones scatter.

Repeats are traces whose names differ in a last part `.rN` alone; migrations of one workload are
those whose names begin alike, up to the first dot. Errors are of the mean of the repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from re import sub

from analyses.accuracy import Row, measure
from analyses.recording import Recording

#: What is compared.
QUANTITIES = ("normal_pages", "wire_bytes", "total_ns", "syncs")


@dataclass(frozen=True)
class Repeats:
    """The same migration, recorded several times."""

    name: str
    recordings: tuple[Recording, ...]

    @property
    def workload(self) -> str:
        """What the guest did."""
        return self.name.split(".")[0]


@dataclass(frozen=True)
class Line:
    """One quantity of one migration, foretold from one recording (or each from itself).

    real: of the repeats. told: predicted, one each where each foretells itself, else one. None
    stands for a migration without that quantity (the time of one that did not complete).
    """

    name: str
    source: str | None
    quantity: str
    real: tuple[int | None, ...]
    told: tuple[int | None, ...]

    @property
    def spread_percent(self) -> float | None:
        """From the smallest to the largest repeat, in percent of their mean."""
        known = [value for value in self.real if value is not None]
        if len(known) < 2:
            return None
        return 100 * (max(known) - min(known)) * len(known) / sum(known)

    @property
    def error_percent(self) -> float | None:
        """The largest error of one that foretells itself; else the error against the mean."""
        known = [value for value in self.real if value is not None]
        if not known or None in self.told or not self.told:
            return None
        if self.source is None:
            pairs = zip(self.told, self.real, strict=True)
            errors = [100 * (told - real) / real for told, real in pairs
                      if told is not None and real]  # fmt: skip
            return max(errors, key=abs, default=None)
        told = self.told[0]
        assert told is not None
        return 100 * (told * len(known) - sum(known)) / sum(known)


def grouped(recordings: Iterable[Recording]) -> list[Repeats]:
    """Return recordings by what they repeat, in order of their names."""
    found: dict[str, list[Recording]] = {}
    for recording in sorted(recordings, key=lambda one: one.trace.name):
        found.setdefault(sub(r"\.r\d+$", "", recording.trace.name), []).append(recording)
    return [Repeats(name, tuple(these)) for name, these in found.items()]


def own(repeats: Repeats, *, even_host: bool = False) -> list[Line]:
    """Return how each recording is foretold under its own parameters.

    even_host: whether without the delays of its host.
    """
    told = [_leading(measure(one, even_host=even_host).rows) for one in repeats.recordings]
    return [_line(repeats, None, quantity, told) for quantity in QUANTITIES]


def crossed(target: Repeats, source: Repeats) -> list[Line]:
    """Return how a migration is foretold from the first recording of another."""
    told = [_leading(measure(target.recordings[0], source.recordings[0].trace).rows)]
    return [_line(target, source.name, quantity, told) for quantity in QUANTITIES]


def others(target: Repeats, all_of_them: Sequence[Repeats]) -> list[Repeats]:
    """Return the other migrations of the same workload from which one can be foretold."""
    return [
        one
        for one in all_of_them
        if one.workload == target.workload
        and one is not target
        # What hinting did to a guest cannot be taken out of its recording.
        and not one.recordings[0].trace.meta.hinting
    ]


def _leading(rows: Sequence[Row]) -> dict[str, Row]:
    known = [row.scenario for row in rows]
    leading = "expected" if "expected" in known else known[0]
    return {row.quantity: row for row in rows if row.scenario == leading}


def _line(
    target: Repeats, source: str | None, quantity: str, told: Sequence[dict[str, Row]]
) -> Line:
    return Line(
        target.name,
        source,
        quantity,
        tuple(_real(one, quantity) for one in target.recordings),
        tuple(rows[quantity].predicted if quantity in rows else None for rows in told),
    )


def _real(recording: Recording, quantity: str) -> int | None:
    if quantity == "total_ns":
        return recording.time_ns("total-time") if recording.completed else None
    if quantity == "syncs":
        return recording.syncs
    names = {"normal_pages": "normal", "wire_bytes": "transferred"}
    return recording.counter(names[quantity])
