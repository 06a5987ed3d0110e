"""Random small traces and parameters, dense with coincidences, for tests that compare replays.

Times lie on a grid commensurate with the time of a copy, so that rows, copies, syncs and reports
often meet at one instant. Traces are consistent: no page is freed while free or taken while in use.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hypothesis import strategies as st

from tests.reference import BILLION, PAGE_HEADER, ReferenceParameters, ReferenceTrace

REQUESTS = ("once", "every-sync", "periodic", "resubmit")
RESOLUTIONS = ("write", "first-write", "epoch")
TOGGLE, WRITE, ZERO = range(3)


class Step(NamedTuple):
    """A wish: `assemble` makes of it what the state of the pages allows.

    TOGGLE moves a run on or off the free list, WRITE writes what of the run is in use (`odd`: all
    of it), ZERO makes the run zero.
    """

    t: int
    kind: int
    page: int
    length: int
    odd: bool = False


def runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Maximal runs `(page, count)` of consecutive pages."""
    start, count = 0, 0
    for page in sorted(pages):
        if count and page == start + count:
            count += 1
            continue
        if count:
            yield start, count
        start, count = page, 1
    if count:
        yield start, count


def assemble(
    page_size: int,
    pages: int,
    duration_ns: int,
    steps: list[Step],
    split: int | None = None,
    resolution: str = "write",
    epochs: list[int] | None = None,
) -> ReferenceTrace:
    """A consistent trace from wishes. `split` is the first page of a second block."""
    dirty: list[tuple[int, int, int]] = []
    freelist: list[tuple[int, int, int, bool]] = []
    zero: list[tuple[int, int, int]] = []
    free: set[int] = set()
    for step in sorted(steps, key=lambda step: (step.t, step.kind)):
        run = list(range(step.page, min(step.page + step.length, pages)))
        if step.kind == TOGGLE:
            is_free = run[0] in free
            same = [page for page in run if (page in free) == is_free]
            for page, count in runs(same):
                freelist.append((step.t, page, count, not is_free))
            free.symmetric_difference_update(same)
        elif step.kind == WRITE:
            written = [page for page in run if step.odd or page not in free]
            dirty.extend((step.t, page, count) for page, count in runs(written))
        else:
            zero.append((step.t, run[0], len(run)))
    blocks = [(0, pages)] if split is None else [(0, split), (split, pages - split)]
    times = sorted({e for e in epochs or [] if 0 < e <= duration_ns})
    if resolution == "first-write":
        dirty = _first_writes(dirty, times)
    elif resolution == "epoch":
        times = sorted({*times, duration_ns})
        dirty = _epoch_ends(dirty, times)
    else:
        times = []
    return ReferenceTrace(
        page_size, pages, duration_ns, dirty, freelist, zero, times, blocks, resolution
    )


def _first_writes(
    dirty: list[tuple[int, int, int]], epochs: list[int]
) -> list[tuple[int, int, int]]:
    """Only the first write to a page in each epoch; a write at an epoch's time is in the next."""
    seen: set[tuple[int, int]] = set()
    rows: list[tuple[int, int, int]] = []
    for t, first, count in dirty:
        epoch = sum(e <= t for e in epochs)
        fresh = [page for page in range(first, first + count) if (epoch, page) not in seen]
        seen.update((epoch, page) for page in fresh)
        rows.extend((t, page, length) for page, length in runs(fresh))
    return rows


def _epoch_ends(dirty: list[tuple[int, int, int]], epochs: list[int]) -> list[tuple[int, int, int]]:
    """Every write moved to the end of its epoch; those at 0 are the initial state."""
    written: dict[int, set[int]] = {}
    for t, first, count in dirty:
        end = min(e for e in epochs if e >= t) if t > 0 else 0
        written.setdefault(end, set()).update(range(first, first + count))
    return [(end, page, count) for end in sorted(written) for page, count in runs(written[end])]


class Bounds(NamedTuple):
    """How large a case is. `unit_ns` is the time of one page's copy."""

    page_size: int
    pages: int
    unit_ns: int
    grid_ns: int
    ticks: int

    def bandwidth(self) -> int:
        return (self.page_size + PAGE_HEADER) * BILLION // self.unit_ns


