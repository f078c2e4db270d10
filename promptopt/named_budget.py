"""Budgets with names, for those who do not want to choose a number: `--auto light`, `medium` or `heavy`.

    name      calls of a run    task answers that its search gets, about
    light     500               300
    medium    1,500             1,000
    heavy     4,500             3,000

The other calls write prompts and prove the outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from promptopt.errors import ConfigError, nearest

CALLS: Mapping[str, int] = MappingProxyType({"light": 500, "medium": 1500, "heavy": 4500})


def calls_of(name: str, calls_per_answer: int) -> int:
    """Return the most calls of a run, proof included, under the budget `name`.

    Args:
        calls_per_answer: those that one scored answer takes, such as 2 where a judge rates each.
    """
    return CALLS[name] * calls_per_answer


def least_name(n_calls: int, calls_per_answer: int) -> str | None:
    """Return the name of the smallest budget of at least `n_calls`; None = none is so large."""
    return next((name for name in CALLS if calls_of(name, calls_per_answer) >= n_calls), None)


def check(name: object, budget_calls: int | None) -> None:
    """Check that `name` is a budget's name, or None, and that it is the only limit of calls.

    Raises:
        ConfigError: it is not.
    """
    if name is None:
        return
    if not isinstance(name, str) or name not in CALLS:
        raise ConfigError(f"--auto {name}: {nearest(str(name), CALLS)}")
    if budget_calls is not None:
        raise ConfigError(
            f"--auto {name} and --budget-calls {budget_calls} both limit calls; give one of them (dollars, tokens "
            "and seconds go with either)"
        )
