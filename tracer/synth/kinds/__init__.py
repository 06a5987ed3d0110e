"""The kinds of synthetic guests, one module each."""

from __future__ import annotations