@st.composite
def _bounds(draw: st.DrawFn, max_pages: int) -> Bounds:
    pages = draw(st.integers(1, 12))
    if max_pages > 12 and draw(st.integers(0, 7)) == 0:
        pages = draw(st.integers(13, max_pages))
    unit = draw(st.sampled_from((10, 40, 100, 500, 1000)))
    grid = max(1, unit // draw(st.sampled_from((1, 1, 2, 8, 10))))
    ticks = draw(st.integers(1, 60 if pages <= 12 else 150)) * (unit // grid)
    return Bounds(draw(st.sampled_from((64, 4096))), pages, unit, grid, ticks)


@st.composite
def _steps(draw: st.DrawFn, bounds: Bounds) -> list[Step]:
    tick = st.one_of(st.just(0), st.integers(0, bounds.ticks))
    step = st.builds(
        Step,
        tick.map(lambda ticks: ticks * bounds.grid_ns),
        st.sampled_from((TOGGLE, TOGGLE, WRITE, WRITE, WRITE, ZERO)),
        st.integers(0, bounds.pages - 1),
        st.one_of(st.just(1), st.integers(1, bounds.pages)),
        st.integers(0, 9).map(lambda roll: roll == 9),
    )
    fewest = draw(st.sampled_from((0, 10, 30)))
    return draw(st.lists(step, min_size=fewest, max_size=fewest + 30))


@st.composite
def _trace(draw: st.DrawFn, bounds: Bounds, resolutions: tuple[str, ...]) -> ReferenceTrace:
    split = None
    if bounds.pages > 1 and draw(st.booleans()):
        split = draw(st.integers(1, bounds.pages - 1))
    ticks = st.lists(st.integers(1, bounds.ticks), max_size=5)
    return assemble(
        bounds.page_size,
        bounds.pages,
        bounds.ticks * bounds.grid_ns,
        draw(_steps(bounds)),
        split,
        draw(st.sampled_from(resolutions)),
        [tick * bounds.grid_ns for tick in draw(ticks)],
    )


@st.composite
def _parameters(draw: st.DrawFn, bounds: Bounds) -> ReferenceParameters:
    delay = st.one_of(st.just(0), st.integers(0, 24).map(lambda ticks: ticks * bounds.grid_ns))
    page_ns = bounds.page_size * BILLION // bounds.bandwidth() + 1
    return ReferenceParameters(
        bandwidth=bounds.bandwidth(),
        downtime_limit_ns=page_ns * draw(st.integers(0, 3)),
        log_mode=draw(st.sampled_from(("legacy", "manual"))),
        clear_chunk=draw(st.sampled_from((1, 2, 4, 64, 2**18))),
        hint_clears_log=draw(st.booleans()),
        request=draw(st.sampled_from((None, *REQUESTS))),
        request_delay_ns=draw(delay),
        report_delay_ns=draw(delay),
        handle_delay_ns=draw(delay),
        hint_interval_ns=draw(st.integers(1, 16)) * bounds.grid_ns,
        guest_hold=draw(st.sampled_from(("auto", "none", "ack", "done"))),
        min_order=draw(st.sampled_from((0, 0, 0, 1, 2))),
        max_rounds=draw(st.sampled_from((None, 1, 2, 3, 4))),
    )


@st.composite
def cases(
    draw: st.DrawFn, max_pages: int = 140, resolutions: tuple[str, ...] = RESOLUTIONS
) -> tuple[ReferenceTrace, ReferenceParameters]:
    """A trace and parameters on one grid. `drain` refuses the request axis `resubmit`."""
    bounds = draw(_bounds(max_pages))
    return draw(_trace(bounds, resolutions)), draw(_parameters(bounds))


@st.composite
def traces(
    draw: st.DrawFn, max_pages: int = 140, resolutions: tuple[str, ...] = RESOLUTIONS
) -> ReferenceTrace:
    """A trace alone."""
    return draw(_trace(draw(_bounds(max_pages)), resolutions))


def random_case(rng: random.Random) -> tuple[ReferenceTrace, ReferenceParameters]:
    """12 pages, random delays and a life of takes, writes and frees: races of reports.

    Log mode, hold and request axis are left at their defaults for the caller to replace.
    """
    unit = 100
    bounds = Bounds(64, 12, unit, rng.choice((100, 50, 25, 10)), 0)
    duration = unit * rng.randint(40, 120)
    steps = _churn(rng, bounds, duration)
    split = rng.choice((None, None, rng.randint(1, 11)))

    def delay() -> int:
        longest = rng.choice((0, 4, 10, 16)) * unit // bounds.grid_ns
        return rng.randint(0, longest) * bounds.grid_ns

    return assemble(64, 12, duration, steps, split), ReferenceParameters(
        bandwidth=bounds.bandwidth(),
        downtime_limit_ns=rng.randint(0, 3) * unit,
        clear_chunk=rng.choice((1, 2, 4, 2**18)),
        request_delay_ns=delay(),
        report_delay_ns=delay(),
        handle_delay_ns=delay(),
        hint_interval_ns=rng.randint(1, rng.choice((3, 8, 20))) * unit // rng.choice((1, 2)),
        max_rounds=rng.choice((None, 2, 3, 4, 6, 8)),
    )


def _churn(rng: random.Random, bounds: Bounds, duration: int) -> list[Step]:
    """Pages start free or in use; lives of take, writes, free follow one another."""

    def on_grid(low: int, high: int) -> int:
        return rng.randint(low // bounds.grid_ns, max(low, high) // bounds.grid_ns) * bounds.grid_ns

    steps: list[Step] = []
    calm = rng.choice((0.0, 0.2, 0.5))
    zero = rng.choice((0.0, 0.1))
    pace = rng.choice((4, 8, 16, 40))
    for page in range(bounds.pages):
        free = rng.random() < 0.6
        if free:
            steps.append(Step(0, TOGGLE, page, 1))
        if rng.random() < calm:
            continue
        t = on_grid(0, duration // 2)
        while t <= duration:
            if free or rng.random() < 0.3:
                steps.append(Step(t, TOGGLE, page, 1))
                free = not free
            for _ in range(0 if free else rng.randint(0, 2)):
                written = min(duration, t + on_grid(0, 4 * bounds.unit_ns))
                steps.append(Step(written, WRITE, page, 1, rng.random() < 0.02))
            if rng.random() < zero:
                steps.append(Step(t, ZERO, page, 1))
            t += on_grid(bounds.unit_ns, pace * bounds.unit_ns)
    return steps


def messy_case(rng: random.Random) -> tuple[ReferenceTrace, ReferenceParameters]:
    """Like `cases`, but seeded, quick and evenly spread: for comparing replays in volume."""
    unit = rng.choice((10, 40, 100, 500, 1000))
    grid = max(1, unit // rng.choice((1, 1, 2, 8, 10)))
    pages = rng.randint(1, 12) if rng.random() < 0.9 else rng.randint(13, 140)
    ticks = rng.randint(1, 60 + pages) * (unit // grid)
    bounds = Bounds(rng.choice((64, 4096)), pages, unit, grid, ticks)
    steps = [_messy_step(rng, bounds) for _ in range(rng.choice((5, 20, 60, 100)))]
    split = rng.randint(1, pages - 1) if pages > 1 and rng.random() < 0.5 else None
    epochs = [rng.randint(1, ticks) * grid for _ in range(rng.randint(0, 6))]
    resolution = rng.choice(RESOLUTIONS)
    trace = assemble(bounds.page_size, pages, ticks * grid, steps, split, resolution, epochs)
    return trace, _messy_parameters(rng, bounds)


def wide_case(rng: random.Random) -> tuple[ReferenceTrace, ReferenceParameters]:
    """A guest of many words that writes here and there: passes with few pages a word, or all."""
    unit = rng.choice((10, 100, 1000))
    grid = max(1, unit // rng.choice((1, 2, 8)))
    pages = rng.randint(150, 400)
    ticks = pages * rng.randint(2, 4) * (unit // grid)
    bounds = Bounds(rng.choice((64, 4096)), pages, unit, grid, ticks)
    hot = rng.randrange(pages)

    def step() -> Step:
        page = (
            rng.randrange(hot, min(hot + 80, pages)) if rng.random() < 0.3 else rng.randrange(pages)
        )
        kind = rng.choice((TOGGLE, ZERO) if rng.random() < 0.1 else (WRITE,))
        length = 1 if rng.random() < 0.95 else rng.randint(2, 100)
        return Step(rng.randint(0, ticks) * grid, kind, page, length, rng.random() < 0.1)

    steps = [step() for _ in range(pages * rng.choice((1, 2)))]
    split = rng.randint(1, pages - 1) if rng.random() < 0.3 else None
    epochs = [rng.randint(1, ticks) * grid for _ in range(rng.randint(0, 4))]
    trace = assemble(
        bounds.page_size, pages, ticks * grid, steps, split, rng.choice(RESOLUTIONS), epochs
    )
    return trace, _messy_parameters(rng, bounds)


def _messy_step(rng: random.Random, bounds: Bounds) -> Step:
    t = 0 if rng.random() < 0.15 else rng.randint(0, bounds.ticks) * bounds.grid_ns
    kind = rng.choice((TOGGLE, TOGGLE, WRITE, WRITE, WRITE, ZERO))
    page = rng.randrange(bounds.pages)
    length = 1 if rng.random() < 0.5 else rng.randint(1, bounds.pages)
    return Step(t, kind, page, length, rng.random() < 0.1)


def _messy_parameters(rng: random.Random, bounds: Bounds) -> ReferenceParameters:
    longest = rng.choice((0, 2, 8, 24))

    def delay() -> int:
        return rng.choice((0, rng.randint(0, longest))) * bounds.grid_ns

    page_ns = bounds.page_size * BILLION // bounds.bandwidth() + 1
    return ReferenceParameters(
        bandwidth=bounds.bandwidth(),
        downtime_limit_ns=page_ns * rng.randint(0, 3),
        log_mode=rng.choice(("legacy", "manual")),
        clear_chunk=rng.choice((1, 2, 4, 64, 2**18)),
        hint_clears_log=rng.random() < 0.5,
        request=rng.choice((None, *REQUESTS)),
        request_delay_ns=delay(),
        report_delay_ns=delay(),
        handle_delay_ns=delay(),
        hint_interval_ns=rng.randint(1, 16) * bounds.grid_ns,
        guest_hold=rng.choice(("auto", "none", "ack", "done")),
        min_order=rng.choice((0, 0, 0, 1, 2)),
        max_rounds=rng.choice((None, None, 1, 2, 3, 4)),
    )
