"""Filter and sync whenever the answer comes."""

from replay.policies import Always, Once
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-async",
    origin="the thread's pseudo-code taken literally: `if (is_ready) { filter; "
    "migration_bitmap_sync(); }` at any time",
    request=Once(),
    accept=Always(),
    sync="after",
)
