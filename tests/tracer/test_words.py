"""Times, sizes and rates as a person reads them."""

from __future__ import annotations

import pytest

from tracer.words import duration, rate, setting, size, whole_size

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (4096, "4 KiB"),
        (4097, "4,097 B"),
        (MIB + 4 * KIB, "1,028 KiB"),
        (3 * GIB, "3 GiB"),
        (GIB + MIB, "1,025 MiB"),
    ],
)
def test_a_whole_size_leaves_nothing_out(number, said):
    assert whole_size(number) == said
    number_said, unit = said.replace(",", "").split()
    assert int(number_said) * {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}[unit] == number


def test_others_are_short():
    assert [duration(ns) for ns in (None, 0, 17, 1_234_567, 61 * 10**9)] == [
        "-", "0 s", "17 ns", "1.23 ms", "61.0 s",
    ]  # fmt: skip
    assert [setting(ns) for ns in (200, 1_500, 2_000_000, 123_456_789)] == [
        "200 ns", "1.5 us", "2 ms", "123 ms",
    ]  # fmt: skip
    assert [size(b) for b in (12, 192 * KIB, 3 * GIB + 1)] == ["12 B", "192 KiB", "3 GiB"]
    assert [rate(b) for b in (125_000_000, 100 * MIB, 7)] == ["1 Gbit/s", "100 MiB/s", "7 B/s"]
