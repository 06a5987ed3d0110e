"""Options that several commands have, each declared once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from analyses.commands import units
from analyses.commands.choices import AtEnd, GuestHold, LogMode, Profile, RequestAxis, metavar
from analyses.commands.qemu_options import QemuOptions, refuse

if TYPE_CHECKING:
    from replay.parameters import Parameters

OneTrace = Annotated[Path, typer.Argument(metavar="TRACE", help="Trace directory.")]
_NAMED = "`dirtylog strategies` lists them; FILE.py:NAME is one of your own (this runs the file)."
OneStrategy = Annotated[
    str, typer.Option("--strategy", "-s", metavar="NAME", help=f"Strategy; {_NAMED}")
]
StrategyArgument = Annotated[str, typer.Argument(metavar="NAME", help=f"Strategy; {_NAMED}")]
Strategies = Annotated[
    list[str] | None,
    typer.Option(
        "--strategy",
        "-s",
        metavar="NAME",
        show_default="all that the trace has data for",
        help=f"Strategy to replay, can be repeated; {_NAMED}",
    ),
]
HintClearsLog = Annotated[
    bool,
    typer.Option(
        "--hint-clears-log/--no-hint-clears-log",
        help="In log mode manual a handled report clears the log of the chunks that it names "
        "(QEMU 6.1 and later).",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON object instead; times in ns."),
]
Anyway = Annotated[
    bool,
    typer.Option("--anyway", help="Replay even a trace that was recorded with hinting on."),
]


@dataclass(frozen=True)
class _Knobs:
    """Those that each profile has."""

    bandwidth: Annotated[
        str,
        typer.Option(metavar="RATE", help="Bandwidth of the link: B/s, kB/s, MiB/s, Gbit/s, ..."),
    ] = "10Gbit/s"
    downtime_limit: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Switch over when what is pending can be sent within this time: ns, us, ms, s, "
            "min.",
        ),
    ] = "300ms"
    profile: Annotated[
        Profile,
        typer.Option(metavar=metavar(Profile), help="Loop profile: when to copy, sync and stop."),
    ] = Profile.rounds
    log_mode: Annotated[
        LogMode,
        typer.Option(
            metavar=metavar(LogMode),
            help="Dirty log: cleared at each sync, or by hand and chunk by chunk "
            "(KVM_DIRTY_LOG_MANUAL_PROTECT2).",
        ),
    ] = LogMode.legacy
    clear_chunk: Annotated[
        int,
        typer.Option(metavar="PAGES", help="Pages in a chunk of log mode manual."),
    ] = 1 << 18
    hint_clears_log: HintClearsLog = True
    request: Annotated[
        RequestAxis | None,
        typer.Option(
            metavar=metavar(RequestAxis),
            show_default="each strategy's own",
            help="When reports are requested, for every strategy with hints.",
        ),
    ] = None
    request_delay: Annotated[
        str,
        typer.Option(metavar="TIME", help="From a request to the guest's snapshot."),
    ] = "1ms"
    report_delay: Annotated[
        str,
        typer.Option(metavar="TIME", help="From the snapshot to the report's arrival."),
    ] = "10ms"
    handle_delay: Annotated[
        str,
        typer.Option(metavar="TIME", help="From the arrival to the handling by the host."),
    ] = "1ms"
    hint_interval: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Between the requests of periodic and the ticks of resubmit."
        ),
    ] = "100ms"
    guest_hold: Annotated[
        GuestHold,
        typer.Option(
            metavar=metavar(GuestHold),
            help="How long the guest keeps off reported pages: not at all, until the report is "
            "handled, for good; auto is each strategy's own.",
        ),
    ] = GuestHold.auto
    min_order: Annotated[
        int,
        typer.Option(metavar="N", help="Report only aligned, wholly free blocks of 2^N pages."),
    ] = 0
    max_rounds: Annotated[
        int | None,
        typer.Option(
            metavar="N", show_default="no limit", help="Switch over after N rounds at the latest."
        ),
    ] = None
    at_end: Annotated[
        AtEnd,
        typer.Option(
            metavar=metavar(AtEnd),
            help="When the trace ends before the switchover: stop the replay, start the trace "
            "over, or go on as its working set was (drawn).",
        ),
    ] = AtEnd.stop
    scenarios: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            show_default="all that the trace calls for",
            help="Scenarios to replay, with commas between: recorded, expected, saturated; the "
            "first is always.",
        ),
    ] = None
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of what is drawn.")] = 0

    def _scenarios(self) -> tuple[str, ...] | None:
        if self.scenarios is None:
            return None
        names = tuple(name.strip() for name in self.scenarios.split(","))
        for name in names:
            if name not in ("recorded", "expected", "saturated"):
                refuse(
                    f"--scenarios: no scenario is named {name!r}; known: recorded, expected, "
                    "saturated"
                )
        return names


@dataclass(frozen=True)
class ReplayOptions(QemuOptions, _Knobs):
    """The knobs of a replay as the command line has them; see `with_replay_options`."""

    def parameters(self) -> Parameters:
        """Return them as a replay takes them; raises UsageError for what makes no sense."""
        self.check_together(self.profile)
        rate = units.bandwidth(self.bandwidth, "--bandwidth")
        limit, request, report, handle, interval = (
            units.duration(getattr(self, name), "--" + name.replace("_", "-"))
            for name in (
                "downtime_limit",
                "request_delay",
                "report_delay",
                "handle_delay",
                "hint_interval",
            )
        )

        from replay.parameters import Parameters  # noqa: PLC0415 - heavy

        return Parameters(
            bandwidth=rate,
            downtime_limit_ns=limit,
            profile=self.profile.value,
            log_mode=self.log_mode.value,
            clear_chunk=self.clear_chunk,
            hint_clears_log=self.hint_clears_log,
            request=self.request.value if self.request is not None else None,
            request_delay_ns=request,
            report_delay_ns=report,
            handle_delay_ns=handle,
            hint_interval_ns=interval,
            guest_hold=self.guest_hold.value,
            min_order=self.min_order,
            max_rounds=self.max_rounds,
            at_end=self.at_end.value,
            scenarios=self._scenarios(),
            seed=self.seed,
            **self.qemu_parameters(),
        )

    def parameters_as_recorded(self, command: str) -> Parameters:
        """Return them for a command that replays nothing drawn; raises UsageError as above."""
        for given, option in (
            (self.at_end is AtEnd.continue_, "--at-end continue"),
            (self.scenarios is not None, "--scenarios"),
            (self.seed != 0, "--seed"),
        ):
            if given:
                refuse(
                    f"{option}: {command} replays the trace as it was recorded and draws nothing; "
                    "that is for dirtylog replay"
                )
        return self.parameters()


def with_replay_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options of a replay in the place of its parameter `options`.

    The command itself is handed a ReplayOptions.
    """
    hints = get_type_hints(ReplayOptions, include_extras=True)
    fields = {
        field.name: inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(ReplayOptions)
    }
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        own = fields.values() if parameter.name == "options" else (parameter,)
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        options = ReplayOptions(**{name: given.pop(name) for name in fields})
        command(options=options, **given)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded
