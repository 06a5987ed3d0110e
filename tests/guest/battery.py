"""Record the migrations that predictions are measured against: workloads, bandwidths, repeats.

PYTHONPATH=. python -m tests.guest.battery OUT [REPEATS]

Takes about ten minutes a repeat, and a machine that does nothing else: the sender keeps to windows
of 100 ms, which a busy host stretches. What is there already is not recorded again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.guest import build

#: What the guest does (tests/guest/load.c), and at which bandwidths (MiB/s) it is migrated.
SWEPT = {
    "seq": "sequential,rate=5000,mb=128",
    "uniform": "uniform,rate=4000,mb=160,seed={repeat}",
    "hot": "hot,rate=3000,mb=96,percent=90,share=10,seed={repeat}",
    "phases": "phases,rate=4000,mb=64,seconds=5,seed={repeat}",
}
BANDWIDTHS = (40, 20, 80)
HINTED = "hot,rate=3000,mb=96,percent=90,share=10,prefill=250,seed={repeat}"
CONVERGED = "uniform,rate=8000,mb=200,cap=2,seed={repeat}"


def cases() -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, load and options of each recording."""
    for bandwidth in BANDWIDTHS:
        for name, load in SWEPT.items():
            yield f"{name}.{bandwidth}", load, [f"--bandwidth={bandwidth}MiB/s"]
    yield "prefill-hot.64.hint-off", HINTED, ["--bandwidth=64MiB/s"]
    yield "prefill-hot.64.hint-on", HINTED, ["--bandwidth=64MiB/s", "--free-page-hint"]
    converge = ["--bandwidth=24MiB/s", "--auto-converge", "--cancel-after=120s"]
    yield "uniform-converge.24", CONVERGED, converge


def main(out: Path, repeats: int) -> None:
    """Record every case so many times."""
    kernel, initrd = build(out / "guest")
    for repeat in range(1, repeats + 1):
        for name, load, options in cases():
            trace = out / f"{name}.r{repeat}.trace"
            if trace.exists():
                continue
            said = f"console=ttyS0 quiet panic=-1 load={load.format(repeat=repeat)}"
            command = [
                sys.executable, "-m", "analyses.commands", "record", "migration",
                "-o", str(trace), "--downtime-limit=300ms", "--cancel-after=45s", *options,
                "--freelist=virtio", "--start-when=load: ready", "--start-after=3s", "--",
                "qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-display", "none",
                "-nodefaults", "-no-reboot", "-serial", "stdio",
                "-kernel", str(kernel), "-initrd", str(initrd), "-append", said,
            ]  # fmt: skip
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
