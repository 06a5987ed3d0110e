"""Sync and filter while the vCPUs stand still."""

from replay.policies import Always, Once
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-stop-vcpu",
    origin="the thread: sync in the IO handler while the vCPU is stopped, filter while the "
    "listed pages cannot be used",
    request=Once(),
    accept=Always(),
    sync="before",
    stop_guest=True,
)
