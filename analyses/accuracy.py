"""How near a replay comes to the migration that was recorded: predicted beside real.

A trace that carries a `migration.json` is replayed with profile `qemu` under that migration's own
parameters, or the trace of another migration of the same workload under them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from analyses.circumstances import circumstances, remarks
from analyses.recording import Recording
from replay.contained import contained_reports, foretold_reports
from replay.engine import Migration
from replay.kernels import FOREVER
from replay.profiles import Moment, Outcome, profile
from replay.qemu_version import QemuVersion
from replay.result import Scenario
from replay.rewrites import in_words
from replay.scenarios import Readings, scenarios
from replay.strategies import strategy
from tracer.trace import Trace

#: A time may be off by one window of QEMU's (BUFFER_DELAY) before percents count.
WINDOW_NS = 100_000_000
#: QEMU's total-time begins with the command: from there to the first sync it took 2 to 6 ms.
_SETUP_NS = 4_000_000
#: What a tolerance is held against; the rest is shown only.
JUDGED = ("normal_pages", "zero_pages", "wire_bytes", "syncs", "total_ns", "throttle_percent")
_TIMES = ("total_ns", "downtime_ns")
#: What the quantities are called that say how many pages were sent from one sync to the next.
EPOCH = "normal_pages_epoch_"


@dataclass(frozen=True)
class Row:
    """One quantity, real and predicted: pages, bytes, ns or percent, as the name says.

    source: the trace that was replayed, JSON's `from`. error_percent: of the real value, None where
    that is 0 and the prediction is not, or where there is no prediction. spread: the least and the
    most that was foretold with other seeds, None if only one was tried.
    """

    trace: str
    source: str
    scenario: Scenario
    quantity: str
    real: int
    predicted: int | None
    spread: tuple[int, int] | None = None

    @property
    def error_percent(self) -> float | None:
        """The difference in percent of the real value."""
        if self.predicted is None:
            return None
        difference = self.predicted - self.real
        if not difference:
            return 0.0
        return 100 * difference / self.real if self.real else None

    @property
    def spread_percent(self) -> float | None:
        """From the least to the most that was foretold, in percent of the real value."""
        if self.spread is None or not self.real:
            return None
        return 100 * (self.spread[1] - self.spread[0]) / self.real

    def within(self, percent: float) -> bool:
        """Whether the prediction is near enough; times may always be off by one window."""
        if self.predicted is None:
            return False
        if self.quantity in _TIMES and abs(self.predicted - self.real) <= WINDOW_NS:
            return True
        error = self.error_percent
        return error is not None and abs(error) <= percent

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        body = asdict(self)
        body["from"] = body.pop("source")
        order = ("trace", "from", "scenario", "quantity", "real", "predicted")
        shown = {**{name: body[name] for name in order}, "error_percent": self.error_percent}
        if self.spread is not None:
            shown["lowest"], shown["highest"] = self.spread
        return shown


@dataclass(frozen=True)
class Curve:
    """Bytes that remain over time: host ns and bytes, as recorded or as predicted.

    polled_ns: of the recorded one, the median time from one answer of QEMU's to the next, between
    which nothing is known; None where it was not asked twice, and of a predicted one.
    """

    name: str
    points: tuple[tuple[int, int], ...]
    polled_ns: int | None = None


@dataclass(frozen=True)
class Accuracy:
    """One recorded migration and what was foretold of it.

    other: the version of QEMU whose loop foretells it, where another one ran it.
    """

    trace: str
    source: str
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]
    remarks: tuple[str, ...]
    other: QemuVersion | None = None

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """The scenarios, `expected` first where it is there: it is what is foretold."""
        known = tuple(dict.fromkeys(row.scenario for row in self.rows))
        return tuple(sorted(known, key=lambda scenario: scenario != "expected"))

    def of(self, scenario: Scenario) -> dict[str, Row]:
        """Return the rows of a scenario by quantity."""
        return {row.quantity: row for row in self.rows if row.scenario == scenario}

    def missed(self, percent: float) -> list[Row]:
        """Return the rows that are held to a tolerance and exceed it: of the first scenario."""
        return [
            row
            for scenario in self.scenarios[:1]
            for row in self.of(scenario).values()
            if row.quantity in JUDGED and not row.within(percent)
        ]


def measure(
    recording: Recording,
    source: Trace | None = None,
    *,
    bandwidth: int | None = None,
    downtime_ns: int | None = None,
    line: Mapping[str, Any] | None = None,
    guest_load: int | None = None,
    version: QemuVersion | None = None,
    even_host: bool = False,
    seeds: int = 1,
) -> Accuracy:
    """Replay `source` (validated; its own trace where none is given) as the recording was run.

    bandwidth (bytes/s) and downtime_ns: where they were not recorded. line: of `Parameters`, the
    sender's speed, where it is not what `source` was recorded with. guest_load: percent, where it
    is not what `source` shows (`replay.pacing`). version: of QEMU, where it is not the recorded
    one. even_host: whether to leave out what the host kept the recorded sender from. seeds: how
    many to try. Raises UsageError where nobody says the bandwidth, where what is given is not what
    was recorded, where `source` is of another guest, and where it was recorded with hinting and the
    recording ran without.
    """
    how = circumstances(
        recording,
        source,
        bandwidth=bandwidth,
        downtime_ns=downtime_ns,
        line=line,
        guest_load=guest_load,
        version=version,
        even_host=even_host,
    )
    trace, readings = how.trace, Readings(how.trace, how.parameters)
    rows: list[Row] = []
    curves = [_recorded_curve(recording)]
    outlasted: list[str] = []
    for scenario in scenarios(trace):
        outcome, beyond = _foretell(recording, readings, scenario)
        told = list(_rows(recording, trace, scenario, outcome))
        rows += told if scenario == "saturated" else _spread(told, recording, readings, seeds)
        if beyond:
            outlasted.append(scenario)
        curves.append(_predicted_curve(trace, scenario, outcome, _end(recording)))
    name = recording.trace.name
    said = (
        *remarks(recording, how),
        *_about_readings(name, readings, outlasted),
    )
    drawn = tuple(curve for curve in curves if curve.points)
    other = None if recording.version in (None, how.parameters.qemu) else how.parameters.qemu
    return Accuracy(name, trace.name, tuple(rows), drawn, said, other)


def _foretell(recording: Recording, readings: Readings, scenario: Scenario) -> tuple[Outcome, bool]:
    """Return what is foretold of a migration, and whether more was needed than the trace has."""
    parameters = readings.parameters(scenario)
    hinted, trace = recording.trace.meta.hinting, readings.trace
    for read in readings.of(scenario):
        reading, contained = read, None
        if hinted and trace.meta.hinting:
            # Found in what was recorded: a report shows in first writes.
            contained = contained_reports(trace)
        elif hinted and "freelist" in trace:
            reading, contained = foretold_reports(reading, recording.hint_block_ns)
        migration = Migration(
            reading,
            strategy("precopy"),
            parameters,
            saturated=scenario == "saturated",
            contained=contained,
        )
        outcome = profile(parameters.profile)(migration)
        end = _end(recording)
        if outcome.reason != "trace-exhausted" or (end is not None and outcome.end_ns >= end):
            break
    stop = min(outcome.end_ns if outcome.stop_ns is None else outcome.stop_ns, end or FOREVER)
    beyond = migration.clock.guest(max(stop, migration.clock.segments[-1][0]))
    return outcome, beyond > trace.meta.duration_ns + WINDOW_NS


def _about_readings(name: str, readings: Readings, outlasted: list[str]) -> Iterator[str]:
    trace = readings.trace
    if "expected" in scenarios(trace):
        yield f"{name}: hidden writes of {trace.name} drawn, {in_words(readings.rewrites.fits)}"
    for scenario in outlasted:
        how = "as its working set was" if scenario in ("expected", "exact") else "by its repetition"
        yield f"{name}: the replay ({scenario}) outlasts the trace {trace.name}: continued {how}"


def _spread(
    rows: Sequence[Row], recording: Recording, readings: Readings, seeds: int
) -> Iterator[Row]:
    """Yield the rows with their spread over so many seeds.

    Each draws other hidden writes, and begins elsewhere in what the host takes from the sender.
    """
    trace, first = readings.trace, readings.given
    found = [rows]
    for number in range(1, seeds if rows else 1):
        at = len(first.lost_ns) * number // seeds
        lost_ns = first.lost_ns[at:] + first.lost_ns[:at]
        other = Readings(trace, replace(first, seed=first.seed + number, lost_ns=lost_ns))
        outcome, _ = _foretell(recording, other, rows[0].scenario)
        found.append(list(_rows(recording, trace, rows[0].scenario, outcome)))
    for same in zip(*found, strict=True):
        told = [row.predicted for row in same if row.predicted is not None]
        yield replace(same[0], spread=(min(told), max(told)) if seeds > 1 and told else None)


def _rows(
    recording: Recording, trace: Trace, scenario: Scenario, outcome: Outcome
) -> Iterator[Row]:
    for quantity, real, predicted in _quantities(recording, outcome):
        if real is not None:
            yield Row(recording.trace.name, trace.name, scenario, quantity, real, predicted)


def _quantities(
    recording: Recording, outcome: Outcome
) -> Iterator[tuple[str, int | None, int | None]]:
    """Yield each quantity's name, its real and its predicted value."""
    moment = _moment(recording, outcome)
    yield "normal_pages", recording.counter("normal"), moment.pages_sent
    yield "zero_pages", recording.counter("duplicate"), moment.zero_pages_sent
    yield "wire_bytes", recording.counter("transferred"), moment.wire_bytes
    yield "syncs", recording.syncs, moment.syncs
    if recording.completed:
        stopped = outcome.stop_ns is not None
        total = outcome.end_ns + _SETUP_NS if stopped else None
        yield "total_ns", recording.time_ns("total-time"), total
        downtime = None if outcome.stop_ns is None else outcome.end_ns - outcome.stop_ns
        yield "downtime_ns", recording.time_ns("downtime"), downtime
    if recording.capabilities.get("auto-converge"):
        real = recording.throttles
        foretold = [step for step in outcome.throttles if step[0] <= moment.host_ns]
        yield "throttle_percent", real[-1][1] if real else 0, foretold[-1][1] if foretold else 0
        yield "throttle_steps", len(real), len(foretold)
    copied = _by_epoch(outcome, moment.host_ns)
    for number, sync in enumerate(recording.recorded.get("syncs") or ()):
        predicted = copied[number] if number < len(copied) else None
        yield f"{EPOCH}{number + 1}", sync.get("normal"), predicted


