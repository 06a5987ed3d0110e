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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracer.errors import RecordError, UsageError
from tracer.recorders.folder import Answers, Folder
from tracer.recorders.freelist import listen
from tracer.recorders.launch import Qemu, check_command
from tracer.recorders.qmp import Monitor, connect, need_qmp
from tracer.recorders.settings import Settings, check_hinting
from tracer.recorders.stamped import FreelistLines, Lines
from tracer.recorders.tracing import Tracing

#: Time between two answers of query-migrate, and between two looks at anything else (s).
_POLL = 0.2
_LOOK = 0.05
#: How often migrate.json is written while the migration goes on (s).
_SAVE = 5.0
_ENDED = ("completed", "failed", "cancelled", "none")

#: Where `to` stands for something; anything else is a URI of QEMU's.
TARGETS = {"exec": "exec:cat >/dev/null", "second": ""}


@dataclass(frozen=True)
class Wanted:
    """What to record: a QEMU to launch (`command`) or one that runs (`qmp`), and the migration.

    to: `exec` throws the pages away, `second` starts a second QEMU here, else a URI; parameters:
    of migrate-set-parameters, texts take the type that QEMU has; freelist: `virtio` or `serial`
    (a port that a launched guest gets), `unix:PATH` or `exec:COMMAND`; start_when: a line on the
    console has this in it; start_after_s: later than that; qemu_log: where QEMU writes its log if
    it may not write into the folder.
    """

    command: tuple[str, ...] = ()
    qmp: Path | None = None
    to: str = "exec"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    freelist: str | None = None
    free_page_hint: bool = False
    start_when: str | None = None
    start_after_s: float = 0.0
    cancel_after_s: float | None = None
    qemu_log: Path | None = None
    scenario: str | None = None

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.qmp):
            raise UsageError("name a QEMU: either its command line behind --, or --qmp SOCKET")
        check_command(self.command)
        if not self.command:
            launched = {
                "--to second": self.to == "second",
                "--start-when": self.start_when is not None,
                f"--freelist {self.freelist}": self.freelist in ("virtio", "serial"),
            }
            for option in (name for name, given in launched.items() if given):
                raise UsageError(f"{option} needs a QEMU that dirtylog launches")
        if self.qemu_log is not None and self.qemu_log.exists():
            raise UsageError(f"{self.qemu_log}: exists; name a file for QEMU to make")


@dataclass(frozen=True)
class Stage:
    """Where a recording is: what is done now, for how long (s), QEMU's last answer, samples."""

    what: str
    seconds: float
    answer: Mapping[str, Any]
    samples: int


@dataclass(frozen=True)
class Ending:
    """How a recorded migration ended: QEMU's status, its reason if it failed, the last answer."""

    status: str
    reason: str | None
    answer: Mapping[str, Any]


def record_migration(
    wanted: Wanted, folder: Folder, progress: Callable[[Stage], None] | None = None
) -> Ending:
    """Run a migration and record it in `folder`; Ctrl-C cancels it and keeps what there is.

    Raises UsageError and RecordError where it cannot be run, KeyboardInterrupt if it was stopped
    before it began.
    """
    need_qmp()
    recording = _Recording(wanted, folder, progress or (lambda _: None))
    return asyncio.run(recording.run())


class _Recording:
    def __init__(self, wanted: Wanted, folder: Folder, progress: Callable[[Stage], None]):
        self._wanted, self._folder, self._progress = wanted, folder, progress
        self._stop = asyncio.Event()
        self._begun = time.monotonic()
        self._samples: FreelistLines | None = None
        self._qemu: Qemu | None = None
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
                    await stack.enter_async_context(listen(wanted.freelist, port, self._samples))
                await self._wait_for_the_guest(console)
                return await self._record(stack, monitor)

    async def _reach(self, stack: AsyncExitStack, console: Lines) -> Monitor:
        """Launch the guest, or connect to the one that runs; return its monitor."""
        wanted = self._wanted
        self._say("starting QEMU" if wanted.command else "connecting")
        if wanted.qmp is not None:
            monitor = await connect(wanted.qmp)
            stack.push_async_callback(monitor.close)
        else:
            port = wanted.freelist if wanted.freelist in ("virtio", "serial") else None
            self._qemu = Qemu(wanted.command, console, freelist=port, hinting=wanted.free_page_hint)
            await stack.enter_async_context(self._qemu)
            monitor = self._qemu.monitor
        status = await monitor.do("query-status")
        if not status["running"]:
            raise RecordError(f"the guest does not run ({status['status']}); resume it first")
        if wanted.free_page_hint:
            await check_hinting(monitor)
        return monitor

    async def _wait_for_the_guest(self, console: Lines) -> None:
        wanted = self._wanted
        if wanted.start_when is not None:
            what = f"waiting for '{wanted.start_when}' on the console"
            await self._until(what, lambda: console.found)
        end = time.monotonic() + wanted.start_after_s
        if self._samples is not None:
            samples = self._samples
            await self._until("waiting for a free-list sample", lambda: samples.samples > 0)
        if wanted.start_after_s > 0:
            await self._until("letting the guest run", lambda: time.monotonic() >= end)

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
        settings, tracing = Settings(monitor), Tracing(monitor, log)
        uri = await self._target(stack)
        try:
            await settings.apply(wanted.parameters, wanted.capabilities)
            await tracing.start()
            facts = await settings.facts(wanted.command)
            if wanted.scenario:
                facts["scenario"] = wanted.scenario
            start = {"start": time.time(), "to": uri, "events": tracing.names}
            answers = Answers(self._folder / "migrate.json", {**facts, **start})
            await monitor.do("migrate", {"uri": uri})
            answers.save()
            ending = await self._follow(monitor, answers, tracing)
        finally:
            with suppress(RecordError):
                await tracing.stop()
                if attached:
                    await settings.restore()
            if wanted.qemu_log is not None and wanted.qemu_log.exists():
                shutil.copyfile(wanted.qemu_log, self._folder / "qemu.log")
        if attached and ending.status == "completed" and wanted.to == "exec":
            # Nobody took the guest over: it goes on here.
            await monitor.do("cont")
        return ending

    async def _target(self, stack: AsyncExitStack) -> str:
        """Return the URI to migrate to; a second QEMU is started and listens there."""
        wanted = self._wanted
        if wanted.to != "second":
            return TARGETS.get(wanted.to, wanted.to)
        console = Lines(self._folder / "destination.log")
        stack.callback(console.close)
        port = wanted.freelist if wanted.freelist in ("virtio", "serial") else None
        second = Qemu(
            wanted.command, console, freelist=port, hinting=wanted.free_page_hint, second=True
        )
        await stack.enter_async_context(second)
        await Settings(second.monitor).apply({}, wanted.capabilities)
        await second.monitor.do("migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
        listens = (await second.monitor.do("query-migrate"))["socket-address"][0]
        return f"tcp:127.0.0.1:{listens['port']}"

    async def _follow(self, monitor: Monitor, answers: Answers, tracing: Tracing) -> Ending:
        """Ask until the migration has ended; cancel it when it is time to."""
        begin = saved = time.monotonic()
        cancelling, logs = False, False
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
                if time.monotonic() - saved > _SAVE:
                    saved = time.monotonic()
                    answers.save()
                await self._pause()
        except RecordError as error:
            death = self._qemu.death() if self._qemu is not None else None
            raise death or error from None
        finally:
            answers.save(final=self._answer.get("status") in _ENDED)
        return Ending(status, self._answer.get("error-desc"), self._answer)

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
    """Let SIGINT and SIGTERM set `stop`; in a thread that gets no signals do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
