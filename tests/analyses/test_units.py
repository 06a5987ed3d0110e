from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.commands import units
from tracer import UsageError

RATES = {
    "B/s": 1,
    "kB/s": 10**3,
    "KB/s": 10**3,
    "MB/s": 10**6,
    "GB/s": 10**9,
    "TB/s": 10**12,
    "KiB/s": 1 << 10,
    "MiB/s": 1 << 20,
    "GiB/s": 1 << 30,
    "TiB/s": 1 << 40,
    "kbit/s": 125,
    "Mbit/s": 125_000,
    "Gbit/s": 125_000_000,
    "Tbit/s": 125_000_000_000,
    "Kibit/s": 128,
    "Mibit/s": 128 << 10,
    "Gibit/s": 128 << 20,
}
TIMES = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9}


@given(st.integers(1, 10**12), st.sampled_from(list(RATES.items())), st.sampled_from(["", " "]))
def test_a_whole_rate_is_exact(number, unit, space):
    assert units.bandwidth(f"{number}{space}{unit[0]}", "--bandwidth") == number * unit[1]


@given(st.integers(0, 10**12), st.sampled_from(list(TIMES.items())), st.sampled_from(["", " "]))
def test_a_whole_duration_is_exact(number, unit, space):
    assert units.duration(f"{number}{space}{unit[0]}", "--report-delay") == number * unit[1]


@given(st.decimals(0, 10**9, places=3), st.sampled_from(list(TIMES.items())))
def test_a_fraction_is_exact_or_refused(number, unit):
    text, exact = f"{number:f}{unit[0]}", Decimal(number) * unit[1]
    if exact == int(exact):
        assert units.duration(text, "--report-delay") == int(exact)
    else:
        with pytest.raises(UsageError, match="no whole number of ns"):
            units.duration(text, "--report-delay")


@given(st.text(max_size=12))
def test_anything_else_is_refused_in_one_line(text):
    for read in (units.bandwidth, units.duration, units.size):
        try:
            said = read(text, "--option")
        except UsageError as error:
            said = str(error)
        if isinstance(said, str):
            assert said.startswith("--option: ")
            assert " like " in said
            assert "\n" not in said


def test_examples():
    assert units.size("1GiB", "") == 1 << 30
    assert units.size("1.5 kB", "") == 1500
    assert units.size("7B", "") == 7
    with pytest.raises(UsageError, match="no whole number of bytes"):
        units.size("1.5B", "--memory")
    assert units.bandwidth("1.5Gbit/s", "") == 187_500_000
    assert units.bandwidth("64 MiB/s", "") == 64 << 20
    assert units.bandwidth("8bit/s", "") == 1
    assert units.duration("0", "") == 0
    assert units.duration("1.5s", "") == 1_500_000_000
    assert units.duration("2min", "") == 120_000_000_000


@pytest.mark.parametrize(
    "text",
    ["", "fast", "10", "10Gb", "10Gbps", "-1MB/s", "1e9B/s", "nanB/s", "1,5GB/s", "1.MB/s",
     "10mb/s", "10 Gbit", "0B/s", "0.0Gbit/s", "3bit/s", "1.5B/s", "٣MB/s", "9" * 5000 + "B/s"],
)  # fmt: skip
def test_nonsense_bandwidths(text):
    with pytest.raises(UsageError):
        units.bandwidth(text, "--bandwidth")


@pytest.mark.parametrize("text", ["", "5", "-5ms", "1h", "1e3ms", "ms", "0.5ns", "1 m s", "1,5s"])
def test_nonsense_durations(text):
    with pytest.raises(UsageError):
        units.duration(text, "--report-delay")
