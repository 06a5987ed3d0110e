"""Ask once, at the start."""

from replay.policies.base import Request


class Once(Request):
    """One report, asked for at the start."""

    name = "once"
