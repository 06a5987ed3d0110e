"""How fast a replay is: `pytest -m benchmark -s`. Nothing here judges, and nothing runs by default.

A synthetic guest: 80 % of the writes on a fiftieth of the memory, the rest anywhere.
"""

from __future__ import annotations

import numpy as np
import pytest

from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import strategy
from tracer import Block, Meta, Trace, TraceWriter

PAGES = 16 << 18  # 16 GiB
EVENTS = 10_000_000
SECONDS = 60


@pytest.fixture(scope="module")
def busy(tmp_path_factory) -> Trace:
    rng = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("speed") / "busy.trace"
    times = np.sort(rng.integers(1, SECONDS * 10**9, EVENTS))
    hot = rng.random(EVENTS) < 0.8
    pages = np.where(hot, rng.integers(0, PAGES // 50, EVENTS), rng.integers(0, PAGES, EVENTS))
    with TraceWriter(path, compression="none") as writer:
        for at in range(0, EVENTS, 1 << 20):
            part = slice(at, at + (1 << 20))
            count = np.ones(len(times[part]))
            writer.write("dirty", t_ns=times[part], page=pages[part], count=count)
        writer.write("freelist", t_ns=[0], page=[0], count=[PAGES // 4], free=[True])
        meta = Meta(4096, PAGES, SECONDS * 10**9, (Block("ram", 0, PAGES),), "write", "event")
        writer.finish(meta)
    return Trace.open(path)


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["precopy", "hint-tagged"])
@pytest.mark.parametrize("mode", ["legacy", "manual"])
def test_replay(benchmark, busy, name, mode):
    parameters = Parameters(bandwidth=300_000_000, log_mode=mode, downtime_limit_ns=10_000_000)
    replay(busy, strategy(name), parameters)
    (run,) = benchmark.pedantic(replay, (busy, strategy(name), parameters), rounds=5)
    done = run.result.pages_sent + run.result.zero_pages_sent
    benchmark.extra_info["copies and rows per second"] = round(
        (done + EVENTS) / benchmark.stats.stats.min
    )
    assert run.result.rounds > 1


@pytest.mark.benchmark
def test_validate(benchmark, busy):
    busy.validate()
    benchmark.pedantic(busy.validate, rounds=5)
