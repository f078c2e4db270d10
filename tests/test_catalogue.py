"""What `promptopt optimizers` says: all of each strategy's declaration, readable on a narrow screen."""

from __future__ import annotations

import pytest
from climb import CLIMB

from promptopt import catalogue, registry
from promptopt.errors import ConfigError


@pytest.mark.parametrize("width", [60, 80, 100])
def test_lines_fit(width: int) -> None:
    lines = [*catalogue.overview(width), *(line for name in names() for line in catalogue.details(name, width))]
    assert len(lines) > 20
    assert max(map(len, lines)) <= width


def names() -> tuple[str, ...]:
    return registry.optimizer_names()


def test_says_what_a_strategy_declares() -> None:
    text = " ".join(" ".join(catalogue.overview(80)).split())
    for name in names():
        cls = registry.optimizer_class(name)
        least = cls().minimum_calls()
        for said in (f"{name}", cls.when, cls.source, cls.usual_calls, *cls.requires, f"(refused below {least})"):
            assert " ".join(said.split()) in text
    assert "reflect (what auto picks):" in text
    assert "what auto picks without labels" in text or registry.LABEL_FREE not in names()


def test_says_what_a_strategy_does_without() -> None:
    [needs] = [line for line in catalogue.details(CLIMB, 80) if "needs:" in line]
    assert needs == "  needs:   judge, optimizer model (no labels)"
    [needs] = [line for line in catalogue.details("capo", 80) if "needs:" in line]
    assert needs == "  needs:   labels, optimizer model"


def test_options_have_defaults_and_meanings() -> None:
    for name in names():
        text = " ".join(" ".join(catalogue.details(name, 80)).split())
        for option, default, meaning in registry.describe_options(registry.optimizer_class(name)):
            assert f"{option}={default} {meaning}".strip() in text
    lines = catalogue.details("capo", 80)
    i_preset = lines.index("  preset=paper")
    assert "population_size=10" in "".join(lines[i_preset:])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'capo'"):
        catalogue.details("cappo", 80)
