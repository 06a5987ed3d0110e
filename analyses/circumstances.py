"""Under which circumstances a migration is foretold: the guest's pace, the host's delays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analyses.load import shown_load
from analyses.needed import check_needed
from analyses.recording import Recording
from replay.contained import BLOCK_PAGES, contained_reports
from replay.pacing import FULL_LOAD, at_work
from replay.parameters import Parameters
from replay.qemu_version import QemuVersion
from tracer.errors import UsageError
from tracer.trace import Trace
from tracer.words import duration, setting, size

MS_NS = 1_000_000


@dataclass(frozen=True)
class Circumstances:
    """What to replay and how, and how that is known.

    load_known: how the guest's load is. sender: what the recording of `trace` says of the sender's
    speed, given: what the user says, both as `replay.parameters` names it.
    """

    trace: Trace
    parameters: Parameters
    load_known: str
    sender: Mapping[str, int]
    given: Mapping[str, int]


def circumstances(
    recording: Recording,
    source: Trace | None,
    *,
    bandwidth: int | None,
    downtime_ns: int | None,
    line: Mapping[str, Any] | None,
    guest_load: int | None,
    version: QemuVersion | None = None,
    even_host: bool = False,
) -> Circumstances:
    """Return what to replay and how.

    Arguments and errors are those of `analyses.accuracy.measure`. A migration of its own recording
    has the host as it was; one of another has it take as much from the sender as from that one's.
    An even host takes nothing from it.
    """
    trace = recording.trace if source is None else source
    _alike(recording.trace, trace)
    check_needed(recording.trace, trace, even_host=even_host)
    _known_without_hinting(recording.trace, trace)
    parameters = recording.replay_parameters(bandwidth, downtime_ns)
    if version is not None:
        parameters = replace(parameters, qemu=version)
    sender = Recording.of(trace).sender if trace.migration is not None else {}
    parameters = replace(parameters, **{**sender, **(line or {})})
    trace, load, load_known = _as_worked(trace, guest_load)
    parameters = replace(parameters, guest_load=load)
    # Against another bandwidth than its own the recorded course would prove itself.
    known = "max-bandwidth" in recording.parameters
    if not even_host and source is None and not line and known:
        parameters = replace(parameters, course=recording.course(parameters.bandwidth))
    elif not even_host:
        parameters = replace(parameters, lost_ns=_lost(source or recording.trace))
    return Circumstances(trace, parameters, load_known, sender, line or {})


def _alike(recorded: Trace, source: Trace) -> None:
    """Raise UsageError where one guest cannot be the other."""
    ours, theirs = recorded.meta, source.meta
    if (ours.page_size, ours.pages) != (theirs.page_size, theirs.pages):
        raise UsageError(
            f"{source.name} is a guest of {theirs.pages:,} pages of {size(theirs.page_size)} and "
            f"{recorded.name} one of {ours.pages:,} of {size(ours.page_size)}: foretell a "
            "migration from a recording of the same guest"
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
    load = given or shown_load(own)
    if load is None:
        return trace, FULL_LOAD, "assumed"
    how = "as given" if given else "as its recording shows"
    return at_work(trace, own.throttles, load), load, how


def _about_load(name: str, trace: Trace, parameters: Parameters, known: str) -> Iterator[str]:
    load, held = parameters.guest_load, trace.meta.clock == "work"
    how = f"needs {load} % of its vCPUs' time" if load < FULL_LOAD else "works as fast as it may"
    if parameters.auto_converge is not None or parameters.dirty_limit is not None:
        yield f"{name}: the throttled guest {how} ({known})"
    elif held:
        yield f"{name}: the guest of {trace.name} was throttled and {how} ({known}): undone"


def _about_version(recording: Recording, parameters: Parameters) -> Iterator[str]:
    name, ran, taken = recording.trace.name, recording.version, parameters.qemu
    if ran is None:
        yield f"{name}: QEMU's version was not recorded: taken for {taken}"
    elif ran != taken:
        yield f"{name}: QEMU {ran} ran it, foretold is what {taken} does"


def _about_sender(name: str, how: Circumstances) -> Iterator[str]:
    """Say how fast the sender is, and of each figure whence it is."""
    parameters = how.parameters
    recorded = "as recorded" if name == how.trace.name else f"as {how.trace.name} was recorded"
    figures = (
        ("line_rate", f"puts out {parameters.line_rate / 1e9:.3g} GB/s"),
        ("zero_page_ns", f"passes a zero page in {setting(parameters.zero_page_ns)}"),
        ("wake_ns", f"wakes {setting(parameters.wake_ns)} late"),
    )
    groups: dict[str, list[str]] = {}
    for key, said in figures:
        known = "as given" if key in how.given else recorded if key in how.sender else "by default"
        groups.setdefault(known, []).append(said)
    if set(groups) != {"by default"}:
        parts = [f"{_all_of(figures)} ({known})" for known, figures in groups.items()]
        yield f"{name}: the sender {_all_of(parts)}"


def _all_of(parts: Sequence[str]) -> str:
    *several, last = parts
    return f"{', '.join(several)} and {last}" if several else last


def remarks(recording: Recording, how: Circumstances) -> Iterator[str]:
    """Say what a migration is foretold with, and what of the recorded one is lacking."""
    name, trace, parameters = recording.trace.name, how.trace, how.parameters
    yield from _about_version(recording, parameters)
    if not_there := recording.not_in_the_log():
        yield (
            f"{name}: its log has {' and '.join(not_there)} that QEMU counted: it lacks lines or "
            f"ends before the migration does (at {duration(trace.meta.duration_ns)} of guest time)"
        )
    if not recording.recorded.get("polls"):
        yield f"{name}: nobody asked QEMU what remained while it ran: there is no real curve"
    yield from _about_load(name, trace, parameters, how.load_known)
    yield from _about_sender(name, how)
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
        lost = duration(sum(parameters.course.lost))
        yield f"{name}: the host let QEMU's sender run as recorded, which cost it {lost} in all"
    if sum(parameters.lost_ns):
        share = 100 * sum(parameters.lost_ns) / (100 * MS_NS * len(parameters.lost_ns))
        yield (
            f"{name}: the host keeps QEMU's sender waiting as that of {trace.name}, for "
            f"{share:.2g} ms in 100"
        )
    if not recording.parameters:
        yield f"{name}: its parameters were not recorded: QEMU's defaults, or what was passed"
    hinted = recording.trace.meta.hinting
    if hinted and not trace.meta.hinting and "freelist" in trace:
        yield (
            f"{name}: free page hinting is foretold from the free list of {trace.name}: a block of "
            f"4 MiB every {setting(recording.hint_block_ns)}, zeroed as it is taken (init_on_alloc)"
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
