"""How near a replay comes to the migration that was recorded: predicted beside real.

A trace that carries a `migration.json` is replayed with profile `qemu` under that migration's own
parameters, or the trace of another migration of the same workload under them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from analyses.recording import Recording
from replay.contained import BLOCK_PAGES, contained_reports, foretold_reports
from replay.engine import Migration
from replay.kernels import FOREVER
from replay.pacing import FULL_LOAD, at_work, load_of
from replay.parameters import Parameters
from replay.profiles import Moment, Outcome, profile
from replay.result import Scenario
from replay.scenarios import Readings, scenarios
from replay.strategies import strategy
from tracer.errors import UsageError
from tracer.trace import Trace

#: A time may be off by one window of QEMU's (BUFFER_DELAY) before percents count.
WINDOW_NS = 100_000_000
#: QEMU's total-time begins with the command: from there to the first sync it took 2 to 6 ms.
_SETUP_NS = 4_000_000
MS_NS = 1_000_000
#: What a tolerance is held against; the rest is shown only.
JUDGED = ("normal_pages", "zero_pages", "wire_bytes", "syncs", "total_ns", "throttle_percent")
_TIMES = ("total_ns", "downtime_ns")


@dataclass(frozen=True)
class Row:
    """One quantity, real and predicted: pages, bytes, ns or percent, as the name says.

    source: the trace that was replayed, JSON's `from`. error_percent: of the real value, None where
    that is 0 and the prediction is not, or where there is no prediction.
    """

    trace: str
    source: str
    scenario: Scenario
    quantity: str
    real: int
    predicted: int | None

    @property
    def error_percent(self) -> float | None:
        """The difference in percent of the real value."""
        if self.predicted is None:
            return None
        difference = self.predicted - self.real
        if not difference:
            return 0.0
        return 100 * difference / self.real if self.real else None

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
        return {**{name: body[name] for name in order}, "error_percent": self.error_percent}


@dataclass(frozen=True)
class Curve:
    """Bytes that remain over time: host ns and bytes, as recorded or as predicted."""

    name: str
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Accuracy:
    """One recorded migration and what was foretold of it."""

    trace: str
    source: str
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]
    remarks: tuple[str, ...]

    def missed(self, percent: float) -> list[Row]:
        """Return the rows that are held to a tolerance and exceed it.

        They are those of scenario `expected`, or of the first where there is no such.
        """
        known = [row.scenario for row in self.rows]
        leading = "expected" if "expected" in known else next(iter(known), None)
        return [
            row
            for row in self.rows
            if row.scenario == leading and row.quantity in JUDGED and not row.within(percent)
        ]


def measure(
    recording: Recording,
    source: Trace | None = None,
    *,
    bandwidth: int | None = None,
    downtime_ns: int | None = None,
    line: Mapping[str, Any] | None = None,
    guest_load: int | None = None,
) -> Accuracy:
    """Replay `source` (validated; its own trace where none is given) as the recording was run.

    bandwidth (bytes/s) and downtime_ns go before what was recorded. line: of `Parameters`, the
    sender's speed, where it is not what `source` was recorded with. guest_load: percent, where it
    is not what `source` shows (`replay.pacing`). Raises UsageError where the
    recording does not say the bandwidth and none is given, where `source` is of another guest, and
    where it was recorded with hinting and the recording ran without.
    """
    trace = recording.trace if source is None else source
    _alike(recording.trace, trace)
    _known_without_hinting(recording.trace, trace)
    parameters = recording.replay_parameters(bandwidth, downtime_ns)
    sender = Recording.of(trace).sender if trace.migration is not None else {}
    parameters = replace(parameters, **{**sender, **(line or {})})
    trace, load, known = _as_worked(trace, guest_load)
    parameters = replace(parameters, guest_load=load)
    if source is None and not line and recording.ran_with(bandwidth, downtime_ns):
        parameters = replace(parameters, course=recording.course(parameters.bandwidth))
    else:
        parameters = replace(parameters, lost_ns=_lost(source or recording.trace))
    readings = Readings(trace, parameters)
    rows: list[Row] = []
    curves = [_recorded_curve(recording)]
    outlasted: list[str] = []
    for scenario in scenarios(trace):
        outcome, beyond = _foretell(recording, readings, scenario)
        rows += _rows(recording, trace, scenario, outcome)
        if beyond:
            outlasted.append(scenario)
        curves.append(_predicted_curve(trace, scenario, outcome, _end(recording)))
    name = recording.trace.name
    remarks = (
        *_about_load(name, trace, parameters, known),
        *_remarks(recording, trace, parameters),
        *_about_readings(name, readings, outlasted),
    )
    return Accuracy(name, trace.name, tuple(rows), tuple(c for c in curves if c.points), remarks)


def _alike(recorded: Trace, source: Trace) -> None:
    """Raise UsageError where one guest cannot be the other."""
    ours, theirs = recorded.meta, source.meta
    if (ours.page_size, ours.pages) != (theirs.page_size, theirs.pages):
        raise UsageError(
            f"{source.name} is a guest of {theirs.pages} pages of {theirs.page_size} bytes and "
            f"{recorded.name} one of {ours.pages} of {ours.page_size}: foretell a migration from a "
            "recording of the same guest"
        )


def _known_without_hinting(recorded: Trace, source: Trace) -> None:
    """Raise UsageError where hinting has kept from the source what would be sent without it."""
    if recorded.meta.hinting or not source.meta.hinting:
        return
    zeroed = len(contained_reports(source).t) * BLOCK_PAGES
    known = (
        f"{zeroed} pages were zeroed as the guest took them to report them (init_on_alloc), and "
        if zeroed
        else ""
    )
    raise UsageError(
        f"{source.name} was recorded with free page hinting on and {recorded.name} without: {known}"
        "what the reported memory held before is in no row, though without hinting it is sent; "
        f"foretell {recorded.name} from a recording with hinting off"
    )


def _lost(source: Trace) -> tuple[int, ...]:
    """Return what the host took from the sender of a trace, window by window."""
    own = Recording.of(source) if source.migration is not None else None
    if own is None or "max-bandwidth" not in own.parameters:
        return ()
    course = own.course(own.replay_parameters(None, None).bandwidth)
    return () if course is None else course.lost


def _as_worked(trace: Trace, given: int | None) -> tuple[Trace, int, str]:
    """Return the trace on the clock of the guest's work, the guest's load, and how that is known.

    given: the load, else it is what shows where the guest was throttled, else all.
    """
    own = Recording.of(trace) if trace.migration is not None else None
    if own is None or not own.throttles:
        return trace, given or FULL_LOAD, "as given" if given else "assumed"
    shown = load_of(trace, own.throttles) if trace.meta.resolution == "first-write" else None
    load = given or shown
    if load is None:
        return trace, FULL_LOAD, "assumed"
    how = "as given" if given else "as its recording shows"
    return at_work(trace, own.throttles, load), load, how


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
        yield f"{name}: hidden writes of {trace.name} drawn, {readings.rewrites.fit.in_words()}"
    for scenario in outlasted:
        how = "as its working set was" if scenario in ("expected", "exact") else "by its repetition"
        yield f"{name}: the replay ({scenario}) outlasts the trace {trace.name}: continued {how}"


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
    yield "syncs", recording.counter("dirty-sync-count"), moment.syncs
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
        yield f"normal_pages_epoch_{number + 1}", sync.get("normal"), predicted


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
    return Curve("real", tuple((poll["t_host_ns"], poll["remaining"]) for poll in polls))


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


def _about_load(name: str, trace: Trace, parameters: Parameters, known: str) -> Iterator[str]:
    load, held = parameters.guest_load, trace.meta.clock == "work"
    how = f"needs {load} % of its vCPUs' time" if load < FULL_LOAD else "works as fast as it may"
    if parameters.auto_converge is not None or parameters.dirty_limit is not None:
        yield f"{name}: the throttled guest {how} ({known})"
    elif held:
        yield f"{name}: the guest of {trace.name} was throttled and {how} ({known}): undone"


def _remarks(recording: Recording, trace: Trace, parameters: Parameters) -> Iterator[str]:
    name = recording.trace.name
    if parameters.line_rate != Parameters.line_rate:
        yield (
            f"{name}: the sender puts out {parameters.line_rate / 1e9:.3g} GB/s, passes a zero "
            f"page in {parameters.zero_page_ns} ns and wakes {parameters.wake_ns / 1e3:.3g} us "
            "late (as recorded, or as given)"
        )
    if parameters.dirty_limit is not None and (unknown := recording.unknown_of_the_limit()):
        limit = parameters.dirty_limit
        yield (
            f"{name}: {' and '.join(unknown)} not recorded: dirty-limit is replayed for a guest of "
            f"{limit.vcpus} vCPUs with rings of {limit.ring} entries"
        )
    lacking = recording.lacking()
    if lacking:
        yield f"{name}: it ran with {', '.join(lacking)}, which the model lacks"
    if not recording.completed:
        status = recording.final.get("status", "of unknown status")
        yield (
            f"{name}: the migration was {status}, not completed: compared up to when its counters "
            "were read, without times"
        )
        if recording.end_ns is None:
            yield f"{name}: when that was is not recorded: compared with the replay's end"
    if parameters.course is not None:
        lost = sum(parameters.course.lost) / 1e9
        yield (
            f"{name}: the host let QEMU's sender run as recorded, which cost it {lost:.3g} s in all"
        )
    if sum(parameters.lost_ns):
        share = 100 * sum(parameters.lost_ns) / (100 * MS_NS * len(parameters.lost_ns))
        yield (
            f"{name}: the host keeps QEMU's sender waiting as that of {trace.name}, for {share:.2g} "
            "ms in 100"
        )
    if not recording.parameters:
        yield f"{name}: its parameters were not recorded: QEMU's defaults, or what was passed"
    hinted = recording.trace.meta.hinting
    if hinted and not trace.meta.hinting and "freelist" in trace:
        yield (
            f"{name}: free page hinting is foretold from the free list of {trace.name}: a block of "
            f"4 MiB every {recording.hint_block_ns / 1e6:g} ms, zeroed as it is taken "
            "(init_on_alloc)"
        )
    elif hinted and not trace.meta.hinting:
        yield (
            f"{name}: free page hinting is not foretold: {trace.name}, recorded without it, has no "
            "free list"
        )
    elif trace.meta.hinting:
        yield (
            f"{name}: free page hinting was on while recording: reported blocks are those that the "
            "guest zeroed as it took them (init_on_alloc), pages skipped count as zero pages"
        )
