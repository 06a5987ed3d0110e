"""What a sweep consists of, and what identifies each of its tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import xxhash

import replay
import tracer
from analyses.compare import all_able, named
from analyses.version import version
from replay.parameters import Parameters
from replay.profiles import profile
from replay.strategies import Strategy
from replay.strategies.loading import ENTRY_POINTS, names_a_file
from tracer.errors import UsageError
from tracer.places import Cache, Header, found, header

#: Told how far it is: what is being done, done, in all.
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Task:
    """One trace under one strategy with one set of parameters.

    strategy: as it is named on a command line; name: as result rows have it. key: identifies what
    comes out of it, since it stands for the trace's bytes, the parameters, the strategy and the
    code that replays.
    """

    trace: Header
    parameters: Parameters
    strategy: str
    name: str
    key: str


@dataclass(frozen=True)
class Plan:
    """A sweep: its tasks in the order of the result rows, and sentences on what was left out."""

    tasks: tuple[Task, ...]
    traces: tuple[Header, ...]
    parameters: tuple[Parameters, ...]
    remarks: tuple[str, ...]


def plan(
    texts: Sequence[str],
    names: Sequence[str],
    parameters: Sequence[Parameters],
    store: Cache,
    watch: Watch,
    *,
    anyway: bool = False,
) -> Plan:
    """Find the traces and lay out the tasks: traces by parameters by strategies.

    names: strategies, none for all that a trace has data for. anyway: replay traces that were
    recorded with hinting on, which in a folder are left out otherwise. Raises UsageError for what
    cannot or should not be replayed, TraceError where no trace is.
    """
    axes, remarks = _axes(names, tuple(dict.fromkeys(parameters)))
    places = list(dict.fromkeys(place for text in texts for place in found(text)))
    headers: dict[str, Header] = {}
    for number, place in enumerate(places):
        watch("reading headers", number, len(places))
        one = header(place, store)
        if one.digest in headers:
            remarks.append(f"{one.shown}: holds the same as {headers[one.digest].shown}; left out")
            continue
        if one.meta.hinting and not anyway:
            unfit = (
                f"{one.shown}: recorded with free page hinting on: it contains what hinting did "
                "to the guest, and other strategies replayed on it answer no question; "
            )
            if place in texts:
                raise UsageError(f"{unfit}leave it out, or pass --anyway")
            remarks.append(f"{unfit}left out (--anyway takes it)")
            continue
        headers[one.digest] = one
    own = {name: _own_code(name) for name in {s.argument for _, all_of in axes for s in all_of}}
    tasks: list[Task] = []
    for one in headers.values():
        asked = [
            (p.resolved(one.meta), s)
            for p, all_of in axes
            for s in all_of
            if one.has_freelist or not s.hints
        ]
        fitting = dict.fromkeys(asked)
        if len(fitting) < len(asked):
            remarks.append(
                f"{one.shown}: what is left to the trace to say comes to what is named as well; "
                "replayed once"
            )
        lacking = next((s for _, all_of in axes for s in all_of if s.hints), None)
        if lacking and not one.has_freelist:
            if names:
                raise UsageError(
                    f"{one.shown}: strategy {lacking.name} needs a free list and the trace has no "
                    "freelist.arrow; record one along, or sweep it apart"
                )
            remarks.append(f"{one.shown}: no free list, so what needs one is left out")
        tasks += (
            Task(one, p, _anywhere(s.argument), s.name, _key(one.digest, p, s, own[s.argument]))
            for p, s in fitting
        )
    if not tasks:
        raise UsageError("nothing to replay: no strategy fits")
    return Plan(tuple(tasks), tuple(headers.values()), tuple(p for p, _ in axes), tuple(remarks))


@cache
def code_version() -> str:
    """Return the version with a digest of the code that replays, so that no old result is taken."""
    digest = xxhash.xxh3_128()
    for package in (tracer, replay):
        root = Path(package.__path__[0])
        for file in sorted(root.rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return f"{version()} {digest.hexdigest()}"


def _axes(
    names: Sequence[str], parameters: Sequence[Parameters]
) -> tuple[list[tuple[Parameters, list[Strategy]]], list[str]]:
    """Return each set of parameters with its strategies; and remarks."""
    axes, remarks = [], []
    for one in parameters:
        profile(one.profile)
        if names:
            axes.append((one, [s.with_request(one.request) for s in named(names)]))
            continue
        able, more = all_able(one)
        axes.append((one, able))
        remarks += more
    return axes, list(dict.fromkeys(remarks))


def _key(digest: str, parameters: Parameters, strategy: Strategy, own: str) -> str:
    what = [digest, asdict(parameters), code_version(), strategy.name, own]
    return xxhash.xxh3_128_hexdigest(json.dumps(what).encode())


def _own_code(argument: str) -> str:
    """Say which text a user's own strategy has, or which version of which package it comes from."""
    if names_a_file(argument):
        return xxhash.xxh3_128_hexdigest(Path(argument.rpartition(":")[0]).read_bytes())
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == argument and entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
    return ""


def _anywhere(argument: str) -> str:
    """Return a strategy's argument as a process in another folder needs it."""
    if not names_a_file(argument):
        return argument
    file, _, name = argument.rpartition(":")
    return f"{Path(file).resolve()}:{name}"
