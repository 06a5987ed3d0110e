"""Readers of foreign recordings: one module for each kind, each ending in a trace."""

from tracer.readers.bitmaps import import_bitmaps
from tracer.readers.criu import import_criu
from tracer.readers.firecracker import import_firecracker
from tracer.readers.ftrace import import_ftrace
from tracer.readers.kmem import import_kmem
from tracer.readers.lackey import import_lackey
from tracer.readers.page_ranges import import_page_ranges
from tracer.readers.qemu import import_qemu
from tracer.readers.qemu_simple import simpletrace_reader
from tracer.readers.report import ImportReport, ReadReport

__all__ = [
    "ImportReport",
    "ReadReport",
    "import_bitmaps",
    "import_criu",
    "import_firecracker",
    "import_ftrace",
    "import_kmem",
    "import_lackey",
    "import_page_ranges",
    "import_qemu",
    "simpletrace_reader",
]
