"""Return queued answers unread with each sync."""

from replay.policies import Flush, Once
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-flush",
    origin="the thread's lock and queue-popping pseudo-code",
    request=Once(),
    accept=Flush(),
)
