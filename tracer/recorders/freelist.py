"""Where the samples of a guest's free list come from: a port, a socket, or a command's output."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tracer.errors import UsageError
from tracer.recorders.stamped import CHUNK, FreelistLines, drain

#: Ports that a launched guest is given.
PORTS = ("virtio", "serial")


def check_source(source: str) -> None:
    """Raise UsageError for a text that names no source of samples."""
    kind, _, rest = source.partition(":")
    if source not in PORTS and not (kind in ("unix", "exec") and rest):
        raise UsageError(
            f"--freelist: {source!r} is no source; wanted virtio, serial, unix:PATH or exec:COMMAND"
        )


@asynccontextmanager
async def listen(
    source: str, port: socket.socket | None, lines: FreelistLines
) -> AsyncIterator[asyncio.Task[None]]:
    """Feed `lines` from `source` while the block runs; gives what is done when it has ended.

    source: `virtio` or `serial` (the port of a QEMU that we launched), `unix:PATH` (a chardev's
    socket), `exec:COMMAND` (a shell command that prints samples). Raises UsageError where nothing
    answers.
    """
    kind, _, rest = source.partition(":")
    process = None
    if port is not None:
        reader, writer = await asyncio.open_connection(sock=port, limit=CHUNK)
    elif kind == "unix":
        try:
            reader, writer = await asyncio.open_unix_connection(rest, limit=CHUNK)
        except OSError as error:
            raise UsageError(
                f"--freelist {source}: nobody gives samples there ({error.strerror}); name the "
                "socket of the port in which the sampler writes"
            ) from None
    else:
        process = await asyncio.create_subprocess_shell(
            rest, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            start_new_session=True, limit=CHUNK,
        )  # fmt: skip
        assert process.stdout is not None
        reader, writer = process.stdout, None
    reading = asyncio.create_task(drain(reader, lines))
    try:
        yield reading
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await reading
        if writer is not None:
            writer.close()
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            await process.wait()
