"""Plain pre-copy, the baseline."""

from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="precopy",
    origin="the baseline: no hints",
)
