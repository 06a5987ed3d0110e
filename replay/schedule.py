"""When reports are asked for, answered and handled (the model, sections 2, 5 and 6).

All of it is on the host clock; what then happens is `hints`' business.
"""

from __future__ import annotations

from replay import kernels as k
from replay.hints import Hinting, Stage
from replay.parameters import Parameters
from replay.policies import Request


class Schedule:
    """What about the reports of a migration is due when."""

    def __init__(self, request: Request | None, parameters: Parameters, hinting: Hinting):
        self._request = request
        self._parameters = parameters
        self._hinting = hinting
        self._next_tick: int | None = None

    def begin(self) -> None:
        """Ask for the first report, if the strategy asks for any."""
        if self._request is not None:
            self._ask(0)
            self._next_tick = self._request.next_tick(0, self._parameters.hint_interval_ns)

    def after_sync(self, now: int) -> None:
        """Ask for what a regular sync asks for that does not end the replay."""
        if self._request is not None and self._request.at_sync():
            self._ask(now)

    def next_due(self) -> int:
        """Return the host time of what comes next, kernels.FOREVER if nothing will."""
        tick = k.FOREVER if self._next_tick is None else self._next_tick
        return min((tick, *(report.due_ns for report in self._hinting.outstanding)))

    def do_due(self, now: int) -> int:
        """Do once what is due at `now`: requests, snapshots, arrivals, handlings; return how many.

        What these make due at the same instant is for another call.
        """
        return self._requests(now) + self._reports(now)

    def _ask(self, now: int) -> None:
        report = self._hinting.request(now)
        report.due_ns = now + self._parameters.request_delay_ns

    def _requests(self, now: int) -> int:
        made = 0
        while self._next_tick is not None and self._next_tick <= now:
            assert self._request is not None
            self._ask(now)
            self._next_tick = self._request.next_tick(
                self._next_tick, self._parameters.hint_interval_ns
            )
            made += 1
        for _ in range(self._hinting.asked):
            self._ask(now)
            made += 1
        self._hinting.asked = 0
        return made

    def _reports(self, now: int) -> int:
        moved = 0
        parameters, hinting = self._parameters, self._hinting
        for stage in (Stage.REQUESTED, Stage.SNAPSHOT, Stage.QUEUED):
            for report in [r for r in hinting.outstanding if r.stage == stage and r.due_ns <= now]:
                moved += 1
                if stage == Stage.REQUESTED:
                    hinting.snapshot(report, now)
                    report.due_ns = now + parameters.report_delay_ns
                elif stage == Stage.SNAPSHOT:
                    hinting.arrive(report, now)
                    assert self._request is not None
                    report.due_ns = self._request.handling_time(
                        now + parameters.handle_delay_ns, parameters.hint_interval_ns
                    )
                else:
                    hinting.consume(report, now)
        return moved
