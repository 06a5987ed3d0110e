"""A live migration of a QEMU guest, run and recorded: its log, its answers, the guest's free list.

The guest is launched from its own command line or is running already. What QEMU logs and the
guest prints is written as it comes; `dirtylog import qemu` makes a trace of the folder.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

from tracer.errors import RecordError, UsageError
from tracer.recorders.folder import Answers, Folder
from tracer.recorders.freelist import PORTS, listen
from tracer.recorders.launch import Qemu
from tracer.recorders.log_file import LogFile
from tracer.recorders.qmp import Monitor, Refused, connect, need_qmp, open_socket
from tracer.recorders.settings import Settings, check_hinting
from tracer.recorders.sink import sink
from tracer.recorders.stamped import FreelistLines, Lines
from tracer.recorders.tracing import Tracing
from tracer.recorders.wanted import Ending, Stage, Wanted

#: Time between two answers of query-migrate, and between two looks at anything else (s).
_POLL = 0.2
_LOOK = 0.05
#: How often migrate.json is written while the migration goes on (s).
_SAVE = 5.0
#: How long QEMU may take to end a migration and to be left as it was (s).
_CANCELLING = 10.0
_ENDED = ("completed", "failed", "cancelled", "none")


def record_migration(
    wanted: Wanted, folder: Folder, progress: Callable[[Stage], None] | None = None
) -> Ending:
    """Run a migration and record it in `folder`; Ctrl-C cancels it and keeps what there is.

    A second Ctrl-C does not wait for a QEMU that does not answer.

    Raises UsageError and RecordError where it cannot be run or fails, KeyboardInterrupt if it was
    stopped before it began.
    """
    need_qmp()
    recording = _Recording(wanted, folder, progress or (lambda _: None))
    try:
        return asyncio.run(recording.run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class _Recording:
    def __init__(self, wanted: Wanted, folder: Folder, progress: Callable[[Stage], None]):
        self._wanted, self._folder, self._progress = wanted, folder, progress
        self._stop = asyncio.Event()
        self._begun = time.monotonic()
        self._samples: FreelistLines | None = None
        self._listening: asyncio.Task[None] | None = None
        self._qemu: Qemu | None = None
        self._pid = 0
        self._left: list[str] = []
        self._answer: Mapping[str, Any] = {}

    async def run(self) -> Ending:
        wanted, folder = self._wanted, self._folder
        console = Lines(folder / "console.log", wanted.start_when)
        with _stopped_by_signals(self._stop), ExitStack() as files:
            files.callback(console.close)
            async with AsyncExitStack() as stack:
                monitor = await self._reach(stack, console)
                if wanted.freelist is not None:
                    self._samples = FreelistLines(folder / "freelist.log")
                    files.callback(self._samples.close)
                    port = self._qemu.port if self._qemu is not None else None
                    self._listening = await stack.enter_async_context(
                        listen(wanted.freelist, port, self._samples)
                    )
                await self._wait_for_the_guest(console)
                return await self._record(stack, monitor)

    async def _reach(self, stack: AsyncExitStack, console: Lines) -> Monitor:
        """Launch the guest, or connect to the one that runs; return its monitor."""
        wanted = self._wanted
        self._say("starting QEMU" if wanted.command else "connecting")
        if wanted.qmp is not None:
            channel, self._pid = open_socket(wanted.qmp)
            monitor = await connect(channel, wanted.qmp)
            stack.push_async_callback(monitor.close)
        else:
            self._qemu = self._dressed(console)
            await stack.enter_async_context(self._qemu)
            monitor = self._qemu.monitor
        status = await monitor.do("query-status")
        if not status["running"]:
            raise RecordError(f"the guest does not run ({status['status']}); resume it first")
        if wanted.free_page_hint:
            await check_hinting(monitor)
        return monitor

    def _dressed(self, console: Lines, *, second: bool = False) -> Qemu:
        wanted = self._wanted
        port = wanted.freelist if wanted.freelist in PORTS else None
        hinting = wanted.free_page_hint
        return Qemu(wanted.command, console, freelist=port, hinting=hinting, second=second)

    async def _wait_for_the_guest(self, console: Lines) -> None:
        wanted = self._wanted
        if wanted.start_when is not None:
            what = f"waiting for '{wanted.start_when}' on the console"
            await self._until(what, lambda: console.found)
        end = time.monotonic() + wanted.start_after_s
        if self._samples is not None:
            samples = self._samples
            await self._until(
                "waiting for a sample from the guest's sampler",
                lambda: samples.samples > 0 or self._ended(),
            )
        if wanted.start_after_s > 0:
            await self._until("letting the guest run", lambda: time.monotonic() >= end)

    def _ended(self) -> bool:
        """Raise RecordError where no sample can come any more."""
        if self._listening is not None and self._listening.done():
            raise RecordError(
                f"--freelist {self._wanted.freelist}: ended before it gave one sample; is it the "
                "sampler (dirtylog record sampler), and does it run as root?"
            )
        return False

    async def _until(self, what: str, done: Callable[[], bool]) -> None:
        while not done():
            self._say(what)
            if self._stop.is_set():
                raise KeyboardInterrupt
            if self._qemu is not None and (death := self._qemu.death()) is not None:
                raise death
            await asyncio.sleep(_LOOK)

    async def _record(self, stack: AsyncExitStack, monitor: Monitor) -> Ending:
        wanted, attached = self._wanted, self._qemu is None
        log = wanted.qemu_log or self._folder / "qemu.log"
        file = LogFile(monitor, self._pid, log) if attached else None
        settings, tracing = Settings(monitor), Tracing(monitor, log, file)
        uri = await self._target(stack)
        try:
            await settings.apply(wanted.parameters, wanted.capabilities)
            await tracing.start(wanted.command)
            facts = await settings.facts(wanted.command)
            start = {"start": time.time(), "to": uri, "events": tracing.names}
            answers = Answers(self._folder / "migrate.json", {**facts, **start})
            try:
                await monitor.do("migrate", {"uri": uri})
            except Refused as error:
                raise UsageError(f"--to {wanted.to}: {error}") from None
            ending = await self._follow(monitor, answers, tracing)
        finally:
            with suppress(RecordError, TimeoutError):
                async with asyncio.timeout(_CANCELLING):
                    await self._end(monitor)
                    self._left = await tracing.stop()
                    if attached:
                        await settings.restore()
            if wanted.qemu_log is not None and wanted.qemu_log.exists():
                shutil.copyfile(wanted.qemu_log, self._folder / "qemu.log")
        if attached and ending.status == "completed" and wanted.to == "nowhere":
            # Nobody took the guest over: it goes on here.
            await monitor.do("cont")
        return replace(ending, left=tuple(self._left))

    async def _end(self, monitor: Monitor) -> None:
        """Cancel a migration that an error left under way, and wait until it is gone."""
        while self._answer.get("status", "none") not in _ENDED:
            await monitor.do("migrate_cancel")
            await asyncio.sleep(_LOOK)
            self._answer = await monitor.do("query-migrate")

    async def _target(self, stack: AsyncExitStack) -> str:
        """Return the URI to migrate to; a second QEMU is started and listens there."""
        wanted = self._wanted
        if wanted.to == "nowhere":
            return stack.enter_context(sink())
        if wanted.to != "second":
            return wanted.to
        console = Lines(self._folder / "destination.log")
        stack.callback(console.close)
        second = self._dressed(console, second=True)
        await stack.enter_async_context(second)
        await Settings(second.monitor).apply({}, wanted.capabilities)
        await second.monitor.do("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
        listens = (await second.monitor.do("query-migrate"))["socket-address"][0]
        return f"tcp:127.0.0.1:{listens['port']}"

    async def _follow(self, monitor: Monitor, answers: Answers, tracing: Tracing) -> Ending:
        """Ask until the migration has ended; cancel it when it is time to."""
        begin, saved = time.monotonic(), 0.0
        cancelling, logs, told = False, False, False
        try:
            while True:
                self._answer = await monitor.do("query-migrate")
                answers.add(time.time(), self._answer)
                status, since = self._answer.get("status", "none"), time.monotonic() - begin
                if status in _ENDED:
                    break
                if status == "pre-switchover":
                    await monitor.do("migrate-continue", {"state": "pre-switchover"})
                logs = logs or tracing.check(since)
                limit = self._wanted.cancel_after_s
                late = limit is not None and since >= limit
                if not cancelling and (self._stop.is_set() or late):
                    cancelling = True
                    await monitor.do("migrate_cancel")
                self._say("cancelling" if cancelling else "migrating")
                if not told or time.monotonic() - saved > _SAVE:
                    # Soon, once there is a size, so that a kill leaves it; then now and then.
                    told, saved = "ram" in self._answer, time.monotonic()
                    answers.save()
                await self._pause()
        finally:
            answers.save(final=self._answer.get("status") in _ENDED)
        if status == "failed":
            raise RecordError(
                f"the migration failed: {self._answer.get('error-desc', 'no reason')}"
            )
        total = self._answer.get("total-time")
        return Ending(status, since if total is None else total / 1000, self._answer)

    async def _pause(self) -> None:
        """Wait for the next look; a stop ends it at once, but only once."""
        with suppress(TimeoutError):
            if self._stop.is_set():
                await asyncio.sleep(_LOOK)
            else:
                await asyncio.wait_for(self._stop.wait(), _POLL)

    def _say(self, what: str) -> None:
        samples = self._samples.samples if self._samples is not None else 0
        since = time.monotonic() - self._begun
        self._progress(Stage(what, since, self._answer, samples))


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set `stop`, and a second one give up whatever is waited for.

    In a thread that gets no signals nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def on_signal() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
