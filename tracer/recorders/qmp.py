"""QEMU's monitor (QMP), as far as recorders need it; the protocol is the package qemu.qmp's."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import RecordError, UsageError

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

#: QEMU answers at once; longer than this (s) somebody else holds the monitor.
_PATIENCE = 10.0


class Monitor:
    """One connection to a QEMU, through which commands are sent; close it after use."""

    def __init__(self, client: QMPClient):
        self._client = client

    async def do(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Return QEMU's answer; raises RecordError where it refuses or has gone."""
        from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415 - optional

        try:
            return await self._client.execute(command, dict(arguments or {}))
        except ExecuteError as error:
            raise RecordError(f"QEMU refuses {command}: {str(error).rstrip('.')}") from None
        except (QMPError, OSError, EOFError) as error:
            raise RecordError(f"QEMU went away during {command} ({error})") from None

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
            raise RecordError(f"QEMU refuses '{line}': {' '.join(str(answer).split())}")

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


async def connect(to: Path | socket.socket) -> Monitor:
    """Connect to the QMP socket at a path, or to one that QEMU was given.

    Raises RecordError where there is none or where it does not answer.
    """
    from qemu.qmp import ConnectError, QMPClient  # noqa: PLC0415 - optional

    # The package logs what it also raises.
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
    client = QMPClient("dirtylog")
    try:
        where = str(to) if isinstance(to, Path) else to
        await asyncio.wait_for(client.connect(where), _PATIENCE)
    except (ConnectError, OSError, EOFError) as error:
        why = str(error) or type(error).__name__
        raise RecordError(f"{_name(to)}: no QMP monitor answers ({why})") from None
    except TimeoutError:
        raise RecordError(
            f"{_name(to)}: no answer for {_PATIENCE:.0f} s; a QMP socket serves one client at a "
            "time, so give QEMU another one (-qmp unix:PATH,server=on,wait=off)"
        ) from None
    return Monitor(client)


def _name(to: Path | socket.socket) -> str:
    return str(to) if isinstance(to, Path) else "QEMU"
