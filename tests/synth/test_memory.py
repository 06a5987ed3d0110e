"""A huge guest with many writes takes no more memory to make than one with few."""

from __future__ import annotations

import tracemalloc

import pyarrow as pa
import pytest

from tests.synth.guests import make_order, order
from tracer.synth.recording import Recording

TIB = 1 << 28  # pages


def peak(path, kind, writes, **settings) -> int:
    """Peak bytes of numpy and Arrow together, over what there was before."""
    wanted = order(kind, pages=TIB, seconds=1, rate=writes, **settings)
    before = pa.total_allocated_bytes()
    most = 0

    def watch(_done, _total):
        nonlocal most
        most = max(most, pa.total_allocated_bytes() - before)

    tracemalloc.start()
    try:
        make_order(wanted, path, force=True, compression="lz4", progress=watch)
        return tracemalloc.get_traced_memory()[1] + most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["hot-cold", "kernel-build", "java", "churn"])
def test_memory_does_not_grow_with_the_writes(tmp_path, kind):
    make_order(order(kind, seconds=1), tmp_path / "warm.trace")
    few, many = (peak(tmp_path / "x.trace", kind, n) for n in (300_000, 1_500_000))
    assert many < 1.15 * few + (4 << 20)
    assert many < 200 << 20


def test_nor_does_a_thinned_recording(tmp_path):
    recording = Recording(resolution="first-write", epoch_ns=100_000_000, freelist="sampled")
    wanted = {"recording": recording, "alloc_order": 4}
    make_order(order("churn", seconds=1, recording=recording), tmp_path / "warm.trace")
    few, many = (peak(tmp_path / "x.trace", "churn", n, **wanted) for n in (300_000, 1_500_000))
    assert many < 1.15 * few + (4 << 20)
