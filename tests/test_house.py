"""The house: layers whose imports go one way, and a wheel of exactly three packages."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("tracer", "replay", "analyses")


def _imports(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer):
    above = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"tests"}
    for file in (ROOT / layer).rglob("*.py"):
        assert not _imports(file) & above, f"{file} imports from above its layer"


@pytest.mark.parametrize("layer", ["replay", "tracer"])
def test_only_commands_and_renderers_speak(layer):
    for file in (ROOT / layer).rglob("*.py"):
        assert not _imports(file) & {"typer", "rich"}, f"{file} draws"


def test_policies_and_hints_know_no_truth():
    """What decides may not read what judges (the model, section 4)."""
    truth = {"SYNCED", "CREDIT", "HELD", "WRITTEN", "ZERO"}
    deciding = [ROOT / "replay" / "hints.py", *(ROOT / "replay" / "policies").glob("*.py")]
    for file in deciding:
        names = {n.id for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Name)}
        names |= {
            n.attr for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Attribute)
        }
        assert not names & truth, file


def test_the_wheel_holds_the_three_packages(tmp_path):
    """Built in an environment of its own, as pip builds it."""
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(LAYERS)
    packaged = {name for name in names if name.endswith(".py")}
    ours = {
        str(file.relative_to(ROOT)) for layer in LAYERS for file in (ROOT / layer).rglob("*.py")
    }
    assert packaged == ours
    programs = {file.name for file in (ROOT / "tracer" / "readers" / "host").iterdir()}
    assert {f"tracer/readers/host/{name}" for name in programs} <= set(names)


def test_the_top_level_holds_nothing_else():
    known = {
        *("tracer", "replay", "analyses", "tests", "sample_traces"),
        *("pyproject.toml", "README.md", "ARCHITECTURE.md", "COMMANDS.md", "LICENSE"),
    }
    # Hidden files are tools' own; the rest is what Python leaves.
    left = {"__pycache__", "build", "dist"}
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - left <= known
