"""Where tasks are done, behind the one interface of `concurrent.futures`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tracer.errors import UsageError

_T = TypeVar("_T")
#: How often a cluster is asked for its size, s.
_GLANCE = 5.0
#: How long a scheduler may take to answer, s.
_PATIENCE = 10
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx")


@dataclass(frozen=True)
class Place:
    """Where tasks are done.

    room: how many jobs are to be under way. tries: how often one that takes its process down is
    begun; a cluster begins it again by itself. blames_others: a job is told to have died also
    where another took down the process that it was to run in, so that only one that is under way
    alone is known to be at fault. trouble: why nothing gets on at the moment, or "".
    """

    executor: Executor
    room: Callable[[], int]
    trouble: Callable[[], str]
    tries: int
    blames_others: bool
    where: str


class Lanes(Executor):
    """Processes that are started afresh (spawned), with one job each at a time.

    Each has a pool of its own, so that one that dies takes no other's job along, and whose job it
    was is known. A job beyond the number of processes waits in `submit`.
    """

    def __init__(self, workers: int):
        self._free: list[_Lane | None] = [None] * workers
        self._busy: set[_Lane] = set()
        self._changed = threading.Condition()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Start a job in a process that has none."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            lane = self._free.pop() or _Lane()
            self._busy.add(lane)
        try:
            future: Future[_T] = lane.pool.submit(fn, *args, **kwargs)
        except BrokenProcessPool:  # it was killed while it had nothing to do
            self._freed(lane, broken=True)
            return self.submit(fn, *args, **kwargs)
        future.add_done_callback(lambda done: self._freed(lane, broken=_broken(done)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, those with a job too unless it is to be waited for."""
        with self._changed:
            lanes = [lane for lane in (*self._free, *self._busy) if lane is not None]
            self._free.clear()
        for lane in lanes:
            lane.end(wait=wait, cancel_futures=cancel_futures)

    def _freed(self, lane: _Lane, *, broken: bool) -> None:
        with self._changed:
            self._busy.discard(lane)
            self._free.append(None if broken else lane)
            self._changed.notify()
        if broken:
            lane.pool.shutdown(wait=False)


def _broken(done: Future[Any]) -> bool:
    return not done.cancelled() and isinstance(done.exception(), BrokenProcessPool)


class _Lane:
    """One process, started when it is first needed."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
        )
        self._pid = self.pool.submit(os.getpid)

    def end(self, *, wait: bool, cancel_futures: bool) -> None:
        if not wait:
            # Its pool would wait for the job under way, however long that takes.
            with contextlib.suppress(Exception):
                os.kill(self._pid.result(), signal.SIGKILL)
        self.pool.shutdown(wait=True, cancel_futures=cancel_futures)


def _begin() -> None:
    """Leave Ctrl-C to the process that asked, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def processes(workers: int) -> Iterator[Place]:
    """Give processes of this machine; what is under way when the block fails is ended."""
    lanes = Lanes(workers)
    done = False
    try:
        yield Place(
            lanes, lambda: workers, lambda: "", 3, False, f"{workers} processes of this machine"
        )
        done = True
    finally:
        lanes.shutdown(wait=done)


@contextmanager
def cluster(address: str) -> Iterator[Place]:
    """Give a Dask cluster whose scheduler is at `address`, like tcp://HOST:8786.

    Raises UsageError where `distributed` is not installed or no scheduler answers.
    """
    try:
        from distributed import Client  # noqa: PLC0415 - optional, and heavy
    except ImportError:
        raise UsageError(
            "--scheduler needs the package distributed; pip install 'dirtylog[cluster]'"
        ) from None
    scheme, separated, _ = address.partition("://")
    if separated and scheme not in _SCHEMES:  # which Client would not survive
        raise UsageError(f"--scheduler {address}: wanted an address like tcp://HOST:8786")
    try:
        client = Client(address, set_as_default=False, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise UsageError(f"--scheduler {address}: no scheduler answers there ({error})") from None
    looked, known = 0.0, 1

    def threads() -> int:
        nonlocal looked, known
        if time.monotonic() - looked > _GLANCE:
            looked, known = time.monotonic(), sum(client.nthreads().values())
        return known

    def room() -> int:
        return max(2, 2 * threads())

    def trouble() -> str:
        return "" if threads() else "the cluster has no workers"

    with client:
        executor = client.get_executor(pure=False)
        try:
            yield Place(executor, room, trouble, 2, True, f"the cluster at {address}")
        finally:
            executor.shutdown(wait=False)