def _end(recording: Recording) -> int | None:
    """Return when a migration that did not complete was left, None for one that did."""
    return None if recording.completed else recording.end_ns


def _moment(recording: Recording, outcome: Outcome) -> Moment:
    """Return the foretold counters: the last ones, or those of when a migration was cancelled."""
    end = _end(recording)
    if end is None:
        return outcome.course[-1]
    before = [moment for moment in outcome.course if moment.host_ns <= end]
    return before[-1] if before else outcome.course[0]


def _by_epoch(outcome: Outcome, end_ns: int) -> list[int]:
    """Return the pages with content that were copied from each sync to the next, up to `end_ns`.

    The last sync is the one that follows the stop.
    """
    copied: list[int] = []
    before = 0
    for moment in outcome.course:
        if moment.host_ns > end_ns:
            break
        copied += [0] * (moment.syncs - len(copied))
        copied[-1] += moment.pages_sent - before
        before = moment.pages_sent
    return copied


def _recorded_curve(recording: Recording) -> Curve:
    polls = recording.recorded.get("polls") or ()
    points = tuple((poll["t_host_ns"], poll["remaining"]) for poll in polls)
    between = sorted(after - before for (before, _), (after, _) in pairwise(points))
    return Curve("real", points, between[len(between) // 2] if between else None)


def _predicted_curve(trace: Trace, scenario: Scenario, outcome: Outcome, end: int | None) -> Curve:
    size = trace.meta.page_size
    return Curve(
        scenario,
        tuple(
            (moment.host_ns, moment.pending_pages * size)
            for moment in outcome.course
            if end is None or moment.host_ns <= end
        ),
    )
