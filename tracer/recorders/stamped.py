"""What a guest prints, line by line with the host's time: its console and its free-list samples."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

#: A line without an end is taken as one when it is this long.
_LONGEST_LINE = 1 << 16
_LINE = re.compile(
    rb"^(?:[^\n]*?(?=FREELIST )(FREELIST begin mono=[^\n]*?|FREELIST done)"
    rb"|([0-9a-f]{1,13}\+[0-9a-f]{1,13}))\r?$",
    re.MULTILINE,
)
#: As much as is read at once (bytes).
CHUNK = 1 << 18


class Lines:
    """A file of lines, each behind the host's time at which it came: `SECONDS.MICROS text`.

    `last` are the last lines that said something; `found` tells whether a line had `watch` in it.
    """

    def __init__(self, path: Path, watch: str | None = None):
        self.path = path
        self.watch = watch
        self.found = False
        self.last: list[str] = []
        self._file = path.open("wb")
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Take what was read; it is on its way to the disk when this returns."""
        data = self._tail + data
        end = data.rfind(b"\n") + 1
        if not end and len(data) > _LONGEST_LINE:
            data, end = data + b"\n", len(data) + 1
        self._tail = data[end:]
        if end:
            self._write(self.chosen(data[:end]))

    def chosen(self, data: bytes) -> list[bytes]:
        """Return the lines that are kept of `data`, which ends in a line end."""
        lines = data[:-1].split(b"\n")
        texts = [line.decode("utf-8", "replace").strip() for line in lines]
        self.last = [*self.last, *filter(None, texts)][-5:]
        self.found |= self.watch is not None and any(self.watch in text for text in texts)
        return lines

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            now = time.time_ns() // 1000
            stamp = b"%d.%06d " % divmod(now, 1_000_000)
            self._file.write(b"".join([stamp + line + b"\n" for line in lines]))
            self._file.flush()

    def close(self) -> None:
        """Write what came without a line end, and close the file."""
        if self._tail:
            self.feed(b"\n")
        self._file.close()


class FreelistLines(Lines):
    """The lines of free-list samples; whatever else comes through the port is left out."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.samples = 0
        self._begun = False

    def chosen(self, data: bytes) -> list[bytes]:
        """Return the lines that belong to a sample."""
        lines = [head or run for head, run in _LINE.findall(data)]
        if not self._begun:
            # Whoever comes late meets the end of a sample first.
            begin = next((i for i, line in enumerate(lines) if b"begin" in line), len(lines))
            lines, self._begun = lines[begin:], begin < len(lines)
        self.samples += lines.count(b"FREELIST done")
        return lines


async def drain(reader: asyncio.StreamReader, lines: Lines) -> None:
    """Feed `lines` with everything that comes until there is no more."""
    while data := await reader.read(CHUNK):
        lines.feed(data)
