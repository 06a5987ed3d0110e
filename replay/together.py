"""Replays side by side: the compiled kernels let go of the interpreter, so threads are enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from replay.parameters import Parameters
from replay.replay import needed_bytes, replay
from replay.result import Replay
from replay.scenarios import Readings
from replay.strategies import Strategy
from tracer.trace import Trace

#: Told the strategy and how many dirty rows of the scenario under way are replayed.
Told = Callable[[Strategy, int], None]


def replay_all(
    trace: Trace, strategies: Sequence[Strategy], parameters: Parameters, told: Told
) -> list[list[Replay]]:
    """Replay `trace` (validated) under each strategy; return each one's scenarios, in order.

    As many at once as there are processors and as fit into half of the memory; what comes back
    does not depend on it. `told` is called from several threads. Raises what `replay` raises, for
    the first strategy that fails; an error or an interrupt ends the others at their next batch.
    """
    stopped = Event()
    readings = Readings(trace, parameters)
    readings.draw()

    def one(strategy: Strategy) -> list[Replay]:
        def on_rows(rows: int) -> None:
            if stopped.is_set():
                raise _StoppedError
            told(strategy, rows)

        on_rows(0)
        return replay(trace, strategy, parameters, readings=readings, on_rows=on_rows)

    at_once = _at_once(trace, strategies, parameters)
    if at_once == 1:
        return [one(strategy) for strategy in strategies]
    with ThreadPoolExecutor(at_once) as threads:
        try:
            return [done.result() for done in [threads.submit(one, s) for s in strategies]]
        except BaseException:
            stopped.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


class _StoppedError(Exception):
    """Ends a replay whose result nobody waits for."""


def _at_once(trace: Trace, strategies: Sequence[Strategy], parameters: Parameters) -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    largest = max((needed_bytes(trace, one, parameters) for one in strategies), default=1)
    return max(1, min(len(os.sched_getaffinity(0)), len(strategies), memory // largest))
