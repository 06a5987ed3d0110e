"""The one family of errors that a user of dirtylog can meet.

Every error carries the exit code that the command line ends with; only `analyses.commands.main`
catches them.
"""


class DirtylogError(Exception):
    """Something the user should know. The text says what, where and what to do."""

    exit_code = 1


class UsageError(DirtylogError):
    """The request itself does not fit: an unknown strategy, a nonsense bandwidth."""

    exit_code = 2


class TraceError(DirtylogError):
    """A trace or a recording that is missing, cut short, corrupt or none at all."""

    exit_code = 3


class VersionError(TraceError):
    """A trace of a version that this dirtylog does not know."""

    exit_code = 4


class CheckError(DirtylogError):
    """An asked-for check did not hold: unsafe, not converged, out of tolerance."""

    exit_code = 5


class RecordError(DirtylogError):
    """What should be recorded cannot be had: no QEMU, a monitor that refuses, a guest that died."""
