"""What a strategy is: a composition of policies (the model, section 6)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from replay.policies import REQUESTS, Accept, Request
from tracer.errors import UsageError

Hold = Literal["none", "ack", "done"]


@dataclass(frozen=True)
class Strategy:
    """A migration strategy: who starts, and what the host does about free page reports.

    name: as on the command line. origin: where it comes from. request and accept: its policies,
    None for a strategy without reports. start: "wait" sends nothing before the first report is
    handled. sync: the sync of its own that goes with a handling. drain: a regular sync waits
    until no report is outstanding. stop_guest: the vCPUs stand still from a report's snapshot to
    its handling. hold: the guest hold where the user does not say.
    """

    name: str
    origin: str
    request: Request | None = None
    accept: Accept | None = None
    start: Literal["eager", "wait"] = "eager"
    sync: Literal["none", "before", "after"] = "none"
    drain: bool = False
    stop_guest: bool = False
    hold: Hold = "none"

    def __post_init__(self) -> None:
        if (self.request is None) != (self.accept is None):
            raise UsageError(f"strategy {self.name}: request and accept go together")
        if self.drain and self.request is not None and self.request.when_done():
            raise UsageError(
                f"strategy {self.name}: `drain` with request {self.request.name!r} cannot end: "
                "each report handled asks for the next, and the sync waits for all of them"
            )

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
