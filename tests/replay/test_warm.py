"""After `warm` no replay stops to compile a kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from replay.memory import memory_needed

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import sys
from pathlib import Path
from replay.parameters import Parameters
from replay.replay import replay
from replay.strategies import registered
from replay.warm import warm
from tracer import Trace

def compiled():
    return sorted(path.name for path in Path(sys.argv[1]).rglob("*.nbc"))

warm()
before = compiled()
assert len(before) > 10, before
trace = Trace.open("sample_traces/churn.hint-off.trace")
trace.validate()
for mode in ("legacy", "manual"):
    for strategy in registered().values():
        parameters = Parameters(
            bandwidth=200 << 20, log_mode=mode, report_delay_ns=10**9, max_rounds=6
        )
        replay(trace, strategy, parameters)
assert compiled() == before, set(compiled()) - set(before)
"""


def test_nothing_is_left_to_compile(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_terabyte_guest_fits():
    """2^28 pages take less than a GiB of bitmaps, whatever the strategy."""
    assert memory_needed(2**28, manual=True, hints=True, saturated=True) < 1 << 30
