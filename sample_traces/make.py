"""Make the sample traces from a folder of captures; see the README beside this file.

PYTHONPATH=. python sample_traces/make.py CAPTURES [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

from race import make_race

from tracer import Trace
from tracer.readers import import_qemu

#: Name of the capture and of the trace, and where to end it (ns of guest time; None: nowhere).
SAMPLES: dict[str, int | None] = {
    "prefill-hot.hint-off": None,
    "prefill-hot.hint-on": None,
    "seq.40": None,
    "seq.20": None,
    "uniform.autoconverge": None,
    "churn.hint-off": 30_000_000_000,
    "uniform.qemu-11": None,
    "kvm-ring": None,
}


def make_all(captures: Path, out: Path) -> None:
    """Import every sample from `captures` into `out`, replacing those that are there."""
    total = 0
    for name, until_ns in SAMPLES.items():
        path = out / f"{name}.trace"
        report = import_qemu(captures / name, out=path, force=True, until_ns=until_ns)
        size = Trace.open(path).size_bytes
        total += size
        sys.stderr.write(f"{path.name}: {report.rows['dirty']} dirty rows, {size} bytes\n")
    make_race(out / "race.trace", force=True)
    sys.stderr.write(f"{total} bytes together\n")


if __name__ == "__main__":
    here = Path(__file__).parent
    make_all(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else here)
