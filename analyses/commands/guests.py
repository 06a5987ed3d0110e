"""The options of `dirtylog synth`: read, and fitted to the kind of guest that they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from analyses.commands import units

if TYPE_CHECKING:
    from tracer.synth.make import Order

#: How the options of single kinds are read; each is named as in the kind's own options.
PARSERS: dict[str, Callable[[str, str], Any]] = {
    "rate": units.count,
    "alloc_order": units.count,
    "background": units.share,
    "stale": units.share,
    "working_set": units.amount,
    "resident": units.share,
    "reclaim": units.share,
    "hot_share": units.share,
    "hot_size": units.share,
    "exponent": units.number,
    "phases": units.count,
    "buffer": units.amount,
    "kept": units.count,
    "jobs": units.count,
    "process_size": units.amount,
    "cache_writes": units.share,
    "cache_limit": units.amount,
    "heap": units.amount,
    "eden": units.share,
    "survival": units.share,
    "promotion": units.share,
    "old_writes": units.share,
    "old_live": units.share,
    "free": units.share,
    "initramfs": units.amount,
    "plant": lambda choice, _option: str(choice),
    "races": units.count,
    "decoys": units.count,
    "bandwidth": units.bandwidth,
    "downtime_limit": units.duration,
    "request_delay": units.duration,
    "report_delay": units.duration,
    "handle_delay": units.duration,
    "hint_interval": units.duration,
    "clear_chunk": units.count,
}


def order(kind: str, given: Mapping[str, Any]) -> Order:
    """Return the guest to make; `given` are the command's parameters, None where not given.

    Raises UsageError for values that make no sense and for options that the kind does not have.
    """
    from tracer.synth import KINDS, options_of  # noqa: PLC0415 - heavy
    from tracer.synth.make import Order  # noqa: PLC0415
    from tracer.synth.recording import Recording  # noqa: PLC0415

    allowed = options_of(kind)
    chosen = {}
    for name, read in PARSERS.items():
        if given[name] is None:
            continue
        if name not in allowed.names():
            others = [other for other in KINDS if name in options_of(other).names()]
            refuse(f"{flag(name)}: {kind} has no such option; {', '.join(others)} have")
        chosen[name] = read(given[name], flag(name))
    if not given["init_on_alloc"] and kind == "race":
        refuse("--no-init-on-alloc: race plants all that happens")
    page_size = units.size(given["page_size"], "--page-size")
    return Order(
        kind,
        allowed(**chosen),
        pages=_pages(given, page_size, allowed.MEMORY),
        page_size=page_size,
        duration_ns=_duration(given["duration"], allowed.DURATION_NS),
        seed=given["seed"],
        init_on_alloc=given["init_on_alloc"],
        recording=Recording(
            resolution=given["resolution"].value,
            epoch_ns=units.duration(given["epoch"], "--epoch"),
            freelist=given["free_list"].value,
            sample_ns=units.duration(given["sample_every"], "--sample-every"),
            quantum_ns=units.duration(given["quantum"], "--quantum"),
        ),
    )


def flag(name: str) -> str:
    """Return an option as it is written on the command line."""
    return "--" + name.replace("_", "-")


def refuse(message: str) -> NoReturn:
    """Raise UsageError."""
    from tracer.errors import UsageError  # noqa: PLC0415 - its package is heavy

    raise UsageError(message)


def _pages(given: Mapping[str, Any], page_size: int, default: int) -> int:
    pages: int | None = given["pages"]
    if pages is not None and given["memory"] is not None:
        refuse("--memory and --pages: give one of them")
    if not page_size:
        refuse("--page-size: a page has at least a byte")
    if pages is not None:
        return pages
    memory = default if given["memory"] is None else units.size(given["memory"], "--memory")
    if memory % page_size:
        refuse(f"--memory: {memory:,} bytes are no whole number of pages of {page_size:,} bytes")
    return memory // page_size


def _duration(text: str | None, default: int) -> int:
    return default if text is None else units.duration(text, "--duration")
