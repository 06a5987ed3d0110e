"""Ignore an answer that comes back after the first pass."""

from replay.policies import FirstPass, Once
from replay.strategies.base import Strategy

STRATEGY = Strategy(
    name="hint-first-pass",
    origin="the thread: ignore the free list response if it comes back after the first pass",
    request=Once(),
    accept=FirstPass(),
    sync="after",
)
