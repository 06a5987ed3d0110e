"""What a recorded command line says of the guest."""

from __future__ import annotations

import shlex

import pytest

from tracer.readers.command_line import dirty_ring_size, facts_of, vcpus

QEMU = "qemu-system-x86_64 -m 512 "


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", 1),
        ("-smp 4", 4),
        ("--smp cpus=6,maxcpus=8", 6),
        ("-smp 2,sockets=2,cores=1", 2),
        ("-smp sockets=2,cores=3,threads=2", 12),
        ("-drive file=/vm/smp.img", 1),
        # What follows from another number, or from another place, is not made up.
        ("-smp cores=3,maxcpus=12", None),
        ("-smp 4 -smp 8", None),
        ("-machine q35,smp.cpus=4", None),
        ("-readconfig guest.cfg", None),
        ("-smp", None),
        ("-smp 0", None),
        ("-smp many", None),
        ("-smp 2,cores", None),
    ],
)
def test_vcpus(words, wanted):
    assert vcpus(shlex.split(QEMU + words)) == wanted


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("-accel kvm", None),
        ("-accel kvm,dirty-ring-size=4096", 4096),
        ("-accel kvm,dirty-ring-size=1024,kernel-irqchip=on", 1024),
        ("-accel kvm,dirty-ring-size=many", None),
    ],
)
def test_the_rings_size(words, wanted):
    assert dirty_ring_size(shlex.split(QEMU + words)) == wanted


def test_what_qemu_says_goes_before_its_command_line():
    command = shlex.split(QEMU + "-smp 4 -accel kvm,dirty-ring-size=4096")
    assert facts_of({"cmdline": command}) == {"vcpus": 4, "dirty_ring_size": 4096}
    assert facts_of({"cmdline": command, "vcpus": 3}) == {"vcpus": 3, "dirty_ring_size": 4096}
    assert facts_of({"vcpus": True}) == {}
    assert facts_of({"cmdline": "qemu"}) == {}
