"""The strategies that there are, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replay.strategies import registered, strategy


def catalogue(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return each strategy's name, composition (the model, section 6) and origin; all for no names.

    request and accept are None for a strategy without reports.
    """
    return [
        {
            "name": one.name,
            "start": one.start,
            "request": one.request and one.request.name,
            "accept": one.accept and one.accept.name,
            "sync": one.sync,
            "drain": one.drain,
            "stop_guest": one.stop_guest,
            "hold": one.hold,
            "origin": one.origin,
        }
        for one in (map(strategy, dict.fromkeys(names)) if names else registered().values())
    ]
