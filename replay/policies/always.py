"""Handle every report when its time comes."""

from replay.policies.base import Accept


class Always(Accept):
    """Handle it, however late."""

    name = "always"
