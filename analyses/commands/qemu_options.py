"""Options of profile `qemu`: the sender's speed, and what holds the guest back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from analyses.commands import units
from analyses.commands.choices import Profile

if TYPE_CHECKING:
    from replay.qemu_version import QemuVersion

LineRate = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        show_default="1.28GB/s",
        help="Profile qemu: how fast pages go out until a window's budget is spent; `dirtylog "
        "line` measures it.",
    ),
]
ZeroPageTime = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", show_default="200ns", help="Profile qemu: to find that a page is zero."
    ),
]
WakeUp = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        show_default="100us",
        help="Profile qemu: how late the sender wakes for the next window.",
    ),
]
StopTime = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        show_default="2ms",
        help="Profile qemu: what the stop takes besides the time of what is sent then.",
    ),
]
DeviceState = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        show_default="192KiB",
        help="Profile qemu: the devices' state, sent after the last page at the line rate.",
    ),
]
Qemu = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION",
        show_default="as recorded, else 7.2",
        help="Profile qemu: whose migration loop, such as 7.2, 8.2, 9.2, 10.1 or 11.1; in between "
        "nothing changed that matters here.",
    ),
]
GuestLoad = Annotated[
    int | None,
    typer.Option(
        metavar="PCT",
        min=1,
        max=100,
        show_default="100; of accuracy: as its recording shows, else 100",
        help="Share of its vCPUs' time that the guest's work takes; what holds it back, or did so "
        "while it was recorded, slows it only where less is left.",
    ),
]
#: Options that only profile qemu heeds, and those of them that need another one of them.
_QEMU = (
    "qemu",
    "line_rate",
    "zero_page_time",
    "wake_up",
    "stop_time",
    "device_state",
    "avail_switchover_bandwidth",
    "auto_converge",
    "dirty_limit",
)
_NEED_CONVERGE = ("throttle_initial", "throttle_increment", "throttle_maximum")
_NEED_LIMIT = ("vcpus", "dirty_ring")
_NEED_EITHER = ("throttle_trigger", "guest_load")


def line_parameters(**given: str | None) -> dict[str, int]:
    """Return the sender's speeds that were given, as `replay.parameters` names them."""
    return {
        _LINE[name][0]: _LINE[name][1](text, _spelled(name))
        for name, text in given.items()
        if text is not None
    }


def qemu_version(text: str) -> QemuVersion:
    """Return the version that an option names; raises UsageError."""
    from replay.qemu_version import (  # noqa: PLC0415 - its package is heavy
        NEWEST,
        USUAL,
        QemuVersion,
    )
    from tracer.errors import UsageError  # noqa: PLC0415

    try:
        version = QemuVersion.parse(text)
    except UsageError as error:
        refuse(f"--qemu: {error}")
    if not USUAL <= version <= NEWEST:
        refuse(
            f"--qemu {text}: the loop is known of versions {USUAL} to {NEWEST}; take the nearest"
        )
    return version


def _state_size(text: str, option: str) -> int:
    return 0 if text.strip() == "0" else units.size(text, option)


#: What an option about the sender is called in `replay.parameters`, and how it is read.
_LINE: dict[str, tuple[str, Callable[[str, str], int]]] = {
    "line_rate": ("line_rate", units.bandwidth),
    "zero_page_time": ("zero_page_ns", units.duration),
    "wake_up": ("wake_ns", units.duration),
    "stop_time": ("stop_ns", units.duration),
    "device_state": ("device_bytes", _state_size),
}


def refuse(message: str) -> NoReturn:
    """Raise UsageError."""
    from tracer.errors import UsageError  # noqa: PLC0415 - its package is heavy

    raise UsageError(message)


