"""Ask again at fixed times."""

from replay.policies import Flush, Periodic
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-periodic",
    origin="the thread: how often should the guest update the bitmap?",
    request=Periodic(),
    accept=Flush(),
)
