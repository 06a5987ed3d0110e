"""QEMU's monitor (QMP), as far as recorders need it; the protocol is the package qemu.qmp's."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import RecordError, UsageError

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

#: Returns why a QEMU is gone, None where that is not known.
Obituary = Callable[[], Awaitable[RecordError | None]]

#: QEMU answers at once; longer than this (s) somebody else holds the monitor.
_PATIENCE = 10.0
#: A connection that begins with something else than a greeting is made anew so often.
_TRIES = 3


class Refused(RecordError):  # noqa: N818 - what QEMU does
    """QEMU answers that it will not."""


class Monitor:
    """One connection to a QEMU, through which commands are sent; close it after use.

    obituary: asked for what to say when the connection broke.
    """

    def __init__(self, client: QMPClient, obituary: Obituary | None = None):
        self._client, self._obituary = client, obituary

    async def do(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Return QEMU's answer; raises Refused, and RecordError where it has gone."""
        from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415 - optional

        try:
            return await self._client.execute(command, dict(arguments or {}))
        except ExecuteError as error:
            raise Refused(f"QEMU refuses {command}: {str(error).rstrip('.')}") from None
        except (QMPError, OSError, EOFError) as error:
            death = await self._obituary() if self._obituary is not None else None
            gone = f"QEMU went away during {command} ({error})"
            raise death or RecordError(gone) from None

    async def attempt(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """As `do`, but None where QEMU refuses."""
        try:
            return await self.do(command, arguments)
        except RecordError:
            return None

    async def say(self, line: str) -> None:
        """Run a line of the human monitor that answers nothing; raises RecordError if it does."""
        answer = await self.do("human-monitor-command", {"command-line": line})
        if str(answer).strip():
            raise Refused(f"QEMU refuses '{line}': {' '.join(str(answer).split())}")

    async def close(self) -> None:
        """Hang up; a QEMU that is gone already is no error."""
        from qemu.qmp import QMPError  # noqa: PLC0415 - optional

        with suppress(QMPError, OSError, EOFError, TimeoutError):
            await asyncio.wait_for(self._client.disconnect(), _PATIENCE)


def need_qmp() -> None:
    """Raise UsageError where the package qemu.qmp is missing."""
    try:
        import qemu.qmp  # noqa: F401, PLC0415 - optional
    except ImportError:
        raise UsageError(
            "the package qemu.qmp is missing, which talks to QEMU; "
            "install it with: pip install 'dirtylog[record]'"
        ) from None


def no_monitor(path: Path, error: OSError) -> UsageError:
    """Return what to say of a path at which no QEMU listens."""
    why = error.strerror or error
    return UsageError(
        f"{path}: no QMP monitor answers ({why}); name the socket of a QEMU that runs, which has "
        "one with -qmp unix:PATH,server=on,wait=off"
    )


async def connect(
    to: Path | socket.socket, path: Path | None = None, *, obituary: Obituary | None = None
) -> Monitor:
    """Connect to the QMP socket at a path, or to one that QEMU was given or that leads to `path`.

    obituary: as in Monitor.
    Raises UsageError where there is none, RecordError where it does not answer.
    """
    from qemu.qmp import ConnectError, QMPClient  # noqa: PLC0415 - optional
    from qemu.qmp.qmp_client import GreetingError  # noqa: PLC0415 - optional

    # The package logs what it also raises.
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
    name = to if isinstance(to, Path) else path or "QEMU"
    for tries_left in reversed(range(_TRIES)):
        client = QMPClient("dirtylog")
        channel = open_socket(to)[0] if isinstance(to, Path) else to
        try:
            await asyncio.wait_for(client.connect(channel), _PATIENCE)
            break
        except TimeoutError:
            raise RecordError(
                f"{name}: no answer for {_PATIENCE:.0f} s; a QMP socket serves one client at a "
                "time, so give QEMU another one (-qmp unix:PATH,server=on,wait=off)"
            ) from None
        except (ConnectError, OSError, EOFError) as error:
            # QEMU sends events also to a client that it has taken but not greeted yet.
            early = isinstance(error, ConnectError) and isinstance(error.exc, GreetingError)
            if early and tries_left and isinstance(to, Path):
                continue
            why = " ".join(str(error).split()) or type(error).__name__
            raise RecordError(f"{name}: no QMP monitor answers ({why})") from None
    return Monitor(client, obituary)


def open_socket(path: Path) -> tuple[socket.socket, int]:
    """Connect to a QMP socket; return the connection and the process that listens there.

    Raises UsageError where none does.
    """
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.connect(str(path))
    except OSError as error:
        channel.close()
        raise no_monitor(path, error) from None
    channel.setblocking(False)
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return channel, pid
