"""Readers of foreign recordings: one module for each kind, each ending in a trace."""

from tracer.readers.qemu import import_qemu
from tracer.readers.report import ImportReport

__all__ = ["ImportReport", "import_qemu"]
