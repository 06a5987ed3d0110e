"""Planted hint races: pages that a replay must find lost, and neighbours that it must not.

Everything is laid out around one replay (profile `rounds`; bandwidth, downtime limit and delays as
given), in which a report is asked for at 0, the guest looks at its free list at `snapshot` and the
host handles the report at `handled`:

- `straddle` (log mode legacy): round 1 passes zero pages, copies some content and ends at `sync`,
  between snapshot and arrival. A planted page is free in the snapshot, passed by the cursor, then
  taken and written before the sync, which harvests its bit; the handling clears it. Busy pages,
  written in round 1, keep round 2 going until after the handling.
- `uncleared` (log mode manual, guest hold none): the cursor is busy in the first chunk of the clear
  bitmap. A planted page lies in a later one, whose log bits are all still set: the write before
  the handling leaves no new record, and the handling clears the old one with the page.

The decoys' lives differ in one step each: see `_DECOYS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from tracer.errors import UsageError
from tracer.rows import Int64s
from tracer.synth.guest import SECOND_NS, Guest, Region
from tracer.synth.kinds.base import Common
from tracer.synth.planted import Planted
from tracer.words import duration

Plant = Literal["straddle", "uncleared"]

#: Bytes on the wire of a page besides its content, and of a zero page.
_HEADER, _ZERO = 8, 9
#: The least time to take and write the planted pages in: ns.
_LEAST_NS = 10_000

_LOST = {
    "straddle": ("hint-async", "hint-flush-before", "hint-flush", "hint-periodic", "hint-resubmit"),
    "uncleared": (
        "hint-wait", "hint-async", "hint-first-pass", "hint-drain", "hint-flush-before",
        "hint-flush", "hint-periodic", "hint-resubmit", "hint-tagged",
    ),
}  # fmt: skip
_DECOYS = {
    "early": "taken and written before the snapshot",
    "logged": "in the report, taken, and written after the sync: its log bit survives",
    "after": "in the report, taken and written after the handling",
    "healed": "as if planted, but written again after the handling",
    "freed": "as if planted, but freed again",
}


@dataclass(frozen=True)
class Options(Common):
    """Options of planted races.

    races: how many to plant; decoys: of each sort. The rest are the replay's parameters:
    bandwidth in bytes/s, times in ns, clear_chunk in pages.
    """

    MEMORY: ClassVar[int] = 2 << 30
    DURATION_NS: ClassVar[int] = 2 * SECOND_NS

    UNUSED: ClassVar[frozenset[str]] = frozenset({"alloc_order", "background", "stale"})

    rate: int = 1_000
    plant: Plant = "straddle"
    races: int = 8
    decoys: int = 8
    bandwidth: int = 1_250_000_000
    downtime_limit: int = 300_000_000
    request_delay: int = 1_000_000
    report_delay: int = 10_000_000
    handle_delay: int = 1_000_000
    hint_interval: int = 100_000_000
    clear_chunk: int = 1 << 18


def build(guest: Guest, options: Options) -> Planted:
    """Return the planted guest; raises UsageError where it and the replay leave no room."""
    if options.races < 1 or options.decoys < 0:
        raise UsageError("races: at least 1; decoys: at least 0")
    return (_straddle if options.plant == "straddle" else _uncleared)(guest, options)


@dataclass(frozen=True)
class _Times:
    """Instants of the replay in ns: of the report, and of the tick that resubmit waits for."""

    snapshot: int
    arrival: int
    handled: int
    tick: int

    @classmethod
    def of(cls, options: Options) -> _Times:
        snapshot = options.request_delay
        arrival = snapshot + options.report_delay
        handled = arrival + options.handle_delay
        interval = max(options.hint_interval, 1)
        return cls(snapshot, arrival, handled, (handled // interval + 1) * interval)


def _straddle(guest: Guest, options: Options) -> Planted:
    times, rate = _Times.of(options), options.bandwidth
    size = guest.page_size + _HEADER
    # Round 1 ends before the report arrives, if it can: a queue that is flushed drops it else.
    before = times.arrival if options.report_delay else times.handled
    busy = max(
        _pages(options.downtime_limit, rate, guest.page_size), _pages(times.tick, rate, size)
    ) * 21 // 20 + 1  # fmt: skip
    noise = _pages(options.downtime_limit, rate, guest.page_size) // 10
    early = options.decoys if times.snapshot >= 2 * _LEAST_NS else 0
    planted = options.races + 4 * options.decoys
    zeros_ns = _ns(_ZERO * guest.pages + early * size, rate)
    begin = max(times.snapshot, zeros_ns)
    sync = (begin + before) // 2
    content = (_bytes(sync, rate) - _ZERO * guest.pages - early * size) // size
    sync = _ns(_ZERO * (guest.pages - content - early) + (content + early) * size, rate)
    if min(sync - begin, before - sync) < _LEAST_NS or content < 1:
        raise UsageError(
            f"race: round 1 passes {guest.pages} zero pages in {duration(zeros_ns)} and must end "
            f"between the snapshot ({duration(times.snapshot)}) and {duration(before)}; make the "
            "guest smaller, or the bandwidth or --report-delay larger"
        )
    idle = guest.pages - busy - noise - planted - early - content
    _must_fit(guest, idle, busy + noise + planted + early + content)
    regions = _regions(
        ("busy", busy), ("noise", noise), ("idle", idle), ("planted and decoys", planted),
        ("early decoys", early), ("content", content),
    )  # fmt: skip
    passed = _ns(_ZERO * (busy + noise), rate) + 1
    end = sync + _ns((busy + noise + planted) * size, rate)
    _must_last(guest, end)
    free = [(regions[2].first, idle + planted + early)]
    race = Planted(guest, regions, free, regions[5], (regions[1], passed), {})
    rng = guest.rng("plant")
    race.writes.append(
        (np.array([(passed + sync) // 2]), np.array([regions[0].first]), np.array([busy]))
    )
    sorts = _shuffled(rng, regions[3], options, ("logged", "after", "healed", "freed"))
    late = (times.handled, (times.handled + times.tick) // 2)
    _plant(race, rng, sorts, (begin, sync))
    race.live(sorts["logged"], *_pairs(rng, (sync, times.handled), options.decoys))
    race.live(sorts["after"], *_pairs(rng, late, options.decoys))
    sorts["early"] = np.arange(regions[4].first, regions[4].first + early)
    race.live(sorts["early"], *_pairs(rng, (0, min(times.snapshot, zeros_ns // 2)), early))
    again = rng.integers(late[0] + 1, late[1], options.decoys)
    race.writes.append((again, sorts["healed"], np.ones_like(again)))
    race.moves.append((rng.integers(sync + 1, times.handled, options.decoys), sorts["freed"], True))
    lost = _LOST["straddle"] if options.report_delay else ("hint-async",)
    _tell(race, options, sorts, lost, {"log_mode": "legacy"}, times, sync)
    return race


def _uncleared(guest: Guest, options: Options) -> Planted:
    times, rate = _Times.of(options), options.bandwidth
    size, chunk = guest.page_size + _HEADER, options.clear_chunk
    # The cursor copies these, in the first chunk, until every strategy has handled its report.
    until = times.tick + 2 * times.handled + _LEAST_NS
    content = max(_pages(until, rate, size) + 1, 1)
    noise = _pages(options.downtime_limit, rate, guest.page_size) // 10
    planted = options.races + 3 * options.decoys
    first = max(chunk, content + noise)
    _must_fit(guest, guest.pages - first - planted, first + planted)
    if content > chunk:
        raise UsageError(
            f"race: the first {content} pages are copied before the last report is handled, and "
            f"a chunk has only {chunk}; make --clear-chunk larger, or delays or bandwidth smaller"
        )
    if times.handled - times.snapshot < _LEAST_NS:
        raise UsageError("race: report and handle delay together must be at least 10 us")
    between = first - content - noise
    regions = _regions(
        ("content", content), ("noise", noise), ("in use", between),
        ("planted and decoys", planted), ("idle", guest.pages - first - planted),
    )  # fmt: skip
    end = _ns(content * size + _ZERO * (guest.pages - content) + (noise + planted) * size, rate)
    _must_last(guest, 2 * end)
    free = [(first, guest.pages - first)]
    race = Planted(guest, regions, free, regions[0], (regions[1], 0), {})
    rng = guest.rng("plant")
    sorts = _shuffled(rng, regions[3], options, ("after", "early", "freed"))
    _plant(race, rng, sorts, (times.snapshot, times.handled))
    race.live(
        sorts["after"],
        *_pairs(rng, (times.tick, times.tick + times.handled), options.decoys),
    )
    if times.snapshot >= 2 * _LEAST_NS:
        race.live(sorts["early"], *_pairs(rng, (0, times.snapshot), options.decoys))
    gone = rng.integers(times.handled, times.tick, options.decoys)
    race.moves.append((gone, sorts["freed"], True))
    mode = {"log_mode": "manual", "clear_chunk": chunk, "guest_hold": "none"}
    _tell(race, options, sorts, _LOST["uncleared"], mode, times, None)
    return race


def _plant(
    race: Planted, rng: np.random.Generator, sorts: dict[str, Int64s], window: tuple[int, int]
) -> None:
    """Let the planted pages, and those that only look so, be taken and written in the window."""
    for sort in ("planted", "healed", "freed"):
        if sort in sorts:
            taken, written = _pairs(rng, window, len(sorts[sort]))
            race.live(sorts[sort], taken, written)
            if sort == "planted":
                race.facts["planted"] = [
                    {"page": page, "t_taken": take, "t_written": write}
                    for page, take, write in zip(
                        sorts[sort].tolist(), taken.tolist(), written.tolist(), strict=True
                    )
                ]


def _tell(
    race: Planted,
    options: Options,
    sorts: dict[str, Int64s],
    lost: tuple[str, ...],
    mode: dict[str, Any],
    times: _Times,
    sync: int | None,
) -> None:
    """Write down what a replay must find, and with which parameters."""
    planted = race.facts["planted"]
    parameters = {
        "profile": "rounds", "bandwidth": options.bandwidth,
        "downtime_limit_ns": options.downtime_limit,
        "request_delay_ns": options.request_delay, "report_delay_ns": options.report_delay,
        "handle_delay_ns": options.handle_delay, "hint_interval_ns": options.hint_interval, **mode,
    }  # fmt: skip
    race.facts = {
        "plant": options.plant,
        "lost_under": list(lost),
        "parameters": parameters,
        "t_snapshot": times.snapshot,
        "t_harvested": sync,
        "t_skipped": {
            name: times.tick if name == "hint-resubmit" else times.handled for name in lost
        },
        "planted": planted,
        "decoys": {
            name: {"life": _DECOYS[name], "pages": sorted(pages.tolist())}
            for name, pages in sorts.items()
            if name != "planted"
        },
    }


def _shuffled(
    rng: np.random.Generator, region: Region, options: Options, decoys: tuple[str, ...]
) -> dict[str, Int64s]:
    """Deal a region's pages out to the planted ones and to sorts of decoys, at random."""
    pages = region.first + rng.permutation(region.pages)
    dealt = {"planted": np.sort(pages[: options.races])}
    for i, name in enumerate(decoys):
        begin = options.races + i * options.decoys
        dealt[name] = np.sort(pages[begin : begin + options.decoys])
    return dealt


