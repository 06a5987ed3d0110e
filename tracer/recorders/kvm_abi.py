"""What of KVM's interface to user space is needed here, as the kernel documents it.

Numbers and layouts are those of `include/uapi/linux/kvm.h` and Documentation/virt/kvm/api.rst,
x86-64. They are part of the kernel's stable interface.
"""

from __future__ import annotations

import ctypes
import fcntl
from typing import Any

KVM_MEM_LOG_DIRTY_PAGES = 1

CAP_MANUAL_DIRTY_LOG_PROTECT2 = 168
CAP_DIRTY_LOG_RING = 192
MANUAL_PROTECT_ENABLE = 1
INITIALLY_SET = 2

DIRTY_GFN_DIRTY = 1
DIRTY_GFN_RESET = 2
#: Page offset at which a vCPU's file descriptor maps its dirty ring.
DIRTY_LOG_PAGE_OFFSET = 64

EXIT_IO = 2
EXIT_HLT = 5
EXIT_INTR = 10
EXIT_DIRTY_RING_FULL = 31


class MemoryRegion(ctypes.Structure):
    """struct kvm_userspace_memory_region."""

    _fields_ = (
        ("slot", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("guest_phys_addr", ctypes.c_uint64),
        ("memory_size", ctypes.c_uint64),
        ("userspace_addr", ctypes.c_uint64),
    )


class GetDirtyLog(ctypes.Structure):
    """struct kvm_dirty_log."""

    _fields_ = (
        ("slot", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("bitmap", ctypes.c_uint64),
    )


class ClearDirtyLog(ctypes.Structure):
    """struct kvm_clear_dirty_log."""

    _fields_ = (
        ("slot", ctypes.c_uint32),
        ("num_pages", ctypes.c_uint32),
        ("first_page", ctypes.c_uint64),
        ("bitmap", ctypes.c_uint64),
    )


class EnableCap(ctypes.Structure):
    """struct kvm_enable_cap."""

    _fields_ = (
        ("cap", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("args", ctypes.c_uint64 * 4),
        ("pad", ctypes.c_uint8 * 64),
    )


class Regs(ctypes.Structure):
    """struct kvm_regs."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
        )
    )


class Segment(ctypes.Structure):
    """struct kvm_segment."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("selector", ctypes.c_uint16),
        ("attributes", ctypes.c_uint8 * 10),
    )


class Sregs(ctypes.Structure):
    """struct kvm_sregs; only the code segment is of interest."""

    _fields_ = (("cs", Segment), ("rest", ctypes.c_uint8 * 288))


class RunHeader(ctypes.Structure):
    """The beginning of struct kvm_run, with what an exit for I/O says."""

    _fields_ = (
        ("request_interrupt_window", ctypes.c_uint8),
        ("immediate_exit", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 6),
        ("exit_reason", ctypes.c_uint32),
        ("state", ctypes.c_uint8 * 20),
        ("io_direction", ctypes.c_uint8),
        ("io_size", ctypes.c_uint8),
        ("io_port", ctypes.c_uint16),
    )


_KVMIO = 0xAE


def _request(direction: int, number: int, size: int = 0) -> int:
    return direction << 30 | size << 16 | _KVMIO << 8 | number


def _none(number: int) -> int:
    return _request(0, number)


def _write(number: int, kind: Any) -> int:
    return _request(1, number, ctypes.sizeof(kind))


def _read(number: int, kind: Any) -> int:
    return _request(2, number, ctypes.sizeof(kind))


GET_API_VERSION = _none(0x00)
CREATE_VM = _none(0x01)
CHECK_EXTENSION = _none(0x03)
GET_VCPU_MMAP_SIZE = _none(0x04)
CREATE_VCPU = _none(0x41)
GET_DIRTY_LOG = _write(0x42, GetDirtyLog)
SET_USER_MEMORY_REGION = _write(0x46, MemoryRegion)
SET_TSS_ADDR = _none(0x47)
RUN = _none(0x80)
GET_REGS = _read(0x81, Regs)
SET_REGS = _write(0x82, Regs)
GET_SREGS = _read(0x83, Sregs)
SET_SREGS = _write(0x84, Sregs)
ENABLE_CAP = _write(0xA3, EnableCap)
CLEAR_DIRTY_LOG = _request(3, 0xC0, ctypes.sizeof(ClearDirtyLog))
RESET_DIRTY_RINGS = _none(0xC7)


def call(fd: int, request: int, argument: Any = 0) -> int:
    """Call ioctl with an integer or a structure, which the kernel may fill. Raises OSError."""
    result: int
    if isinstance(argument, ctypes.Structure):
        buffer = bytearray(argument)
        result = fcntl.ioctl(fd, request, buffer, True)
        ctypes.memmove(ctypes.addressof(argument), bytes(buffer), len(buffer))
    else:
        result = fcntl.ioctl(fd, request, argument)
    return result
