"""A small virtual machine of our own: one vCPU in real mode, its memory in slots that are logged.

It is the VM that the demo programs run in, and an example of a caller that owns one.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt

from tracer.errors import UsageError
from tracer.recorders import kvm_abi as kvm
from tracer.recorders.kvm_demos import CODE_PAGE, FIRST, PAGES, Demo
from tracer.recorders.kvm_log import Slot, enable_manual, enable_ring

PAGE = 4096
DEVICE = "/dev/kvm"
_API_VERSION = 12
#: Three pages that Intel's real mode wants from us, out of the way.
_TSS = 0x7FFF0000


class Machine:
    """A VM with `PAGES` pages of memory that runs one demo program.

    `slots` are its memory slots, here two, so that a slot's number and first page matter. `manual`
    or `ring_entries` choose the dirty log's mode, the plain bitmap else. `vm_fd` and `vcpu_fd` are
    its file descriptors, `memory` its contents. Use it as a context manager.

    Raises UsageError where there is no KVM, or none that can do so.
    """

    def __init__(self, demo: Demo, *, manual: bool = False, ring_entries: int = 0):
        self._open: list[int] = []
        self._mapped = mmap.mmap(-1, PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory: npt.NDArray[np.uint8] = np.frombuffer(self._mapped, np.uint8)
        half = PAGES // 2
        self.slots: Sequence[Slot] = (Slot(0, 0, half), Slot(5, half, PAGES - half))
        try:
            self._build(manual, ring_entries)
            self._load(demo)
        except BaseException:
            self.close()
            raise

    def _build(self, manual: bool, ring_entries: int) -> None:
        system = self._keep(_open_kvm())
        if kvm.call(system, kvm.GET_API_VERSION) != _API_VERSION:
            raise UsageError(f"{DEVICE}: its API version is not {_API_VERSION}")
        try:
            self.vm_fd = self._keep(kvm.call(system, kvm.CREATE_VM))
        except OSError as error:
            raise UsageError(f"{DEVICE}: makes no virtual machine ({error.strerror})") from None
        kvm.call(self.vm_fd, kvm.SET_TSS_ADDR, _TSS)
        if manual:
            enable_manual(self.vm_fd)
        if ring_entries:
            enable_ring(self.vm_fd, ring_entries)
        for slot in self.slots:
            region = kvm.MemoryRegion(
                slot=slot.number,
                flags=kvm.KVM_MEM_LOG_DIRTY_PAGES,
                guest_phys_addr=slot.first_page * PAGE,
                memory_size=slot.pages * PAGE,
                userspace_addr=self.memory.ctypes.data + slot.first_page * PAGE,
            )
            kvm.call(self.vm_fd, kvm.SET_USER_MEMORY_REGION, region)
        self.vcpu_fd = self._keep(kvm.call(self.vm_fd, kvm.CREATE_VCPU, 0))
        size = kvm.call(system, kvm.GET_VCPU_MMAP_SIZE)
        self._run = kvm.RunHeader.from_buffer(mmap.mmap(self.vcpu_fd, size))

    def _load(self, demo: Demo) -> None:
        """Put the program into the memory and the vCPU before its first instruction."""
        at = CODE_PAGE * PAGE
        self.memory[at : at + len(demo.code)] = np.frombuffer(demo.code, np.uint8)
        special = kvm.Sregs()
        kvm.call(self.vcpu_fd, kvm.GET_SREGS, special)
        special.cs.base = special.cs.selector = 0
        kvm.call(self.vcpu_fd, kvm.SET_SREGS, special)
        registers = kvm.Regs(
            rip=at,
            rflags=2,
            rsi=FIRST * PAGE >> 4,
            rdi=PAGES * PAGE >> 4,
            rcx=PAGES - FIRST,
            rbx=1,
        )
        kvm.call(self.vcpu_fd, kvm.SET_REGS, registers)

    def run(self) -> bool:
        """Run the vCPU until it stops: True at the end of a pass, False where it may go on.

        False means that a signal came or that its dirty ring is full. Raises UsageError where it
        cannot run at all: another exit than the demo programs make.
        """
        try:
            kvm.call(self.vcpu_fd, kvm.RUN)
        except InterruptedError:
            return False
        reason = int(self._run.exit_reason)
        if reason == kvm.EXIT_IO:
            return True
        if reason in (kvm.EXIT_INTR, kvm.EXIT_DIRTY_RING_FULL):
            return False
        raise UsageError(f"{DEVICE}: the vCPU stopped with exit reason {reason}; it does not run")

    def close(self) -> None:
        """Give everything back."""
        while self._open:
            os.close(self._open.pop())

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _keep(self, fd: int) -> int:
        self._open.append(fd)
        return fd


def _open_kvm() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UsageError(
            f"{DEVICE}: not there; this machine has no KVM (is the kvm module loaded, is nested "
            "virtualization on?)"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{DEVICE}: cannot be opened ({error.strerror}); run as root or in the group kvm"
        ) from None
