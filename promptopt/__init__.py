"""Finds a better prompt for a black-box LLM, at an agreed cost, with evidence on unseen data.

    import promptopt
    result = promptopt.optimize("Classify the message.", "support", model="sim")

Names are imported when they are first used, so that `import promptopt` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptopt.api import aoptimize, evaluate, optimize
    from promptopt.config import Settings, load_task
    from promptopt.errors import (
        BudgetExhausted,
        ConfigError,
        JournalError,
        PromptoptError,
        ProviderError,
        ReplayDiverged,
        TaskError,
    )
    from promptopt.registry import Optimizer
    from promptopt.result import Result
    from promptopt.study import Study
    from promptopt.task import Task
    from promptopt.types import (
        Budget,
        Candidate,
        Demo,
        Example,
        Metric,
        Prompt,
        Response,
        Score,
        ScoreTable,
    )

_HOMES = {
    "aoptimize": "api",
    "evaluate": "api",
    "optimize": "api",
    "load_task": "config",
    "Settings": "config",
    "Optimizer": "registry",
    "Result": "result",
    "Study": "study",
    "Task": "task",
    **dict.fromkeys(
        ("Budget", "Candidate", "Demo", "Example", "Metric", "Prompt", "Response", "Score", "ScoreTable"), "types"
    ),
    **dict.fromkeys(
        (
            "BudgetExhausted",
            "ConfigError",
            "JournalError",
            "PromptoptError",
            "ProviderError",
            "ReplayDiverged",
            "TaskError",
        ),
        "errors",
    ),
}

__all__ = [
    "Budget",
    "BudgetExhausted",
    "Candidate",
    "ConfigError",
    "Demo",
    "Example",
    "JournalError",
    "Metric",
    "Optimizer",
    "Prompt",
    "PromptoptError",
    "ProviderError",
    "ReplayDiverged",
    "Response",
    "Result",
    "Score",
    "ScoreTable",
    "Settings",
    "Study",
    "Task",
    "TaskError",
    "aoptimize",
    "evaluate",
    "load_task",
    "optimize",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'promptopt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"promptopt.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
