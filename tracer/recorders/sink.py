"""Where a migration to nowhere goes: a port on this machine that swallows what comes.

QEMU's own `exec:cat >/dev/null` would do, but a QEMU in libvirt's sandbox may start no program.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BUFFER = 1 << 20


@contextmanager
def sink() -> Iterator[str]:
    """Give the URI of a port of 127.0.0.1 that takes streams while the block runs.

    With multifd a migration has several.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_accept, args=(server,), daemon=True)
        thread.start()
        try:
            yield f"tcp:127.0.0.1:{server.getsockname()[1]}"
        finally:
            # Wakes an accept that nobody came to.
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(1.0)


def _accept(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            stream, _ = server.accept()
            threading.Thread(target=_swallow, args=(stream,), daemon=True).start()


def _swallow(stream: socket.socket) -> None:
    buffer = bytearray(_BUFFER)
    with suppress(OSError), stream:
        while stream.recv_into(buffer):
            pass