def _pairs(rng: np.random.Generator, window: tuple[int, int], n: int) -> tuple[Int64s, Int64s]:
    """Return n times to take and n to write after them, ns, all inside the window."""
    begin, end = window
    margin = max((end - begin) // 10, 1)
    taken = rng.integers(begin + margin, (begin + end) // 2, n)
    return taken, rng.integers(taken + 1, end - margin, n)


def _regions(*parts: tuple[str, int]) -> list[Region]:
    first, regions = 0, []
    for name, pages in parts:
        regions.append(Region(name, first, pages))
        first += pages
    return regions


def _must_fit(guest: Guest, room: int, needed: int) -> None:
    if room < 0:
        raise UsageError(
            f"race: {needed} pages are needed to keep the link busy and to plant in, the guest has "
            f"{guest.pages}; make it larger, or the bandwidth, the downtime limit or the delays "
            "smaller"
        )


def _must_last(guest: Guest, end: int) -> None:
    if end >= guest.duration_ns:
        raise UsageError(
            f"race: the migration may last {duration(end)}, the trace "
            f"{duration(guest.duration_ns)}; make --duration longer"
        )


def _ns(size: int, rate: int) -> int:
    return size * SECOND_NS // rate


def _bytes(ns: int, rate: int) -> int:
    return ns * rate // SECOND_NS


def _pages(ns: int, rate: int, size: int) -> int:
    return _bytes(ns, rate) // size
