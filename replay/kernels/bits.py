"""Words of 64 pages: what compiled code asks of a uint64, and of eight of them at once."""

# mypy: disable-error-code="call-arg,unused-ignore,var-annotated"

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_WORD = ir.IntType(64)
_LINE = ir.VectorType(_WORD, 8)


@intrinsic  # type: ignore[untyped-decorator]
def popcount(_context: Any, _word: Any) -> Any:
    """Count the set bits of a uint64."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def lowest(_context: Any, _word: Any) -> Any:
    """Return the index of the lowest set bit of a non-zero uint64."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        flag = context.get_constant(types.boolean, True)
        return builder.cttz(args[0], flag)

    return types.int64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def highest(_context: Any, _word: Any) -> Any:
    """Return the index of the highest set bit of a non-zero uint64."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        flag = context.get_constant(types.boolean, True)
        return builder.sub(ir.Constant(_WORD, 63), builder.ctlz(args[0], flag))

    return types.int64(types.uint64), codegen


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def set_and_clear(_context: Any, rows: Any, row: Any, mask: Any, sets: Any, clears: Any) -> Any:
    """Set `mask` in the columns `sets` of `rows[row]` and clear it in the columns `clears`.

    rows: C-contiguous uint64 (n, 8), best aligned to a cache line; row and mask: uint64; sets and
    clears: literal bit sets of columns. One load, one store of the whole line. No bounds check.
    """
    chosen = [kind.literal_value for kind in (sets, clears)]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        first = builder.gep(data, [builder.mul(args[1], ir.Constant(_WORD, 8))])
        line = builder.bitcast(first, _LINE.as_pointer())
        spread = builder.insert_element(ir.Constant(_LINE, None), args[2], _WORD(0))
        spread = builder.shuffle_vector(
            spread, spread, ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
        )
        adding, removing = (
            builder.and_(spread, ir.Constant(_LINE, [-(columns >> lane & 1) for lane in range(8)]))
            for columns in chosen
        )
        old = builder.load(line, align=8)
        new = builder.or_(builder.and_(old, builder.not_(removing)), adding)
        builder.store(new, line, align=8)
        return context.get_dummy_value()

    return types.void(rows, row, mask, sets, clears), codegen


@intrinsic  # type: ignore[untyped-decorator]
def fetch_ahead(_context: Any, words: Any, word: Any) -> Any:
    """Ask the memory for `words[word]`, which will be needed soon. No bounds check.

    It comes into the second cache: the first has room for fewer such requests at a time than
    memory can answer.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        first = builder.gep(data, [args[1]])
        where, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        ask = builder.module.declare_intrinsic(
            "llvm.prefetch", [where], ir.FunctionType(ir.VoidType(), [where, flag, flag, flag])
        )
        for_writing, keep, data_cache = (ir.Constant(flag, value) for value in (0, 2, 1))
        builder.call(ask, [builder.bitcast(first, where), for_writing, keep, data_cache])
        return context.get_dummy_value()

    return types.void(words, word), codegen


@intrinsic  # type: ignore[untyped-decorator]
def unowned(_context: Any, array: Any) -> Any:
    """Return the same array, not counted by whoever uses it; somebody else has to keep it.

    Counting takes an atomic operation for every array that is given to a function, even to one that
    is compiled into its caller: as long as copying some pages.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, args[0])
        made.meminfo = ir.Constant(made.meminfo.type, None)
        made.parent = ir.Constant(made.parent.type, None)
        return made._getvalue()

    return array(array), codegen


@njit(cache=True, nogil=True, inline="always")
def run_mask(low, width):  # type: ignore[no-untyped-def]
    """Return the mask of `width` (1..64) bits from bit `low`."""
    return (_ALL >> np.uint64(64 - width)) << np.uint64(low)
