"""What all compiled loops have in common: cached, without the interpreter's lock, unchecked.

Where the package's folder is not writable numba keeps what it compiled in the user's cache folder
(`~/.cache/numba`), or in NUMBA_CACHE_DIR if that is set.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined,assignment,unused-ignore"

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

from tracer.interrupts import whole

try:
    from numba.core.runtime import rtsys
except ImportError:  # pragma: no cover - an inner name, which a later numba may not have
    rtsys = None


def compiled(function: Callable[..., Any]) -> Any:
    """Compile when first called, integer division as in NumPy; found again by later processes.

    No bounds are checked: what a compiled function indexes with has been checked before. Ctrl-C
    waits for the compiler, which crashes when it is interrupted.
    """
    kernel = njit(cache=True, nogil=True, error_model="numpy")(function)
    kernel.compile = whole(kernel.compile)
    if rtsys is not None and hasattr(kernel, "_cache"):
        kernel._cache = _QuickCache(function)
    return kernel


def is_kept(kernel: Any) -> bool:
    """Return whether a compiled function lies in the cache, up to date and for this processor.

    Goes by how numba keeps it; where that is not as expected, it says no.
    """
    try:
        kept = kernel._cache._cache_file._load_index()
        here = kernel.targetctx.codegen().magic_tuple()
        return any(processor == here for _, processor, _ in kept)
    except (AttributeError, OSError, TypeError, ValueError):
        return False


def sources(function: Callable[..., Any]) -> set[Path]:
    """Return the file of a function and those of all compiled functions that its file imports.

    What is compiled holds the code and the constants of them all.
    """
    found: set[Path] = set()
    waiting: list[Any] = [function]
    while waiting:
        one = waiting.pop()
        file = Path(one.__code__.co_filename)
        if file not in found:
            found.add(file)
            values = list(one.__globals__.values())
            inner = (getattr(v, "py_func", None) or getattr(v, "_defn", None) for v in values)
            waiting += [called for called in inner if hasattr(called, "__code__")]
    return found


class _QuickCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, but sooner, and never out of date.

    Numba readies the compiler, a quarter second, before it looks whether there is anything to
    compile; if there is, it does so again by itself. And it goes by the function's own file alone
    to see whether what it kept is still good.
    """

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        changed = [(file.stat().st_mtime_ns, file.stat().st_size) for file in sources(function)]
        self._cache_file._source_stamp = sorted(changed)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
        except (AttributeError, TypeError, NotImplementedError):
            return super().load_overload(sig, target_context)
        return None
