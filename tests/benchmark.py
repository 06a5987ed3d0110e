"""How fast replays are, beside a C program that does the same: `python -m tests.benchmark`.

Machines are noisy, so that both run in turn and the best of a few runs counts; go by the ratios.
A replay alone is measured in time of the processor, a whole process by the clock on the wall.
The guest is synthetic: 80 % of the writes fall on a fiftieth of its memory, the rest anywhere, at a
million writes a second.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replay.engine import Migration
from replay.kernels.bits import fetch_ahead
from replay.parameters import Parameters
from replay.profiles import profile
from replay.strategies import registered, strategy
from tracer import Block, Meta, Trace, TraceWriter
from tracer.compiled import compiled

HERE = Path(__file__).parent
RATE = 1_000_000
PAGE = 4096
GIB = 1 << 18
#: Pages of a guest that makes twenty passes a second.
SMALL = GIB
CHUNK = 1 << 20
ONE, SIX, AHEAD = np.uint64(1), np.uint64(6), np.uint64(128)
#: The C program reads columns of its own, 16 bytes a row.
LONGEST_IN_C = 10**8
#: What takes less than this is done again within it, s: one of 2 ms is too easily disturbed.
SHORT_S = 0.5
#: More than a processor's caches hold.
CACHES = np.zeros(1 << 24, np.uint64)


@dataclass(frozen=True)
class Guest:
    """A trace, and its columns as the C program reads them; without one these are not written."""

    trace: Path
    times: Path
    pages: Path
    rows: int
    guest_pages: int

    def remove(self) -> None:
        self.times.unlink(missing_ok=True)
        self.pages.unlink(missing_ok=True)
        shutil.rmtree(self.trace)

    def bring_to_memory(self) -> None:
        """Read the rows' file once, since a disk would set the pace; as far as memory holds it."""
        with (self.trace / "dirty.arrow").open("rb") as file:
            while file.read(1 << 24):
                pass

    def open(self) -> Trace:
        """Return the trace, validated: the file's pages are mapped, as the C program has them."""
        trace = Trace.open(self.trace)
        trace.validate(digests=False)
        return trace


