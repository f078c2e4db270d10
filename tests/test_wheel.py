"""A wheel installs one package, whole: no top-level `tasks` ends up in anyone's site-packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_wheel_holds_one_package_with_its_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("promptopt", "tasks", "optimizers"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    names = zipfile.ZipFile(next(source.glob("*.whl"))).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"promptopt"}
    for path in (
        "optimizers/capo.py",
        "simulator/engine.py",
        "testing/contract.py",
        "tasks/support/train.jsonl",
        "tasks/support/README.md",
        "py.typed",
    ):
        assert f"promptopt/{path}" in names
