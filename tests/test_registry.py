"""Strategies are found by name or file, and their options are read and checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptopt import registry
from promptopt.errors import ConfigError

OWN = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Own:
    '''Keeps the prompt as it is.

    Args:
        n: how often
            nothing is done.
    '''
    n: int = 3
    flag: bool = False
    rate: float | None = None
    source: ClassVar[str] = "none"
    requires: ClassVar[frozenset[str]] = frozenset()
    when: ClassVar[str] = "never"
    presets: ClassVar[dict[str, dict[str, object]]] = {"many": {"n": 30}}

    def minimum_calls(self): return 1
    def forecast(self, n_calls): return {"task": n_calls}
    async def optimize(self, study): return study.initial

@dataclass
class Half:
    async def optimize(self, study): return study.initial

def function(study): ...
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    return f"{tmp_path / 'own.py'}:Own"


def test_strategy_from_a_file(own: str) -> None:
    name, optimizer = registry.make_optimizer(own, {"n": "7", "flag": "TRUE", "rate": "0.5"})
    assert name == own
    assert registry.options_of(optimizer) == {"n": 7, "flag": True, "rate": 0.5}
    assert registry.options_of(registry.make_optimizer(own, {"preset": "many", "rate": "none"})[1])["n"] == 30
    assert registry.describe_options(type(optimizer))[0] == ("n", "3", "how often nothing is done.")


def test_changed_file_has_another_digest(own: str) -> None:
    before = registry.source_digest(own)
    path = Path(own.rpartition(":")[0])
    path.write_text(path.read_text(encoding="utf-8") + "# other\n", encoding="utf-8")
    assert registry.source_digest(own) != before
    assert registry.source_digest("capo") == ""


@pytest.mark.parametrize(
    ("attribute", "says"),
    [
        ("Own2", "has no 'Own2'; did you mean 'Own'"),
        ("Half", "lacks source, requires, when, presets, minimum_calls, forecast"),
        ("function", "must be a dataclass"),
    ],
)
def test_file_without_a_strategy(own: str, attribute: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        registry.optimizer_class(own.replace(":Own", f":{attribute}"))


def test_file_that_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.py:1 cannot be imported \(ZeroDivisionError"):
        registry.optimizer_class(f"{tmp_path / 'bad.py'}:X")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"m": "1"}, "no option 'm'"),
        ({"n": "1.5"}, "n=1.5; it must be a whole number"),
        ({"rate": "inf"}, "rate=inf; it must be a finite number"),
        ({"rate": "much"}, "rate=much; it must be a number"),
        ({"flag": "1"}, "write true or false"),
        ({"preset": "some"}, "no preset 'some'"),
    ],
)
def test_wrong_options(own: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        registry.make_optimizer(own, options)


@pytest.mark.parametrize("name", registry.optimizer_names())
def test_every_strategy_is_described(name: str) -> None:
    cls = registry.optimizer_class(name)
    assert (cls.__doc__ or "").strip()
    assert cls.source
    assert cls.when
    for option, _, meaning in registry.describe_options(cls):
        assert meaning, f"{name}: option {option} needs a line in Args"
    for preset, values in cls.presets.items():
        registry.make_optimizer(name, {"preset": preset})
        assert set(values) <= {option for option, _, _ in registry.describe_options(cls)}


def test_unknown_name_and_auto() -> None:
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        registry.optimizer_class("randon")
    assert registry.make_optimizer("auto", {})[0] == registry.AUTO


def test_every_published_strategy_says_how_it_differs() -> None:
    for name in set(registry.optimizer_names()) - {"random", "reflect"}:  # the control, and our own
        optimizer = registry.make_optimizer(name, {})[1]
        deviations = registry.deviations_of(optimizer)
        assert len(deviations) >= 5, name
        assert all(text[0].isupper() and text[-1] in ".)" for text in deviations), name
    assert registry.deviations_of(registry.make_optimizer("random", {})[1]) == ()
