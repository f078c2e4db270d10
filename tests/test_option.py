"""Options out of their range are refused when a strategy is made, before anything is spent."""

from __future__ import annotations

import dataclasses
import math
import typing

import pytest

from promptopt import registry
from promptopt.errors import ConfigError

# The largest value that each option of fractions may have, and whether it may be reached; None = any size works.
MOST: dict[tuple[str, str], tuple[float, bool] | None] = {
    ("reflect", "p_bare"): (1, True),
    ("reflect", "p_drop"): (1, True),
    ("reflect", "p_hard"): (1, True),
    ("reflect", "z"): None,
    ("reflect", "rows_factor"): None,
    ("capo", "alpha"): (1, False),
    ("capo", "eps"): (1, False),
    ("capo", "length_penalty"): None,
    ("capo", "shrinkage"): None,
    ("claps", "elite_share"): (1, True),
    ("claps", "mutation_rate"): (1, True),
    ("claps", "percentile"): (100, False),
    ("promptagent", "exploration"): None,
    ("promptquine", "elite_share"): (1, True),
    ("promptquine", "p_run"): (1, True),
    ("promptquine", "p_section"): (1, True),
    ("promptquine", "rerank_share"): (1, False),
    ("promptquine", "tournament"): (1, True),
    ("tapruning", "rerank_share"): (1, False),
    ("tapruning", "threshold"): (1, True),
}


def options(kind: type) -> list[tuple[str, str]]:
    """Return (strategy, option) of every built-in option of a kind, or of it or None."""
    found = []
    for name in registry.BUILT_IN:
        cls = registry.optimizer_class(name)
        hints = typing.get_type_hints(cls)
        fields = [field.name for field in dataclasses.fields(cls)]
        found += [(name, f) for f in fields if kind in (hints[f], *typing.get_args(hints[f]))]
    return found


def check_refused(name: str, option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"\b{option}="):
        registry.optimizer_class(name)(**{option: value})


@pytest.mark.parametrize(("name", "option"), options(int) + options(float))
def test_no_number_may_be_negative(name: str, option: str) -> None:
    check_refused(name, option, -1)


@pytest.mark.parametrize(("name", "option"), options(int))
def test_no_size_is_beyond_what_numpy_counts(name: str, option: str) -> None:
    check_refused(name, option, 10**30)


@pytest.mark.parametrize(("name", "option"), options(float))
def test_no_fraction_may_be_beyond_its_range(name: str, option: str) -> None:
    check_refused(name, option, math.nan)
    most = MOST[name, option]
    if most is None:
        registry.optimizer_class(name)(**{option: 1e9})
        return
    limit, is_reachable = most
    check_refused(name, option, limit * 1.001)
    if not is_reachable:
        check_refused(name, option, limit)


@pytest.mark.parametrize("option", ["population_size", "n_crossovers"])
def test_sizes_that_no_run_can_have_are_refused_at_once(option: str) -> None:
    from scripted import make_task

    from promptopt.config import Settings
    from promptopt.plan import make_plan

    with pytest.raises(ConfigError, match=r"capo needs at least [\d,]+ calls with these options"):
        make_plan(make_task(), Settings("sim", optimizer="capo", options={option: "1000000000"}))
