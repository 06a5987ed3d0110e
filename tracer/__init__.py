"""What a trace is, and every way to get one."""

from tracer.errors import DirtylogError, TraceError, UsageError, VersionError
from tracer.format import Block, Meta
from tracer.rows import Rows
from tracer.streaming import StreamingWriter
from tracer.trace import Trace
from tracer.writer import TraceWriter

__all__ = [
    "Block",
    "DirtylogError",
    "Meta",
    "Rows",
    "StreamingWriter",
    "Trace",
    "TraceError",
    "TraceWriter",
    "UsageError",
    "VersionError",
]
