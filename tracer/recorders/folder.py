"""The folder that a recorded migration fills, as `dirtylog import qemu` reads it.

While QEMU runs its log and the guest's lines are plain text, so that a kill at any moment leaves
what there was; in the end they are compressed.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tracer.errors import UsageError

_LOGS = ("qemu.log", "freelist.log")
_CHUNK = 1 << 20
#: Answers kept; beyond it every second one goes and they are kept half as often.
_MOST_ANSWERS = 2000


class Folder:
    """A new folder for a recording; raises UsageError where it cannot be one.

    `force` replaces what a recording that was cut short has left there.
    """

    def __init__(self, path: Path, *, force: bool = False):
        self.path = path.resolve()
        if force and (path / "console.log").exists():
            self.remove()
        if (path / "console.log").exists():
            raise UsageError(
                f"{path}: holds a recording that was kept or cut short; make a trace of it with "
                "dirtylog import qemu, or remove it"
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"{path}: exists and is no empty folder; choose another name")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written here ({error.strerror})") from None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def worth_keeping(self) -> bool:
        """Whether a migration has come so far that QEMU told of its memory."""
        answers = self / "migrate.json"
        return answers.exists() and '"ram": ' in answers.read_text(encoding="utf-8")

    def compress(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Replace the logs by their gzips; `progress(done, total)` gets bytes."""
        logs = [self / name for name in _LOGS if (self / name).exists()]
        total, done = sum(log.stat().st_size for log in logs), 0
        for log in logs:
            beside = log.with_name(f".{log.name}.gz")
            with (
                log.open("rb") as source,
                beside.open("wb") as file,
                # No name and no time inside: the same recording gives the same bytes.
                gzip.GzipFile("", "wb", 6, file, mtime=0) as out,
            ):
                while data := source.read(_CHUNK):
                    out.write(data)
                    done += len(data)
                    if progress is not None:
                        progress(done, total)
            beside.replace(log.with_name(f"{log.name}.gz"))
            log.unlink()

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


class Answers:
    """`migrate.json`: the settings and the answers of query-migrate, at most 2000 of them."""

    def __init__(self, path: Path, facts: Mapping[str, Any]):
        self._path, self._facts = path, dict(facts)
        self._polls: list[dict[str, Any]] = []
        self._every, self._seen = 1, 0
        self.last: dict[str, Any] = {}

    def add(self, t: float, answer: Mapping[str, Any]) -> None:
        """Keep an answer that came at host time `t` (s)."""
        self.last = {"t": t, **answer}
        if self._seen % self._every == 0:
            self._polls.append(self.last)
        self._seen += 1
        if len(self._polls) > _MOST_ANSWERS:
            self._polls, self._every = self._polls[::2], self._every * 2

    def save(self, *, final: bool = False) -> None:
        """Write the file anew; `final` says that the last answer is the migration's last."""
        body = {**self._facts, **({"final": self.last} if final else {}), "polls": self._polls}
        beside = self._path.with_name(f".{self._path.name}")
        beside.write_text(json.dumps(body) + "\n", encoding="utf-8")
        beside.replace(self._path)
