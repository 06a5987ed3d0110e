"""Handle what lies in the queue before each sync."""

from replay.policies import FlushBefore, Once
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-flush-before",
    origin="the thread: filter upon the IO handler, but flush the queue before "
    "migration_bitmap_sync",
    request=Once(),
    accept=FlushBefore(),
)
