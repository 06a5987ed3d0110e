"""The options of a replay with several values each, for a command that replays all combinations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from itertools import product
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args, get_type_hints

import typer

from analyses.commands.options import ReplayOptions

if TYPE_CHECKING:
    from replay.parameters import Parameters

_YES, _NO, _NONE = "yes", "no", "default"
#: Options whose one value is a list of names already.
_LISTS = ("scenarios",)


class Lists:
    """What was given for each option of a replay: texts with commas."""

    def __init__(self, given: dict[str, str]):
        self._given = given

    def parameters(self) -> list[Parameters]:
        """Return every combination, the last option's values varying fastest.

        Raises UsageError for a value that makes no sense, with the option's name.
        """
        values = [
            [_value(name, kind, text.strip()) for text in _texts(name, self._given[name])]
            for name, kind in _kinds().items()
        ]
        names = list(_kinds())
        found = [
            ReplayOptions(**dict(zip(names, chosen, strict=True))).parameters()
            for chosen in product(*values)
        ]
        return list(dict.fromkeys(found))


def _texts(name: str, given: str) -> list[str]:
    return [given] if name in _LISTS else given.split(",")


def with_lists(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options of a replay, with lists of values, in the place of `options`.

    The command itself is handed Lists.
    """
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        own = list(options().values()) if parameter.name == "options" else [parameter]
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        command(options=Lists({name: given.pop(name) for name in _kinds()}), **given)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded


def options() -> dict[str, inspect.Parameter]:
    """Return the options of a replay as texts, with the same names, help and defaults."""
    texts = {}
    hints = get_type_hints(ReplayOptions, include_extras=True)
    for name, one in inspect.signature(ReplayOptions).parameters.items():
        kind, option = get_args(hints[name])
        metavar = f"{_YES}|{_NO}" if kind is bool else option.metavar
        default = one.default
        text = _NONE if default is None else str(default)
        if kind is bool:
            text = _YES if default else _NO
        more: dict[str, Any] = {
            "help": option.help,
            "metavar": metavar if name in _LISTS else f"{metavar},...",
        }
        if default is None:
            more["show_default"] = f"{_NONE}: {option.show_default}"
        annotation = Annotated[str, typer.Option(f"--{name.replace('_', '-')}", **more)]
        texts[name] = one.replace(annotation=annotation, default=text)
    return texts


@functools.cache
def _kinds() -> dict[str, Any]:
    """Return the type of each option of a replay."""
    hints = get_type_hints(ReplayOptions, include_extras=True)
    return {field.name: get_args(hints[field.name])[0] for field in fields(ReplayOptions)}


def _value(name: str, kind: Any, text: str) -> Any:
    """Return one value as a single option would have it."""
    kinds = get_args(kind) or (kind,)
    if NoneType in kinds and text == _NONE:
        return None
    one = next(k for k in kinds if k is not NoneType)
    if one is bool:
        return (
            {_YES: True, _NO: False}.get(text)
            if text in (_YES, _NO)
            else _refuse(name, text, f"{_YES} or {_NO}")
        )
    if issubclass(one, StrEnum):
        return one(text) if text in list(one) else _refuse(name, text, "one of " + ", ".join(one))
    if one is int:
        return (
            int(text)
            if text.removeprefix("-").isdecimal()
            else _refuse(name, text, "a whole number")
        )
    return text


def _refuse(name: str, text: str, wanted: str) -> NoReturn:
    from tracer.errors import UsageError  # noqa: PLC0415 - its package is heavy

    raise UsageError(f"--{name.replace('_', '-')}: {text!r} does not fit; wanted {wanted}")
