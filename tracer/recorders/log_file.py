"""QEMU's log, turned to a file of ours for a while, and back to where it was, with what it held.

No command says where QEMU logs to: its open files do, or its command line. Giving a file's name
back makes QEMU 8.0 and later empty it (qemu_set_log_internal of util/log.c opens it to write); so
it is copied before, and filled in again through QEMU's own descriptor, which then appends.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from tracer.errors import RecordError, UsageError
from tracer.recorders.qmp import Monitor, Refused

_PIDFD_GETFD = 438
_STDERR = Path("/dev/stderr")
#: QEMU closes its old log a moment after it has opened another (s).
_MOMENT = 0.5
#: What a killed recorder's log is called; nobody wants that back.
_OURS = re.compile(r"\..*-[0-9a-f]{8}\.dirtylog")


def own_name(out: Path) -> Path:
    """Return where QEMU may log to while a trace is made at `out`: beside it."""
    return out.absolute().parent / f".{out.name}-{secrets.token_hex(4)}.dirtylog"


class LogFile:
    """The log of process `pid`, the monitor's QEMU.

    told: what could not be put back. orphaned: it was a killed recorder's.
    """

    def __init__(self, monitor: Monitor, pid: int, path: Path):
        self._monitor, self._pid, self.path = monitor, pid, path
        self._old: Path | None = None
        self.told: list[str] = []
        self.orphaned = False

    async def turn(self) -> None:
        """Have QEMU log to our file.

        Raises UsageError where it cannot be there, RecordError where QEMU's own log could not be
        put back.
        """
        before = _open_files(self._pid)
        old = _old_log(self._pid, before)
        if _is_regular(old) and before is None:
            raise RecordError(
                f"QEMU logs to {old}, and may empty it when it gets that back: run as root or "
                "as QEMU's user"
            )
        try:
            self.path.touch(mode=0o666)
            self.path.chmod(0o666)  # QEMU may be another user's
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror})") from None
        try:
            await self._monitor.say(f'logfile "{self.path}"')
        except Refused as error:
            self.path.unlink(missing_ok=True)
            raise UsageError(
                f"{self.path}: QEMU cannot write its log there ({error}); --qemu-log names another "
                "place"
            ) from None
        was = await self._closed(before, old)
        self.orphaned = _OURS.fullmatch(was.name) is not None
        if self.orphaned:
            was.unlink(missing_ok=True)
        self._old = old if self.orphaned else was

    async def _closed(self, before: dict[int, str] | None, guess: Path) -> Path:
        """Return the file that QEMU wrote to before: the one that it has closed, or its stderr."""
        if before is None:
            return guess
        if (_open_files(self._pid) or {}).get(2) == str(self.path):
            return Path(before.get(2, "/dev/null"))  # a daemon's stderr is its log
        deadline = time.monotonic() + _MOMENT
        while time.monotonic() < deadline:
            now = _open_files(self._pid) or before
            gone = [n for fd, n in before.items() if now.get(fd) != n and fd != 2]
            if str(guess) in gone:
                return guess
            if len(gone) == 1 and gone[0].startswith("/"):
                return Path(gone[0].removesuffix(" (deleted)"))
            await asyncio.sleep(_MOMENT / 20)
        return guess

    def lives(self) -> bool:
        """Return whether QEMU's process is there."""
        try:
            state = Path(f"/proc/{self._pid}/stat").read_text(errors="replace")
        except OSError:
            return False
        return state.rpartition(")")[2].split()[0] not in "ZX"

    async def give_back(self, monitor: Monitor) -> None:
        """Turn QEMU's log back, once, by this monitor; raises RecordError where it has gone."""
        old = self._old
        files = _open_files(self._pid)
        if old is None or (files is not None and str(self.path) not in files.values()):
            return  # somebody has turned it elsewhere since
        place = _target(self._pid, old)
        kept = None
        if _is_regular(place) and place.stat().st_size:
            kept = self._copy(place)
            if kept is None:
                self.told.append(
                    f"{place} could not be copied, and QEMU would empty it: its log goes nowhere"
                )
                old = Path("/dev/null")
        try:
            await monitor.say(f'logfile "{old}"')
        except Refused:
            # A socket cannot be opened again.
            self.told.append(f"QEMU's log could not be turned back to {old}: it goes nowhere now")
            await monitor.say('logfile "/dev/null"')
        self._old = None
        if kept is None:
            return
        try:
            if place.stat().st_size < kept.stat().st_size:
                _fill_in(self._pid, place, kept)
        except OSError as error:
            self.told.append(f"QEMU began {place} anew; what it held is in {kept} ({error})")
            return
        kept.unlink()

    def _copy(self, place: Path) -> Path | None:
        """Copy a log that QEMU will empty, beside it or beside ours; None without room."""
        for folder in (place.parent, self.path.parent):
            kept = folder / f".{place.name}-{secrets.token_hex(4)}.kept"
            try:
                shutil.copyfile(place, kept)
            except OSError:
                kept.unlink(missing_ok=True)
                continue
            return kept
        return None


def _open_files(pid: int) -> dict[int, str] | None:
    """Return the files that a process has open to write, None where that is not to be seen."""
    found = {}
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if fd.lstat().st_mode & stat.S_IWUSR:
                    found[int(fd.name)] = str(fd.readlink())
    except OSError:
        return None
    return found


def _old_log(pid: int, files: dict[int, str] | None) -> Path:
    """Return the file that QEMU's command line has it log to, or its standard error."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = []
    named = ""
    for option, value in pairwise(words):
        if option in ("-D", "--D"):
            named = value
    if not named:
        return _STDERR
    path = Path(named.replace("%d", str(pid)))
    if files is not None and not path.is_absolute():
        path = Path(f"/proc/{pid}/cwd").resolve() / path
    return path


def _target(pid: int, path: Path) -> Path:
    """Return the file behind a process' /dev/stderr, any other as it is."""
    if path != _STDERR:
        return path
    with suppress(OSError):
        return Path(f"/proc/{pid}/fd/2").readlink()
    return path


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _fill_in(pid: int, place: Path, kept: Path) -> None:
    """Put back what a log held that QEMU has emptied; what was added stands behind it."""
    for fd, name in (_open_files(pid) or {}).items():
        if name == str(place):
            _append(pid, fd)
    size = kept.stat().st_size
    with place.open("r+b") as log, kept.open("rb") as old:
        added = log.read()
        # From here on QEMU adds behind the old contents.
        log.truncate(max(size, len(added)))
        log.seek(0)
        shutil.copyfileobj(old, log)
    if added:
        with place.open("ab") as log:
            log.write(added)


def _append(pid: int, fd: int) -> None:
    """Have a process' descriptor append; raises OSError where that is not allowed."""
    handle = os.pidfd_open(pid)
    try:
        mine = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, handle, fd, 0)
        if mine < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        try:
            fcntl.fcntl(mine, fcntl.F_SETFL, fcntl.fcntl(mine, fcntl.F_GETFL) | os.O_APPEND)
        finally:
            os.close(mine)
    finally:
        os.close(handle)
