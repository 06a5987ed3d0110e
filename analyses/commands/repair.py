"""`dirtylog repair`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.commands import units
from analyses.commands.options import (
    Anyway,
    AsJson,
    OneStrategy,
    OneTrace,
    ReplayOptions,
    with_replay_options,
)

if TYPE_CHECKING:
    from analyses.interleavings import Setting
    from analyses.price import Price
    from analyses.repair import Repairs


@with_replay_options
def repair(
    *,
    trace: OneTrace,
    strategy: OneStrategy,
    options: ReplayOptions,
    anyway: Anyway = False,
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE", help="Leave a change undecided whose proof takes more: MiB, GiB, ..."
        ),
    ] = "1GiB",
    as_json: AsJson = False,
) -> None:
    """Find the one policy to change that makes a strategy safe, and what that costs on a trace.

    Safe means proved: no write is lost in any order of steps of guests of up to three pages, as by
    `dirtylog prove`. Every repair is replayed beside the strategy as it is and plain precopy. Where
    no single change is enough, pairs are tried.
    """
    parameters = options.parameters()

    from analyses.commands.compiling import compile_kernels  # noqa: PLC0415 - heavy
    from analyses.compare import check, plan  # noqa: PLC0415
    from analyses.interleavings import Bounds, Setting  # noqa: PLC0415
    from analyses.price import prices  # noqa: PLC0415
    from analyses.render.repair import show  # noqa: PLC0415
    from analyses.render.terminal import Bar, Page, emit  # noqa: PLC0415
    from analyses.repair import proved, repairs  # noqa: PLC0415

    work = plan([trace], [strategy], parameters, anyway=anyway)
    ((opened, (chosen,)),) = work.traces
    compile_kernels()
    setting = Setting(
        chosen, parameters.log_mode, parameters.hold(chosen), parameters.hint_clears_log
    )
    bounds = Bounds(memory=units.size(memory, "--memory"))
    with Bar() as bar:
        check(opened, bar)
        found = None
        if proved(setting, bounds) is None:
            found = repairs(setting, bounds, lambda done, total: bar("searching", done, total))
        spent = prices(opened, chosen, parameters, () if found is None else found.found, bar)
    if as_json:
        emit(json.dumps(_json(opened.name, setting, found, spent), indent=2) + "\n")
    else:
        show(opened.name, setting, found, spent, Page())


def _json(
    trace_name: str, setting: Setting, found: Repairs | None, spent: list[Price]
) -> dict[str, Any]:
    request = setting.strategy.request
    return {
        "trace": trace_name,
        "strategy": setting.strategy.name,
        "request": None if request is None else request.name,
        "log_mode": setting.log_mode,
        "guest_hold": setting.hold,
        "hint_clears_log": setting.hint_clears_log,
        "proved": found is None,
        "undecided": 0 if found is None else found.undecided,
        "precopy": spent[0].to_dict(),
        "as_it_is": spent[1].to_dict(),
        "repairs": [price.to_dict() for price in spent[2:]],
    }
