"""The TCG plugin that tells a guest's stores: its compilation, and what it sends."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracer.errors import RecordError
from tracer.rows import Int64s

SOURCE = Path(__file__).parent / "plugin" / "stores.c"
PAGE = 4096
#: Pages that the plugin keeps a number for: 1 TiB of a guest takes 1 GiB of addresses.
MOST_PAGES = 1 << 28

_FLAGS = ("-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread")
#: From which QEMU on plugins have to be of which version of its interface: older ones are refused.
_APIS = (((11, 1), 7), ((9, 0), 2), ((0, 0), 1))

#: Marks in place of a page, as in the plugin's source.
_QUANTUM, _ELSEWHERE, _STORES, _END = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFC, 0xFFFFFFFA
_FIRST_MARK = _END
_PIPE = 1 << 20


def compile_plugin(version: tuple[int, int]) -> Path:
    """Return the plugin for a QEMU of this version, compiled if it is not in the user's cache.

    Raises RecordError where there is no C compiler, or where it fails.
    """
    api = next(api for since, api in _APIS if version >= since)
    key = hashlib.sha256(SOURCE.read_bytes() + repr((_FLAGS, api)).encode()).hexdigest()[:16]
    folder = _cache()
    made = folder / f"stores-{key}.so"
    if made.exists():
        return made
    compiler = os.environ.get("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        raise RecordError(f"{compiler}: no C compiler, which the QEMU plugin is made with")
    beside = folder / f".{made.name}-{secrets.token_hex(4)}"
    command = [*compiler.split(), *_FLAGS, f"-DPLUGIN_API={api}", "-o", str(beside), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RecordError(f"{SOURCE.name} does not compile: {last}")
    beside.replace(made)
    return made


def _cache() -> Path:
    """Return a folder to keep the plugin in: the user's cache, or where files pass away."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        folder = home / "dirtylog"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="dirtylog-"))


@dataclass(frozen=True)
class Batch:
    """Rows from the plugin, in time's order, complete up to quantum `until`.

    quantum, page: int64; page is a physical address in pages, as the plugin sees it.
    """

    quantum: Int64s
    page: Int64s
    until: int


class Stores:
    """The pipe that the plugin writes to; `stores` and `elsewhere` are known when it has `ended`.

    stores: all that the vCPUs made. elsewhere: those to addresses beyond `MOST_PAGES`.
    """

    def __init__(self, folder: Path):
        self.path = folder / "stores"
        os.mkfifo(self.path, 0o600)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""
        self._waiting: list[np.ndarray[tuple[int, ...], np.dtype[np.uint32]]] = []
        self._until = 0
        self._marks: dict[int, int] = {}
        self.ended = False

    def argument(self, plugin: Path, quantum_ns: int) -> str:
        """Return what QEMU's option -plugin is to be given."""
        # A comma in a file's name is doubled.
        plug, out = (str(path).replace(",", ",,") for path in (plugin, self.path))
        return f"{plug},out={out},pages={MOST_PAGES},quantum={quantum_ns}"

    def read(self) -> Iterator[Batch]:
        """Yield what has come since, complete quantum by quantum; nothing where nothing has."""
        while data := self._get():
            data = self._rest + data
            whole = len(data) // 8 * 8
            self._rest = data[whole:]
            yield from self._cut(np.frombuffer(data[:whole], np.uint32).reshape(-1, 2))

    def _get(self) -> bytes:
        try:
            return os.read(self._fd, _PIPE)
        except BlockingIOError:
            return b""

    def _cut(self, rows: np.ndarray[tuple[int, ...], np.dtype[np.uint32]]) -> Iterator[Batch]:
        marks = np.flatnonzero(rows[:, 1] >= _FIRST_MARK)
        for number, mark in rows[marks].tolist():
            if mark in (_QUANTUM, _END):
                self._until = number
                self.ended |= mark == _END
            else:
                self._marks[mark] = number
        last = int(marks[-1]) + 1 if len(marks) else 0
        if last:
            self._waiting.append(rows[:last])
            whole = np.concatenate(self._waiting)
            pages = whole[whole[:, 1] < _FIRST_MARK].astype(np.int64)
            yield Batch(pages[:, 0], pages[:, 1], self._until)
            self._waiting = []
        if last < len(rows):
            self._waiting.append(rows[last:])

    @property
    def stores(self) -> int | None:
        """Stores of all vCPUs, None before the end."""
        return self._sum(_STORES)

    @property
    def elsewhere(self) -> int | None:
        """Stores beyond the plugin's pages, None before the end."""
        return self._sum(_ELSEWHERE)

    def _sum(self, mark: int) -> int | None:
        if mark not in self._marks:
            return None
        return self._marks[mark] | self._marks.get(mark - 1, 0) << 32

    def close(self) -> None:
        """Hang up; the plugin then leaves the guest alone."""
        os.close(self._fd)
