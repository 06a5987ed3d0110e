"""What a strategy is: a composition of policies (the model, section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from replay.policies import REQUESTS, Accept, Request
from tracer.errors import UsageError

Hold = Literal["none", "ack", "done"]
Start = Literal["eager", "wait"]
OwnSync = Literal["none", "before", "after"]


@dataclass(frozen=True)
class Strategy:
    """A migration strategy: who starts, and what the host does about free page reports.

    name: as on the command line. origin: where it comes from. request and accept: its policies,
    None for a strategy without reports. start: "wait" sends nothing before the first report is
    handled. sync: the sync of its own that goes with a handling. drain: a regular sync waits
    until no report is outstanding. stop_guest: the vCPUs stand still from a report's snapshot to
    its handling. hold: the guest hold where the user does not say. given: where it was loaded from
    a user's file, how it was asked for. Raises UsageError for what is no composition.
    """

    name: str
    origin: str
    request: Request | None = None
    accept: Accept | None = None
    start: Start = "eager"
    sync: OwnSync = "none"
    drain: bool = False
    stop_guest: bool = False
    hold: Hold = "none"
    given: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        self._check()
        if (self.request is None) != (self.accept is None):
            raise UsageError(f"strategy {self.name}: request and accept go together")
        if self.drain and self.request is not None and self.request.when_done():
            raise UsageError(
                f"strategy {self.name}: `drain` with request {self.request.name!r} cannot end: "
                "each report handled asks for the next, and the sync waits for all of them"
            )

    def _check(self) -> None:
        """Refuse what the engine would stumble over; users compose strategies too."""
        if not isinstance(self.name, str) or not self.name.strip() or not self.name.isprintable():
            raise UsageError(f"a strategy's name is {self.name!r}; wanted printable text")
        choices = {"start": Start, "sync": OwnSync, "hold": Hold}
        for axis, kind in choices.items():
            if getattr(self, axis) not in get_args(kind):
                raise UsageError(
                    f"strategy {self.name}: {axis} is {getattr(self, axis)!r}; "
                    f"one of {', '.join(get_args(kind))}"
                )
        kinds = {"origin": str, "drain": bool, "stop_guest": bool, "given": str}
        for axis, wanted in kinds.items():
            if not isinstance(getattr(self, axis), wanted):
                raise UsageError(
                    f"strategy {self.name}: {axis} is {getattr(self, axis)!r}; "
                    f"wanted a {wanted.__name__}"
                )
        for axis, policy in (("request", Request), ("accept", Accept)):
            if not isinstance(getattr(self, axis), policy | None):
                raise UsageError(
                    f"strategy {self.name}: {axis} is {getattr(self, axis)!r}; wanted None or an "
                    f"object of a class derived from replay.policies.{policy.__name__}"
                )

    @property
    def argument(self) -> str:
        """What names it on the command line."""
        return self.given or self.name

    @property
    def hints(self) -> bool:
        """Whether it asks for reports, and so needs a free list."""
        return self.request is not None

    def with_request(self, name: str | None) -> Strategy:
        """Return it with another request axis; a strategy without reports stays as it is.

        Raises UsageError for an unknown axis or a composition that cannot end.
        """
        if name is None or not self.hints:
            return self
        if name not in REQUESTS:
            raise UsageError(f"request axis {name!r} is unknown; one of {', '.join(REQUESTS)}")
        return replace(self, request=REQUESTS[name]())
