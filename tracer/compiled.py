"""What all compiled loops have in common: cached, without the interpreter's lock, unchecked.

Where the package's folder is not writable numba keeps what it compiled in the user's cache folder
(`~/.cache/numba`), or in NUMBA_CACHE_DIR if that is set.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined,assignment,unused-ignore"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

try:
    from numba.core.runtime import rtsys
except ImportError:  # pragma: no cover - an inner name, which a later numba may not have
    rtsys = None


def compiled(function: Callable[..., Any]) -> Any:
    """Compile when first called, integer division as in NumPy; found again by later processes.

    No bounds are checked: what a compiled function indexes with has been checked before.
    """
    kernel = njit(cache=True, nogil=True, error_model="numpy")(function)
    if rtsys is not None and hasattr(kernel, "_cache"):
        kernel._cache = _QuickCache(function)
    return kernel


class _QuickCache(FunctionCache):  # type: ignore[misc]
    """Loads a compiled function without readying the compiler, which takes a quarter second.

    Numba readies it before it looks whether there is anything to compile; if there is, it does so
    again by itself.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
        except (AttributeError, TypeError, NotImplementedError):
            return super().load_overload(sig, target_context)
        return None
