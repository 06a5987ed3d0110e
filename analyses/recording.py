"""A migration that was recorded along with a trace: how it was run, what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Any

from replay.course import Course
from replay.dirty_limit import DirtyLimit
from replay.link import HEADER_BYTES
from replay.parameters import Parameters
from replay.qemu_version import Loop, QemuVersion, loop_of, recorded_version
from replay.throttle import AutoConverge
from tracer.counters import check_migration
from tracer.errors import TraceError, UsageError
from tracer.trace import Trace

MS_NS = 1_000_000
#: Capabilities that change what is sent or when, and that the model lacks.
_LACKING = (
    "multifd",
    "xbzrle",
    "compress",
    "postcopy-ram",
    "postcopy-preempt",
    "background-snapshot",
    "x-colo",
    "block",
    "zero-blocks",
    "mapped-ram",
    "rdma-pin-all",
    "x-ignore-shared",
)
#: When a sync or an iteration began; the columns of the sender's iterations.
_BEGIN = "t_host_ns"
_ITERATIONS = (_BEGIN, "until_host_ns", "normal", "zero")
#: Of `replay.parameters`, what the sender's own log tells.
_SPEEDS = ("line_rate", "zero_page_ns", "wake_ns")
#: An answer is stamped up to so much later than QEMU gave it.
_ANSWERING_NS = 5 * MS_NS
#: max-bandwidth 0 means none: beyond any line.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Recording:
    """What `migration.json` of a trace says, with QEMU's own names where they are QEMU's.

    final: the last answer of query-migrate. recorded: the course, in host ns since the first sync.
    """

    trace: Trace
    final: Mapping[str, Any]
    parameters: Mapping[str, Any]
    capabilities: Mapping[str, bool]
    recorded: Mapping[str, Any]

    @classmethod
    def of(cls, trace: Trace) -> Recording:
        """Return what was recorded along with a trace.

        Raises TraceError where nothing was, no counters of RAM, or what cannot have been.
        """
        body = trace.migration
        if body is None:
            raise TraceError(
                f"{trace.path}: no migration was recorded along (no migration.json): there is "
                "nothing to compare with"
            )
        check_migration(body, f"{trace.path}/migration.json")
        return cls(
            trace,
            body,
            body.get("parameters") or {},
            body.get("capabilities") or {},
            body.get("recorded") or {},
        )

    @property
    def completed(self) -> bool:
        """Whether QEMU said that the migration completed."""
        return self.final.get("status") == "completed"

    @property
    def syncs(self) -> int | None:
        """How many syncs there were when the counters were read, None where nothing says it.

        From 11 on QEMU's counter leaves out those by a timer and that after the stop: the log has
        them.
        """
        begins = [sync[_BEGIN] for sync in self.recorded.get("syncs") or ()]
        counted, end = self.counter("dirty-sync-count"), self.end_ns
        if not self.completed and end is not None:
            begins = [begin for begin in begins if begin < end - _ANSWERING_NS]
        return None if counted is None else max(counted, len(begins))

    def counter(self, name: str) -> int | None:
        """Return a counter of query-migrate's `ram`, None where it has none of that name."""
        value = self.final["ram"].get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def time_ns(self, name: str) -> int | None:
        """Return one of query-migrate's times (whole ms), None where it has none of that name."""
        value = self.final.get(name)
        return value * MS_NS if isinstance(value, int) else None

    @property
    def end_ns(self) -> int | None:
        """Host ns since the first sync at which the counters were read, None if not known."""
        polls = self.recorded.get("polls") or ()
        return polls[-1]["t_host_ns"] if polls else None

    @property
    def throttles(self) -> list[tuple[int, int]]:
        """Host ns and percent of each change of the throttle."""
        steps = self.recorded.get("throttles") or ()
        both = [(0, 0), *((step[_BEGIN], step["percent"]) for step in steps)]
        return [after for before, after in pairwise(both) if before[1] != after[1]]

    def course(self, bandwidth: int) -> Course | None:
        """Return when the host let QEMU's sender and vCPUs run, None where that was not recorded.

        bandwidth: max-bandwidth. Raises TraceError where what was recorded is no such course.
        """
        columns, syncs = self.recorded.get("iterations"), self.recorded.get("syncs") or ()
        if not columns:
            return None
        try:
            rows = zip(*(columns[name] for name in _ITERATIONS), strict=True)
            course = Course(
                tuple((index(a), index(b), index(c), index(d)) for a, b, c, d in rows),
                tuple((index(s[_BEGIN]), index(s.get("end_host_ns", s[_BEGIN]))) for s in syncs),
                self.trace.meta.page_size + HEADER_BYTES,
                bandwidth,
                self.trace.meta.hinting,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(
                f'{self.trace.path}/migration.json: "iterations" and "syncs" are no course '
                f"of a sender ({error})"
            ) from None
        return course if course.iterations else None

    @property
    def sender(self) -> dict[str, int]:
        """How fast the sender was, as `replay.parameters` names it, so far as that was measured."""
        found = self.recorded.get("sender")
        if not isinstance(found, dict):
            return {}
        speeds = {name: _whole(found.get(name), 0) for name in _SPEEDS}
        return {name: value for name, value in speeds.items() if value > 0}

    def not_in_the_log(self) -> list[str]:
        """Return what of the migration the log that was recorded along lacks, counted."""
        syncs = self.recorded.get("syncs") or ()
        lacking = []
        for what, found, name in (
            ("copies of pages", sum(sync.get("normal", 0) for sync in syncs), "normal"),
            ("syncs", len(syncs), "dirty-sync-count"),
        ):
            counted = self.counter(name)
            if syncs and counted is not None and found < counted:
                lacking.append(f"{found:,} of {counted:,} {what}")
        return lacking

    def lacking(self) -> list[str]:
        """Return by name what the migration was run with and the model lacks."""
        found = [name for name in _LACKING if self.capabilities.get(name)]
        if self.parameters.get("zero-page-detection") == "none":
            found.append("zero-page-detection none")
        return found

    def unknown_of_the_limit(self) -> list[str]:
        """Return what dirty-limit depends on and the recording does not say."""
        names = {"vcpus": "its vCPUs", "dirty_ring_size": "its rings' size"}
        source = self.trace.meta.source
        return [said for key, said in names.items() if not _whole(source.get(key), 0)]

    def replay_parameters(self, bandwidth: int | None, downtime_ns: int | None) -> Parameters:
        """Return how to replay it: as it was run. Given is what the recording does not say.

        Raises UsageError where nobody says the bandwidth, and where both do and differ: predicted
        and real would be of two migrations.
        """
        bandwidth = self._as_run("max-bandwidth", bandwidth, "--bandwidth")
        if bandwidth is None:
            raise UsageError(
                f"{self.trace.path}: its max-bandwidth was not recorded; pass --bandwidth"
            )
        downtime_ns = self._as_run("downtime-limit", downtime_ns, "--downtime-limit", MS_NS)
        accelerator = str(self.trace.meta.source.get("accelerator", ""))
        # 0 is not set.
        switchover = self._number("avail-switchover-bandwidth", 0) or None
        return Parameters(
            bandwidth=bandwidth or _UNLIMITED,
            downtime_limit_ns=300 * MS_NS if downtime_ns is None else downtime_ns,
            profile="qemu",
            qemu=self.loop.version,
            switchover_bandwidth=switchover,
            log_mode="manual" if accelerator == "kvm" else "legacy",
            auto_converge=self._auto_converge(),
            dirty_limit=self._dirty_limit(),
            sync_waits=accelerator == "tcg",
            at_end="continue",
        )

    @property
    def hint_block_ns(self) -> int:
        """How long its guest takes to take, zero and report a block of 4 MiB.

        Under TCG as measured on a recording with hinting on (92 blocks in 1.06 s); with a processor
        that zeroes 4 GiB/s in the guest, and as long again for the rest.
        """
        return 11_500_000 if self.trace.meta.source.get("accelerator") == "tcg" else 2_000_000

    @property
    def version(self) -> QemuVersion | None:
        """The version of QEMU that ran it, None where that was not recorded."""
        return recorded_version(self.trace.meta.source)

    @property
    def loop(self) -> Loop:
        """The loop of that version, or of the nearest that is known."""
        limited = bool(self.capabilities.get("dirty-limit"))
        switchover = self._number("avail-switchover-bandwidth", 0) > 0
        return loop_of(self.trace.meta.source, dirty_limit=limited, switchover=switchover)

    def _as_run(self, key: str, given: int | None, option: str, unit: int = 1) -> int | None:
        """Return a parameter in bytes/s or ns, None where nobody says it."""
        recorded = self._number(key, 0) * unit if key in self.parameters else None
        if given is None or given == recorded:
            return recorded
        # A max-bandwidth of 0 is none, and how fast the line was may be said.
        if recorded is not None and (recorded or key != "max-bandwidth"):
            raise UsageError(
                f"{option}: {self.trace.name} ran with {key} {recorded // unit}, so that what is "
                "foretold with another could not be compared with it; leave it out, or try it by "
                "itself: dirtylog replay TRACE --profile qemu"
            )
        return given

    def _number(self, key: str, usual: int) -> int:
        """Return a parameter; raises TraceError where it is not a whole number of at least 0."""
        value = self.parameters.get(key, usual)
        if _whole(value, -1) < 0:
            raise TraceError(
                f'{self.trace.path}/migration.json: parameter "{key}" is {value!r}; wanted a whole '
                "number of at least 0"
            )
        return int(value)

    def _auto_converge(self) -> AutoConverge | None:
        if not self.capabilities.get("auto-converge"):
            return None
        usual, given = AutoConverge(), self.parameters
        return AutoConverge(
            trigger=self._number("throttle-trigger-threshold", usual.trigger),
            initial=self._number("cpu-throttle-initial", usual.initial),
            increment=self._number("cpu-throttle-increment", usual.increment),
            maximum=self._number("max-cpu-throttle", usual.maximum),
            tailslow=bool(given.get("cpu-throttle-tailslow", usual.tailslow)),
        )

    def _dirty_limit(self) -> DirtyLimit | None:
        if not self.capabilities.get("dirty-limit"):
            return None
        usual, source = DirtyLimit(), self.trace.meta.source
        return DirtyLimit(
            rate=self._number("vcpu-dirty-limit", usual.rate),
            period_ms=self._number("x-vcpu-dirty-limit-period", usual.period_ms),
            trigger=self._number("throttle-trigger-threshold", usual.trigger),
            vcpus=_whole(source.get("vcpus"), usual.vcpus),
            ring=_whole(source.get("dirty_ring_size"), usual.ring),
        )


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
