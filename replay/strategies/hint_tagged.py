"""Reports carry a command id, a sync retires it."""

from replay.policies import EverySync, Tagged
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-tagged",
    origin="QEMU 4.0's free page hinting (virtio-balloon), not in the thread",
    request=EverySync(),
    accept=Tagged(),
    hold="done",
)
