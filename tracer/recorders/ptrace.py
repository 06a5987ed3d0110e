"""A process stopped for a moment, and system calls made inside it: Linux's ptrace, x86-64.

A tracer that dies lets go of what it traces: whatever happens to a recorder, a stopped process
runs on. Nothing of it stays in the process but what the calls asked for.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracer.errors import RecordError

_GETREGS, _SETREGS, _SINGLESTEP, _DETACH = 12, 13, 9, 17
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_WALL = 0x40000000  # waitpid: threads too
_REGISTERS = 27  # unsigned longs in struct user_regs_struct
#: Where they stand in it.
_R10, _R9, _R8, _RAX, _RDX, _RSI, _RDI, _ORIG_RAX, _RIP, _RSP = 7, 8, 9, 10, 12, 13, 14, 15, 16, 19
_ARGUMENTS = (_RDI, _RSI, _RDX, _R10, _R8, _R9)
_SYSCALL = b"\x0f\x05"
#: Below the stack pointer the ABI lets a function keep 128 bytes.
_RED_ZONE = 128
_ERRORS = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, thread: int, data: int = 0) -> None:
    if _libc.ptrace(request, thread, None, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop every thread of a process while the block runs.

    Raises ProcessLookupError where it is gone, RecordError where it may not be stopped.
    """
    held: dict[int, int] = {}
    try:
        # Until no thread is new: one that was not stopped yet may have made another.
        while new := [thread for thread in _threads(pid) if thread not in held]:
            for thread in new:
                held[thread] = _hold(pid, thread)
        if all(pending < 0 for pending in held.values()):
            raise ProcessLookupError
        yield
    finally:
        for thread, pending in held.items():
            _release(thread, pending)


def _threads(pid: int) -> list[int]:
    try:
        return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        raise ProcessLookupError from None


def _hold(pid: int, thread: int) -> int:
    """Stop a thread; return the signal it was about to get, 0 for none, -1 if it has ended."""
    try:
        _ptrace(_SEIZE, thread)
        _ptrace(_INTERRUPT, thread)
        _, status = os.waitpid(thread, _WALL)
    except (ProcessLookupError, ChildProcessError):
        return -1
    except PermissionError:
        if _ended(pid, thread):
            return -1
        raise RecordError(
            f"process {pid} may not be stopped: run as root or its owner with CAP_SYS_PTRACE, and "
            "with no debugger on it"
        ) from None
    if not os.WIFSTOPPED(status):
        return -1
    # An event, such as the stop that was asked for, has its number in the upper bits.
    signalled = status >> 16 == 0 and os.WSTOPSIG(status) != signal.SIGTRAP
    return os.WSTOPSIG(status) if signalled else 0


def _ended(pid: int, thread: int) -> bool:
    """Return whether a thread has ended; it may still be waited for."""
    try:
        stat = Path(f"/proc/{pid}/task/{thread}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rsplit(")", 1)[1].split()[0] in "ZX"


def _release(thread: int, pending: int) -> None:
    if pending >= 0:
        with suppress(ProcessLookupError):
            _ptrace(_DETACH, thread, pending)


class Inside:
    """System calls made by a process' first thread; it must be `stopped`.

    Raises RecordError on another processor than x86-64, and where the process is confined by
    seccomp: a call that its filter does not know would kill it.
    """

    def __init__(self, pid: int):
        if platform.machine() != "x86_64":
            raise RecordError("system calls inside another process are made on x86-64 only")
        if _seccomp(pid):
            raise RecordError(
                f"process {pid} is confined by seccomp: a system call made in it could kill it"
            )
        self._pid = pid
        self._call_at = _find_syscall(pid)

    def call(self, number: int, *arguments: int | bytes) -> tuple[int, list[bytes]]:
        """Make a system call; bytes are passed by address and come back as the kernel left them.

        Raises OSError where the call fails.
        """
        before = self._registers()
        words = list(before)
        place, values, buffers = before[_RSP] - _RED_ZONE, [], []
        with Path(f"/proc/{self._pid}/mem").open("r+b", buffering=0) as memory:
            for argument in arguments:
                if isinstance(argument, bytes):
                    place = (place - len(argument)) & ~15
                    memory.seek(place)
                    buffers.append((place, len(argument), memory.read(len(argument)) or b""))
                    memory.seek(place)
                    memory.write(argument)
                    values.append(place)
                else:
                    values.append(argument)
            for register, value in zip(_ARGUMENTS, values, strict=False):
                words[register] = value
            words[_RAX], words[_RIP], words[_ORIG_RAX] = number, self._call_at, (1 << 64) - 1
            try:
                self._set_registers(words)
                self._step()
                result = self._registers()[_RAX]
                after = []
                for place, size, old in buffers:
                    memory.seek(place)
                    after.append(memory.read(size) or b"")
                    memory.seek(place)
                    memory.write(old)
            finally:
                # With its old registers an interrupted system call is taken up again.
                self._set_registers(before)
        if result >= (1 << 64) - _ERRORS:
            error = (1 << 64) - result
            raise OSError(error, os.strerror(error))
        return result, after

    def _step(self) -> None:
        _ptrace(_SINGLESTEP, self._pid)
        _, status = os.waitpid(self._pid, _WALL)
        if not os.WIFSTOPPED(status):
            raise ProcessLookupError
        if os.WSTOPSIG(status) != signal.SIGTRAP:
            raise RecordError(
                f"process {self._pid} got {signal.Signals(os.WSTOPSIG(status)).name} meanwhile; "
                "try again"
            )

    def _registers(self) -> list[int]:
        words = (ctypes.c_ulonglong * _REGISTERS)()
        _ptrace(_GETREGS, self._pid, ctypes.addressof(words))
        return list(words)

    def _set_registers(self, values: list[int]) -> None:
        words = (ctypes.c_ulonglong * _REGISTERS)(*values)
        _ptrace(_SETREGS, self._pid, ctypes.addressof(words))


def _seccomp(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return any(
        line.split()[1] != "0" for line in status.splitlines() if line.startswith("Seccomp:")
    )


def _find_syscall(pid: int) -> int:
    """Return the address of a syscall instruction in the process' vDSO."""
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith("[vdso]"):
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
                memory.seek(begin)
                at = memory.read(end - begin).find(_SYSCALL)
            if at >= 0:
                return begin + at
    raise RecordError(f"process {pid} has no vDSO with a system call in it")
