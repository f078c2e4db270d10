"""Goes on with a run in another process, where strings hash otherwise and nothing is remembered."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

from promptopt.config import Settings
from promptopt.task import Task
from promptopt.testing.double import Double
from promptopt.testing.subject import plan_for
from promptopt.testing.trial import execute

_CODE = "import sys; from promptopt.testing.process import go_on; go_on(sys.stdin.buffer.read())"


def go_on_elsewhere(task: Task, settings: Settings, folder: Path) -> None:
    """Go on with the run in `folder` in a fresh process.

    Raises:
        AssertionError: it raised there.
    """
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        input=pickle.dumps((task, settings, folder)),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=False,
    )
    said = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, f"in another process, the run cannot go on:\n{said}"


def go_on(message: bytes) -> None:
    """Go on with the run that `message` describes; called in the other process."""
    task, settings, folder = pickle.loads(message)
    execute(plan_for(task, settings), folder, Double(task))
