"""Ask again with every regular sync."""

from replay.policies.base import Request


class EverySync(Request):
    """A report at the start and at every regular sync but the stopping one.

    Asked for whether or not earlier reports are outstanding.
    """

    name = "every-sync"

    def at_sync(self) -> bool:
        """Ask."""
        return True
