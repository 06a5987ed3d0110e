"""How fast replays are, beside a C program that does the same: `python -m tests.benchmark`.

Machines are noisy, so that both run in turn and the best of a few runs counts; go by the ratios.
A replay alone is measured in time of the processor, a whole process by the clock on the wall.
The guest is synthetic: 80 % of the writes fall on a fiftieth of its memory, the rest anywhere, at a
million writes a second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replay.engine import Migration
from replay.parameters import Parameters
from replay.profiles import profile
from replay.strategies import registered, strategy
from tracer import Block, Meta, Trace, TraceWriter

HERE = Path(__file__).parent
RATE = 1_000_000
PAGE = 4096
CHUNK = 1 << 20


@dataclass(frozen=True)
class Guest:
    """A trace, and its columns as the C program reads them."""

    trace: Path
    times: Path
    pages: Path
    rows: int
    guest_pages: int

    def remove(self) -> None:
        self.times.unlink()
        self.pages.unlink()
        shutil.rmtree(self.trace)


def make(folder: Path, gib: int, rows: int, compression: str = "none") -> Guest:
    """Write a guest's trace, a chunk of rows at a time."""
    pages, rng, now = gib << 18, np.random.default_rng(7), 0
    name = f"{gib}G-{rows}-{len(list(folder.iterdir()))}"
    guest = Guest(folder / f"{name}.trace", folder / f"{name}.t", folder / f"{name}.p", rows, pages)
    with (
        TraceWriter(guest.trace, compression=compression) as writer,
        guest.times.open("wb") as times,
        guest.pages.open("wb") as numbers,
    ):
        for at in range(0, rows, CHUNK):
            size = min(CHUNK, rows - at)
            t = now + np.cumsum(rng.integers(0, 2 * 10**9 // RATE, size)) + 1
            now = int(t[-1])
            hot = rng.random(size) < 0.8
            high = np.where(hot, max(pages // 50, 1), pages)
            page = (rng.random(size) * high).astype(np.uint64)
            writer.write("dirty", t_ns=t, page=page, count=np.ones(size, np.uint32))
            t.tofile(times)
            page.tofile(numbers)
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


def in_python(guest: Guest, parameters: Parameters) -> tuple[float, dict[str, int], Migration]:
    trace = Trace.open(guest.trace)
    trace.validate(digests=False)  # the file's pages are mapped from here on, as in the C program
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


def process(*arguments: str) -> float:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "analyses.commands", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=HERE.parent)
    return time.perf_counter() - begin


def kernel(guest: Guest, program: Path | None, parameters: Parameters, times: int) -> None:
    _, counts, migration = in_python(guest, parameters)
    work = guest.rows + counts["pages_sent"]
    state = sum(
        getattr(migration.memory, name).nbytes
        for name in ("state", "written", "hot", "skipped", "missed", "harvested")
    )
    print(f"bytes of bitmaps a page   {state / guest.guest_pages:8.2f}")
    if program is None:
        (ours,) = best(times, lambda: in_python(guest, parameters)[0])
    else:
        said = in_c(program, guest, parameters)
        assert all(said[key] == value for key, value in counts.items()), (said, counts)
        ours, theirs = best(
            times,
            lambda: in_python(guest, parameters)[0],
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


def growth(folder: Path, program: Path | None, most: int, times: int, *, wider: bool) -> None:
    """Ever longer traces: of a guest that grows with them, or of one guest in endless passes."""
    rows = 1_000_000
    parameters = Parameters() if wider else Parameters(downtime_limit_ns=0)
    while rows <= most:
        guest = make(folder, rows // 1_000_000 if wider else 1, rows)
        _, counts, _ = in_python(guest, parameters)
        work = rows + counts["pages_sent"]
        works = [lambda guest=guest: in_python(guest, parameters)[0]]
        if program is not None:
            works.append(lambda guest=guest: in_c(program, guest, parameters)["seconds"])
        took = best(times, *works)
        each = [f"{one / work * 1e9:6.2f}" for one in took]
        in_c_too = f"   in C {each[1]}" if program is not None else ""
        print(f"{rows:13,} writes   {took[0]:8.3f} s   {each[0]} ns a row or copy{in_c_too}")
        guest.remove()
        rows *= 10


def compression(folder: Path, gib: int, rows: int) -> None:
    for name in ("none", "lz4", "zstd"):
        guest = make(folder, gib, rows, name)
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
    parser.add_argument("--growth", type=float, default=1e7, help="longest trace of the curve")
    parser.add_argument("--folder", type=Path, help="for traces; they are removed at the end")
    options = parser.parse_args()
    parameters = Parameters(bandwidth=int(options.bandwidth))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        program = yardstick(folder)
        if program is None:
            print("no C compiler: no ratios")
        guest = make(folder, options.gib, int(options.events))
        print(f"{options.gib} GiB, {guest.rows:,} writes; the best of {options.times} runs\n")
        process("replay", str(guest.trace), "-s", "precopy")  # compiled from here on
        kernel(guest, program, parameters, options.times)
        whole(guest, program, parameters, options.times)
        print("\nGrowth: 1 GiB of guest for every million writes")
        growth(folder, program, int(options.growth), options.times, wider=True)
        print("\nGrowth: a guest of 1 GiB, in passes without end")
        growth(folder, program, int(options.growth), options.times, wider=False)
        print("\nCompression of the dirty rows")
        compression(folder, options.gib, min(guest.rows, 10_000_000))
        begin = min(process("--help") for _ in range(options.times))
        small = str(HERE.parent / "sample_traces" / "race.trace")
        replayed = min(process("replay", small, "--json") for _ in range(options.times))
        print(f"\n--help                    {begin:8.2f} s")
        print(f"replay of race.trace      {replayed:8.2f} s")


if __name__ == "__main__":
    main()
