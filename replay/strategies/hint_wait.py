"""Nothing is sent before the guest has answered."""

from replay.policies import Always, Once
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-wait",
    origin="the first patches of 2016: nothing is sent before the guest has answered",
    request=Once(),
    accept=Always(),
    start="wait",
)
