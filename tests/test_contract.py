"""Every built-in strategy, and the documented one, keeps the contract of promptopt.testing.

A new strategy gets a class here; `budget_calls` stays small, so that each class takes some seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import documented_strategy

from promptopt.registry import BUILT_IN
from promptopt.testing import OptimizerContract


class TestCapo(OptimizerContract):
    optimizer = "capo"
    budget_calls = 170


class TestRandomSearch(OptimizerContract):
    optimizer = "random"
    budget_calls = 130


class TestSpo(OptimizerContract):
    optimizer = "spo"


class TestPromptAgent(OptimizerContract):
    optimizer = "promptagent"


class TestPromptQuine(OptimizerContract):
    optimizer = "promptquine"


class TestTaPruning(OptimizerContract):
    optimizer = "tapruning"


class TestClaps(OptimizerContract):
    optimizer = "claps"


class TestReflect(OptimizerContract):
    optimizer = "reflect"
    budget_calls = 170


class TestDocumented(OptimizerContract):
    budget_calls = 150

    @pytest.fixture(autouse=True)
    def write_file(self, tmp_path: Path) -> None:
        path = tmp_path / "climb.py"
        path.write_text(documented_strategy(), encoding="utf-8")
        self.optimizer, self.options = f"{path}:Climb", {"n_children": "2"}


def test_every_built_in_strategy_is_here() -> None:
    here = {cls.optimizer for cls in OptimizerContract.__subclasses__() if cls.__module__ == __name__}
    assert sorted(set(BUILT_IN) - here) == [], "add a class for each above"
