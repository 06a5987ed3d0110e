"""The guest answers anew whenever the host has consumed."""

from replay.policies import Flush, Resubmit
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-resubmit",
    origin="the thread: the guest resubmits when the host consumed, the handler runs on host ticks",
    request=Resubmit(),
    accept=Flush(),
)
