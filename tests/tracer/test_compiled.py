"""Compiled functions are kept and found again, unless what they were made of has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from replay.kernels import reports
from tracer.compiled import sources

ROOT = Path(__file__).parent.parent.parent

INNER = (
    "from tracer.compiled import compiled\n\nSTEP = 1\n\n@compiled\ndef inner(x):\n    return x\n"
)
OUTER = """
import sys

from inner import STEP, inner
from tracer.compiled import compiled, is_kept

@compiled
def outer(x):
    return inner(x) + STEP

print(is_kept(outer))
print(outer(1), is_kept(outer), sum(outer.stats.cache_hits.values()), outer.stats.cache_path)
print(sorted(name for name in sys.modules if name == "numba.np.linalg"))
"""


def run(folder: Path, **environment: str) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", "import outer"]
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "PYTHONPATH": f"{folder}:{ROOT}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def write(folder: Path) -> None:
    (folder / "inner.py").write_text(INNER)
    (folder / "outer.py").write_text(OUTER)


def test_kept_and_found_again_without_the_compiler(tmp_path):
    write(tmp_path)
    first, second = run(tmp_path), run(tmp_path)
    assert first[:4] == ["False", "2", "True", "0"]
    assert second[:4] == ["True", "2", "True", "1"]
    assert second[5] == "[]", "the compiler was readied to load what is compiled"


def test_a_change_in_what_is_called_is_seen(tmp_path):
    write(tmp_path)
    assert run(tmp_path)[1] == "2"
    (tmp_path / "inner.py").write_text(INNER.replace("STEP = 1", "STEP = 20"))
    assert run(tmp_path)[:4] == ["False", "21", "True", "0"]


def test_kept_elsewhere_where_the_package_is_not_writable(tmp_path):
    package, cache = tmp_path / "package", tmp_path / "cache"
    package.mkdir()
    write(package)
    # A file where the folder would be: it stops root too.
    (package / "__pycache__").write_text("")
    answers = [run(package, XDG_CACHE_HOME=str(cache), PYTHONDONTWRITEBYTECODE="1")]
    answers.append(run(package, XDG_CACHE_HOME=str(cache), PYTHONDONTWRITEBYTECODE="1"))
    assert [answer[3] for answer in answers] == ["0", "1"]
    assert Path(answers[0][4]).is_relative_to(cache)


def test_sources_are_those_of_all_that_is_called():
    found = {file.relative_to(ROOT).as_posix() for file in sources(reports.skip.py_func)}
    assert found == {
        f"replay/kernels/{name}.py" for name in ("bits", "reports", "rows", "stretch", "sweep")
    }