def make(
    folder: Path, pages: int, rows: int, compression: str = "none", *, in_c: bool = True
) -> Guest:
    """Write a guest's trace, a chunk of rows at a time."""
    rng, now = np.random.default_rng(7), 0
    name = f"{pages}-{rows}-{len(list(folder.iterdir()))}"
    guest = Guest(folder / f"{name}.trace", folder / f"{name}.t", folder / f"{name}.p", rows, pages)
    nowhere = Path(os.devnull)
    with (
        TraceWriter(guest.trace, compression=compression) as writer,
        (guest.times if in_c else nowhere).open("wb") as times,
        (guest.pages if in_c else nowhere).open("wb") as numbers,
    ):
        for at in range(0, rows, CHUNK):
            size = min(CHUNK, rows - at)
            t = now + np.cumsum(rng.integers(0, 2 * 10**9 // RATE, size)) + 1
            now = int(t[-1])
            hot = rng.random(size) < 0.8
            high = np.where(hot, max(pages // 50, 1), pages)
            page = (rng.random(size) * high).astype(np.uint64)
            writer.write("dirty", t_ns=t, page=page, count=np.ones(size, np.uint32))
            times.write(t.data)
            numbers.write(page.data)
        writer.write("freelist", t_ns=[0], page=[pages - pages // 4], count=[pages // 4], free=[1])
        writer.finish(Meta(PAGE, pages, now, (Block("ram", 0, pages),), "write", "event"))
    return guest


def yardstick(folder: Path) -> Path | None:
    """Compile the C program; None without a compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    program = folder / "yardstick"
    flags = ["-O3", "-march=native", "-o", str(program)]
    subprocess.run([compiler, *flags, str(HERE / "yardstick.c")], check=True)
    return program


def in_c(program: Path, guest: Guest, parameters: Parameters) -> dict[str, float]:
    numbers = [
        guest.rows, guest.guest_pages, PAGE, parameters.bandwidth, parameters.downtime_limit_ns,
        Trace.open(guest.trace).meta.duration_ns,
    ]  # fmt: skip
    command = [str(program), str(guest.times), str(guest.pages), *map(str, numbers)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def in_python(trace: Trace, parameters: Parameters) -> tuple[float, dict[str, int], Migration]:
    begin = time.process_time()
    migration = Migration(trace, strategy("precopy"), parameters)
    outcome = profile("rounds")(migration)
    if outcome.stop_ns is not None:
        migration.memory.judge()
    took = time.process_time() - begin
    counts = {
        "rounds": migration.round,
        "pages_sent": sum(row.pages_sent for row in outcome.rounds),
        "total_ns": outcome.end_ns,
    }
    return took, counts, migration


def best(times: int, *works: Callable[[], float]) -> list[float]:
    """Return the shortest time (s) of each of the works, done in turn."""
    rounds = [[work() for work in works] for _ in range(times)]
    return [min(column) for column in zip(*rounds, strict=True)]


def again_and_again(work: Callable[[], float]) -> float:
    """Return the shortest time (s) of what is done so often that a short one has its chance too.

    It finds nothing of the time before in the processor's caches, as a long one would not.
    """
    begin, shortest = time.perf_counter(), math.inf
    while True:
        CACHES[:] += 1
        shortest = min(shortest, work())
        if time.perf_counter() - begin > SHORT_S:
            return shortest


def process(*arguments: str) -> float:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "analyses.commands", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=HERE.parent)
    return time.perf_counter() - begin


def kernel(guest: Guest, program: Path | None, parameters: Parameters, times: int) -> None:
    trace = guest.open()
    _, counts, migration = in_python(trace, parameters)
    work = migration.rows + counts["pages_sent"]
    state = sum(
        getattr(migration.memory, name).nbytes
        for name in ("state", "written", "hot", "skipped", "missed", "harvested")
    )
    print(f"bytes of bitmaps a page   {state / guest.guest_pages:8.2f}")
    if program is None:
        (ours,) = best(times, lambda: in_python(trace, parameters)[0])
    else:
        said = in_c(program, guest, parameters)
        assert all(said[key] == value for key, value in counts.items()), (said, counts)
        ours, theirs = best(
            times,
            lambda: in_python(trace, parameters)[0],
            lambda: in_c(program, guest, parameters)["seconds"],
        )
        print(f"C program                 {theirs:8.3f} s   {work / theirs / 1e6:8.1f} M a second")
    print(f"replay of precopy         {ours:8.3f} s   {work / ours / 1e6:8.1f} M a second")
    if program is not None:
        print(f"replay / C                {ours / theirs:8.2f}")


def whole(guest: Guest, program: Path | None, parameters: Parameters, times: int) -> None:
    rate = ("--bandwidth", f"{parameters.bandwidth}B/s", "--json")

    def c() -> float:
        begin = time.perf_counter()
        in_c(program, guest, parameters)
        return time.perf_counter() - begin

    def one() -> float:
        return process("replay", str(guest.trace), "-s", "precopy", *rate)

    def every() -> float:
        return process("replay", str(guest.trace), *rate)

    if program is None:
        ours, together = best(times, one, every)
    else:
        theirs, ours, together = best(times, c, one, every)
        print(f"whole process, C          {theirs:8.2f} s")
    print(f"whole process, precopy    {ours:8.2f} s")
    count = len(registered())
    cores = len(os.sched_getaffinity(0))
    print(f"all {count} strategies         {together:8.2f} s   {together / ours:8.2f} times one, "
          f"{cores} cores")  # fmt: skip


@compiled
def _set_bits(written, t, page, count, until):  # type: ignore[no-untyped-def]
    end = np.uint64(len(t))
    at = np.uint64(0)
    while at < end and t[at] <= until:
        fetch_ahead(written, np.uint64(page[min(at + AHEAD, end - ONE)]) >> SIX)
        if count[at] == 1:
            written[np.uint64(page[at]) >> SIX] |= ONE << np.uint64(page[at] & 63)
        at += ONE


def bits_alone(trace: Trace) -> float:
    """Set one bit a row, the least that any replay does, as fast as may be; return the s taken."""
    written = np.zeros((trace.meta.pages + 63) // 64, np.uint64)
    until = trace.meta.duration_ns
    begin = time.process_time()
    for rows in trace.rows("dirty"):
        _set_bits(written, rows.t, rows.page, rows.count, until)
    return time.process_time() - begin


def growth(
    folder: Path, program: Path | None, lengths: list[int], times: int, *, wider: bool
) -> None:
    """Ever longer traces: of a guest that grows with them, or of one guest in endless passes.

    All of them in turn, so that a noisy minute is one for each. Beside each what it takes to set
    a bit a row: where that grows too, it is the machine's memory that is slower for more of it.
    """
    parameters = Parameters() if wider else Parameters(downtime_limit_ns=0)
    works: list[Callable[[], float]] = []
    amounts: list[int] = []
    guests = []
    for length in lengths:
        compared = program is not None and length <= LONGEST_IN_C
        pages = length // 1_000_000 * GIB if wider else SMALL
        guest = make(folder, pages, length, in_c=compared)
        guests.append(guest)
        trace = guest.open()
        _, counts, migration = in_python(trace, parameters)
        work = migration.rows + counts["pages_sent"]
        amounts += [work, guest.rows, work]

        def replayed(guest: Guest = guest, trace: Trace = trace) -> float:
            guest.bring_to_memory()
            return again_and_again(lambda: in_python(trace, parameters)[0])

        works.append(replayed)
        works.append(lambda trace=trace: again_and_again(lambda: bits_alone(trace)))
        works.append(
            (
                lambda guest=guest: again_and_again(
                    lambda: in_c(program, guest, parameters)["seconds"]
                )
            )
            if compared
            else lambda: math.nan
        )
    costs = [
        seconds / amount * 1e9 for seconds, amount in zip(best(times, *works), amounts, strict=True)
    ]
    for i, length in enumerate(lengths):
        ours, bit, c = costs[3 * i : 3 * i + 3]
        in_c_too = "" if math.isnan(c) else f"   in C {c:6.2f}"
        print(
            f"{length:13,} writes   {ours:6.2f} ns a row or copy   a bit a row {bit:6.2f}{in_c_too}"
        )
    say_spread(costs[::3])
    for guest in guests:
        guest.remove()


def one_guest(folder: Path, lengths: list[int], times: int) -> None:
    """The first so many writes of one guest, and the copies of its first pass beside them.

    Without what a guest costs before its first write, which goes with its memory alone.
    """
    longest = max(lengths)
    guest = make(folder, longest // 1_000_000 * GIB, longest, in_c=False)
    trace = guest.open()
    ends = list(_times_of(trace, lengths))

    def prefixes(ends: list[int]) -> list[float]:
        migration = Migration(trace, strategy("precopy"), Parameters())
        migration.begin()
        migration.memory.written[:] = 0  # the system gives memory only when it is written to
        guest.bring_to_memory()
        CACHES[:] += 1
        begin, costs = time.process_time(), []
        for end in ends:
            migration.sweep(end)
            took = time.process_time() - begin
            costs.append(took / (migration.rows + migration.copies) * 1e9)
        return costs

    # The first million takes some ms, of which a processor that warms up takes up to two more: what
    # is shorter is done more often.
    runs = [prefixes(ends[:upto]) for _ in range(times) for upto in range(1, len(ends) + 1)]
    costs = [min(run[i] for run in runs if len(run) > i) for i in range(len(ends))]
    for length, cost in zip(lengths, costs, strict=True):
        print(f"{length:13,} writes   {cost:6.2f} ns a row or copy")
    say_spread(costs)
    guest.remove()


def _times_of(trace: Trace, lengths: list[int]) -> Iterator[int]:
    """Yield the instant of the last of the first so many rows, for ascending lengths."""
    past, waiting = 0, deque(lengths)
    for rows in trace.rows("dirty"):
        while waiting and waiting[0] <= past + len(rows.t):
            yield int(rows.t[waiting.popleft() - past - 1])
        past += len(rows.t)


def say_spread(costs: list[float]) -> None:
    middle = (max(costs) + min(costs)) / 2
    print(f"within {(max(costs) - middle) / middle * 100:.0f} % of their middle")


def compression(folder: Path, pages: int, rows: int) -> None:
    for name in ("none", "lz4", "zstd"):
        guest = make(folder, pages, rows, name)
        begin = time.process_time()
        for _ in Trace.open(guest.trace).rows("dirty"):
            pass
        took = time.process_time() - begin
        size = (guest.trace / "dirty.arrow").stat().st_size
        print(
            f"{name:5} {size / rows:6.2f} bytes a row   read in {took / rows * 1e9:6.2f} ns a row"
        )
        guest.remove()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    parser.add_argument("--gib", type=int, default=16, help="memory of the guest")
    parser.add_argument("--events", type=float, default=2e7, help="writes in the trace")
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="bytes/s")
    parser.add_argument("--times", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument("--growth", default="1e6,1e7", help="lengths of the traces of the curves")
    parser.add_argument("--only-growth", action="store_true", help="the curves alone")
    parser.add_argument("--folder", type=Path, help="for traces; they are removed at the end")
    options = parser.parse_args()
    parameters = Parameters(bandwidth=int(options.bandwidth))
    lengths = [int(float(length)) for length in options.growth.split(",")]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        program = yardstick(folder)
        if program is None:
            print("no C compiler: no ratios")
        rows = int(options.events)
        if not options.only_growth:
            guest = make(folder, options.gib * GIB, rows)
            print(f"{options.gib} GiB, {rows:,} writes; the best of {options.times} runs\n")
            process("replay", str(guest.trace), "-s", "precopy")  # compiled from here on
            kernel(guest, program, parameters, options.times)
            whole(guest, program, parameters, options.times)
        print("\nGrowth: 1 GiB of guest for every million writes")
        growth(folder, program, lengths, options.times, wider=True)
        print("\nGrowth: a guest of 1 GiB, in passes without end")
        growth(folder, program, lengths, options.times, wider=False)
        print(f"\nGrowth: the first writes of a guest of {max(lengths) // 1_000_000} GiB")
        one_guest(folder, sorted(lengths), options.times)
        if options.only_growth:
            return
        print("\nCompression of the dirty rows")
        compression(folder, options.gib * GIB, min(rows, 10_000_000))
        begin = min(process("--help") for _ in range(options.times))
        small = str(HERE.parent / "sample_traces" / "race.trace")
        replayed = min(process("replay", small, "--json") for _ in range(options.times))
        print(f"\n--help                    {begin:8.2f} s")
        print(f"replay of race.trace      {replayed:8.2f} s")


if __name__ == "__main__":
    main()