def _spelled(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class QemuOptions:
    """Those of a replay that only profile `qemu` heeds, as the command line has them."""

    line_rate: LineRate = None
    zero_page_time: ZeroPageTime = None
    wake_up: WakeUp = None
    stop_time: StopTime = None
    device_state: DeviceState = None
    qemu: Qemu = None
    avail_switchover_bandwidth: Annotated[
        str | None,
        typer.Option(
            metavar="RATE",
            show_default="as measured",
            help="Profile qemu: by which bandwidth to tell whether what is pending fits into the "
            "downtime limit; --qemu 8.2 and later.",
        ),
    ] = None
    auto_converge: Annotated[
        bool, typer.Option("--auto-converge", help="Profile qemu: throttle a guest that is ahead.")
    ] = False
    throttle_trigger: Annotated[
        int | None,
        typer.Option(
            metavar="PCT",
            min=1,
            max=100,
            show_default="50",
            help="Hold the guest back once it has twice dirtied more than this share of what was "
            "sent.",
        ),
    ] = None
    throttle_initial: Annotated[
        int | None,
        typer.Option(
            metavar="PCT", min=1, max=99, show_default="20", help="Auto-converge's first throttle."
        ),
    ] = None
    throttle_increment: Annotated[
        int | None,
        typer.Option(
            metavar="PCT", min=1, max=99, show_default="10", help="Auto-converge's later steps."
        ),
    ] = None
    throttle_maximum: Annotated[
        int | None,
        typer.Option(
            metavar="PCT", min=1, max=99, show_default="99", help="Auto-converge's last throttle."
        ),
    ] = None
    dirty_limit: Annotated[
        str | None,
        typer.Option(
            metavar="RATE",
            show_default="none",
            help="Profile qemu: hold each vCPU's dirty rate under this, in whole MiB/s, once the "
            "guest is ahead (QEMU 8.1 and later).",
        ),
    ] = None
    vcpus: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, show_default="1", help="The guest's vCPUs, for --dirty-limit."
        ),
    ] = None
    dirty_ring: Annotated[
        int | None,
        typer.Option(
            metavar="ENTRIES",
            min=1,
            show_default="4096",
            help="Size of each vCPU's dirty ring, for --dirty-limit.",
        ),
    ] = None
    guest_load: GuestLoad = None

    def check_together(self, profile: Profile) -> None:
        """Refuse what would have no effect."""
        held = self.auto_converge or self.dirty_limit is not None
        for names, allowed, wanted in (
            (_NEED_CONVERGE, self.auto_converge, "--auto-converge"),
            (_NEED_LIMIT, self.dirty_limit is not None, "--dirty-limit RATE"),
            (_NEED_EITHER, held, "--auto-converge or --dirty-limit RATE"),
            (_QEMU, profile is Profile.qemu, "--profile qemu"),
        ):
            for name in names:
                if not allowed and getattr(self, name) not in (None, False):
                    refuse(f"{_spelled(name)} has no effect without {wanted}; pass that too")

    def qemu_parameters(self) -> dict[str, Any]:
        """Return them as `replay.parameters` names them."""
        from replay.dirty_limit import DirtyLimit  # noqa: PLC0415 - heavy
        from replay.throttle import AutoConverge  # noqa: PLC0415

        def given(**named: int | None) -> dict[str, Any]:
            return {name: value for name, value in named.items() if value is not None}

        converge, limit = None, None
        if self.auto_converge:
            steps = {name: getattr(self, f"throttle_{name}")
                     for name in ("trigger", "initial", "increment", "maximum")}  # fmt: skip
            converge = AutoConverge(**given(**steps))
        if self.dirty_limit is not None:
            rate, rest = divmod(units.bandwidth(self.dirty_limit, "--dirty-limit"), 1 << 20)
            if rest or not rate:
                refuse(
                    f"--dirty-limit: {self.dirty_limit!r} is no whole number of MiB/s, which QEMU "
                    "counts in; write it like 60MiB/s"
                )
            sizes = given(trigger=self.throttle_trigger, vcpus=self.vcpus, ring=self.dirty_ring)
            limit = DirtyLimit(rate, **sizes)
        switchover = {}
        if self.avail_switchover_bandwidth is not None:
            rate = units.bandwidth(self.avail_switchover_bandwidth, "--avail-switchover-bandwidth")
            switchover["switchover_bandwidth"] = rate
        return {
            **switchover,
            "auto_converge": converge,
            "dirty_limit": limit,
            **({} if self.qemu is None else {"qemu": qemu_version(self.qemu)}),
            "guest_load": 100 if self.guest_load is None else self.guest_load,
            **line_parameters(**{name: getattr(self, name) for name in _LINE}),
        }
