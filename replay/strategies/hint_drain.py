"""A sync waits until the outstanding answer has been filtered out."""

from replay.policies import Always, Once
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-drain",
    origin="the thread: if a request is outstanding, filter out its pages before "
    "migration_bitmap_sync",
    request=Once(),
    accept=Always(),
    drain=True,
)
