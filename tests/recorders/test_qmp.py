"""The connection to a monitor, where QEMU does not begin as the protocol says."""

from __future__ import annotations

import asyncio
import json

import pytest

from tracer.errors import RecordError
from tracer.recorders import qmp

EVENT = {"event": "RTC_CHANGE", "data": {}, "timestamp": {"seconds": 1, "microseconds": 0}}
GREETING = {"QMP": {"version": {}, "capabilities": []}}


async def asked(socket, early, clients):
    """Return the answer of a monitor whose first clients get an event before its greeting."""

    async def serve(reader, writer):
        clients.append(writer)
        for message in [EVENT] * (len(clients) <= early) + [GREETING]:
            writer.write(json.dumps(message).encode() + b"\n")
        # A client ends no line, and waits for each answer.
        while sent := await reader.read(1 << 16):
            command = json.loads(sent)
            answer = {"return": command["execute"]}
            if "id" in command:
                answer["id"] = command["id"]
            writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    async with await asyncio.start_unix_server(serve, socket):
        monitor = await qmp.connect(socket)
        answer = await monitor.do("query-status")
        await monitor.close()
    return answer


def test_an_event_before_the_greeting_is_not_its_end(tmp_path):
    clients = []
    assert asyncio.run(asked(tmp_path / "qmp.sock", 1, clients)) == "query-status"
    assert len(clients) == 2


def test_what_never_greets_is_said(tmp_path):
    clients = []
    with pytest.raises(RecordError, match=r"qmp\.sock: no QMP monitor answers .*Greeting"):
        asyncio.run(asked(tmp_path / "qmp.sock", 9, clients))
    assert len(clients) == 3
