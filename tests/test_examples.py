"""The projects in examples/ work as their pages say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def pytest_in(folder: Path) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "OPENAI"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_the_tested_pipeline_passes_on_its_recordings_and_notices_a_changed_word(tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(EXAMPLES / "tested_pipeline", folder)
    passed = pytest_in(folder)
    assert "2 passed" in passed.stdout, passed.stdout
    prompt = (folder / "prompt.md").read_text()
    (folder / "prompt.md").write_text(prompt.replace("into one of these groups", "into one of the groups"))
    changed = pytest_in(folder)
    assert "2 failed" in changed.stdout
    assert "these groups" in changed.stdout
    assert "+Sort the customer's message into one of the groups" in changed.stdout
