"""The bytes of a recording: plain, gzip or zstd, from a file or from standard input (`-`)."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from tracer.errors import TraceError

Progress = Callable[[int, int], None]

STDIN = Path("-")

_CHUNK = 4 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
#: A line without an end this long is no line of a text.
LONGEST_LINE = 1 << 20


def read_blocks(path: Path, cuts: list[str], progress: Progress | None) -> Iterator[bytes]:
    """Yield the content of a plain, gzip or zstd file in large blocks; `-` is standard input.

    What is compressed is told by its first bytes. A compressed file that breaks off ends the
    content there; `cuts` is told so. `progress(done, total)` is called with bytes of the file.
    Raises TraceError where it is corrupt, and where it cannot be opened or read.
    """
    try:
        with _open(path) as file:
            total = 0 if path == STDIN else path.stat().st_size
            magic = file.peek(4)  # type: ignore[attr-defined]
            if magic[:2] == _GZIP:
                blocks = _gzip(path, file, cuts)
            elif magic[:4] == _ZSTD:
                blocks = _zstd(path, file, cuts)
            else:
                blocks = iter(lambda: file.read(_CHUNK), b"")
            for block in blocks:
                if progress is not None and total:
                    progress(file.tell(), total)
                yield block
    except OSError as error:
        raise TraceError(f"{path}: cannot be opened ({error.strerror or error})") from None


def read_lines(path: Path, cuts: list[str], progress: Progress | None) -> Iterator[bytes]:
    """Yield the content in large blocks of whole lines, each of which ends with a newline.

    A last line without an end is left out, and `cuts` is told so. Raises TraceError as
    `read_blocks` does, and where a line is longer than any text's.
    """
    tail = b""
    for block in read_blocks(path, cuts, progress):
        end = block.rfind(b"\n") + 1
        if end:
            yield tail + block[:end]
        tail = block[end:] if end else tail + block
        if len(tail) > LONGEST_LINE:
            raise TraceError(f"{path}: has a line of more than 1 MiB; this is no text")
    if tail:
        cuts.append("the last line is cut short and was left out")


def _open(path: Path) -> BinaryIO | nullcontext[BinaryIO]:
    # The caller closes a file, but not the process's standard input.
    return nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb")


def _gzip(path: Path, file: BinaryIO, cuts: list[str]) -> Iterator[bytes]:
    member, whole, some = zlib.decompressobj(31), True, False
    while data := file.read(_CHUNK >> 3):
        while True:
            try:
                block = member.decompress(data, _CHUNK)
            except zlib.error as error:
                raise TraceError(f"{path}: corrupt gzip ({error}); copy it again") from None
            if block:
                some = True
                yield block
            whole = member.eof
            data = member.unused_data if whole else member.unconsumed_tail
            member = zlib.decompressobj(31) if whole else member
            # A full block may leave more behind, also where all input is used up.
            if not data and (whole or len(block) < _CHUNK):
                break
    if not whole and not some:
        raise TraceError(f"{path}: the gzip breaks off before anything can be read; copy it again")
    if not whole:
        cuts.append("the gzip breaks off; everything before its end was read")


def _zstd(path: Path, file: BinaryIO, cuts: list[str]) -> Iterator[bytes]:
    stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
    some = False
    while True:
        try:
            # What was read before an error is lost: small steps lose little.
            data = stream.read(_CHUNK >> 4)
        except OSError as error:
            if "runcated" not in str(error) or not some:
                raise TraceError(f"{path}: corrupt zstd ({error}); copy it again") from None
            cuts.append("the zstd breaks off; what came before its last block was read")
            return
        if not data:
            return
        some = True
        yield data
