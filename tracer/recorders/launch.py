"""A QEMU of our own: the user's command line, what recording adds to it, its life and its end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

from tracer.errors import RecordError, UsageError
from tracer.recorders.qmp import Monitor, connect
from tracer.recorders.stamped import Lines, drain

#: The port that the guest's sampler looks for, as /dev/virtio-ports/org.dirtylog.freelist.
FREELIST_PORT = "org.dirtylog.freelist"

#: Options with which a QEMU cannot be recorded, and why.
_UNFIT = {
    "-daemonize": "dirtylog has to stay its parent",
    "-incoming": "it would wait for a migration instead of starting one",
    "-S": "a guest that stands still writes nothing",
}
#: How long (s) a QEMU that was asked to leave is waited for.
_LEAVING = 5.0
#: And one that never answered, or does not any more.
_SETTLING = 1.0
_PR_SET_PDEATHSIG = 1


def check_command(command: Sequence[str]) -> None:
    """Raise UsageError for a command line that cannot be recorded."""
    for word in command:
        for option, why in _UNFIT.items():
            if word in (option, f"-{option}"):
                raise UsageError(f"QEMU's command line has {option}: {why}; leave it out")


class Qemu:
    """A QEMU under way; use as an async context manager, which ends it.

    `port`: the host's end of the free-list port, None where there is none.
    """

    def __init__(
        self,
        command: Sequence[str],
        console: Lines,
        *,
        freelist: str | None = None,
        hinting: bool = False,
        second: bool = False,
    ):
        self.command = list(command)
        self.console = console
        self.port: socket.socket | None = None
        self._options = (freelist, hinting, second)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._monitor: Monitor | None = None

    async def __aenter__(self) -> Qemu:
        ours, theirs = socket.socketpair()
        given = [theirs]
        added = [
            "-chardev", f"socket,id=dirtylog-qmp,fd={theirs.fileno()}",
            "-mon", "chardev=dirtylog-qmp,mode=control", "-msg", "timestamp=on",
        ]  # fmt: skip
        added += self._freelist(given)
        _, hinting, second = self._options
        if hinting and not any("virtio-balloon" in word for word in self.command):
            added += ["-object", "iothread,id=dirtylog-io"]
            added += ["-device", "virtio-balloon-pci,free-page-hint=on,iothread=dirtylog-io"]
        if second:
            added += ["-incoming", "defer"]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                *added,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[end.fileno() for end in given],
                # Ctrl-C is for us: QEMU is told what to do.
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        except OSError as error:
            ours.close()
            raise UsageError(f"{self.command[0]}: cannot be run ({error.strerror})") from None
        finally:
            for end in given:
                end.close()
        assert self._process.stdout is not None
        self._reading = asyncio.create_task(drain(self._process.stdout, self.console))
        try:
            self._monitor = await connect(ours, obituary=self._obituary)
        except BaseException as error:
            await self._leave()
            if isinstance(error, RecordError):
                death = self.death()
                # QEMU ends so where its command line does not fit.
                if death is not None and self._process.returncode == 1:
                    raise UsageError(str(death)) from None
                raise death or error from None
            raise
        return self

    def _freelist(self, given: list[socket.socket]) -> list[str]:
        """Return the options of the free-list port; its far end is added to `given`."""
        kind, _, second = self._options
        if kind is None:
            return []
        backend = "null,id=dirtylog-freelist"
        if not second:
            self.port, theirs = socket.socketpair()
            given.append(theirs)
            backend = f"socket,id=dirtylog-freelist,fd={theirs.fileno()}"
        if kind == "serial":
            device = ["-device", "isa-serial,chardev=dirtylog-freelist"]
        else:
            bus = "virtio-serial-pci,id=dirtylog-bus"
            port = "virtserialport,bus=dirtylog-bus.0,chardev=dirtylog-freelist"
            device = ["-device", bus, "-device", f"{port},name={FREELIST_PORT}"]
        return ["-chardev", backend, *device]

    @property
    def monitor(self) -> Monitor:
        """The connection to its monitor."""
        assert self._monitor is not None
        return self._monitor

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def death(self) -> RecordError | None:
        """Return what to say if it has ended, None while it runs."""
        if self._process is None or self._process.returncode is None:
            return None
        code = self._process.returncode
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        last = f"; its last line: {self.console.last[-1]}" if self.console.last else ""
        return RecordError(f"{self.command[0]} ended ({how}){last}")

    async def _obituary(self) -> RecordError | None:
        """Return `death` once it is known: a process that dies closes its monitor before."""
        assert self._process is not None
        assert self._reading is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _SETTLING)
            # Its last line; what QEMU started may hold the output open.
            await asyncio.wait({self._reading}, timeout=_SETTLING)
        return self.death()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        """Ask it to quit, then make it; the console is read to its end."""
        if self._monitor is not None:
            with suppress(RecordError, TimeoutError):
                await asyncio.wait_for(self._monitor.do("quit"), _LEAVING)
            await self._monitor.close()
        assert self._process is not None
        assert self._reading is not None
        for step in (signal.SIGTERM, signal.SIGKILL):
            with suppress(TimeoutError):
                patience = _LEAVING if self._monitor is not None else _SETTLING
                await asyncio.wait_for(self._process.wait(), patience)
            if self._process.returncode is None:
                # Not by its own terminate(), which takes the exit code from whoever waits.
                with suppress(ProcessLookupError):
                    os.kill(self._process.pid, step)
        await self._process.wait()
        # What QEMU started may hold its output open.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._reading, 1.0)
        if self.port is not None:
            self.port.close()


def _die_with_parent() -> Callable[[], None]:
    """Return what a child runs first, so that it ends when we are killed (prctl(2))."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def run() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    return run
