"""Tests that a strategy inherits: `OptimizerContract`, and the test doubles that it stands on.

    from promptopt.testing import OptimizerContract

    class TestMine(OptimizerContract):
        optimizer = "my_file.py:Mine"

Run them with pytest; nothing here needs it otherwise. docs/strategies.md says what each test wants.
"""

from __future__ import annotations

from promptopt.testing.contract import OptimizerContract
from promptopt.testing.double import Double, Recorder, by_role, role_of
from promptopt.testing.kill import Snapshots
from promptopt.testing.leak import Leaks
from promptopt.testing.material import label_task, number_task
from promptopt.testing.trial import Trial, answered, difference, execute, outcome

__all__ = [
    "Double",
    "Leaks",
    "OptimizerContract",
    "Recorder",
    "Snapshots",
    "Trial",
    "answered",
    "by_role",
    "difference",
    "execute",
    "label_task",
    "number_task",
    "outcome",
    "role_of",
]
