"""Settings are checked before anything is spent; prompt, data and metric are found as users name them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from promptopt.bound import number
from promptopt.config import Settings, load_prompt, load_task, set_initial
from promptopt.errors import ConfigError
from promptopt.promptfile import parse
from promptopt.types import Budget, Demo, Prompt


def write_rows(path: Path, n: int = 30, **more: str) -> Path:
    rows = [{"question": f"what is {i}?", "target": str(i), **more} for i in range(n)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", float("nan"), float("inf"), True])
def test_counts_are_whole_and_positive(value: object) -> None:
    for name in ("concurrency", "rpm", "tpm", "max_tokens", "max_prompt_tokens"):
        with pytest.raises(ConfigError, match=rf"^--{name.replace('_', '-')} is "):
            Settings("sim", **{name: value})  # type: ignore[arg-type]
    for budget in (Budget(calls=value), Budget(tokens=value)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"^--budget-(calls|tokens) is "):
            Settings("sim", budget=budget)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), Decimal("NaN"), Decimal("Infinity"), "x"])
def test_amounts_are_finite_and_positive(value: object) -> None:
    for budget in (Budget(usd=value), Budget(seconds=value)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"^--budget-(usd|seconds) is "):
            Settings("sim", budget=budget)


@pytest.mark.parametrize(
    "fields",
    [
        {"budget": Budget(usd=1e30)},
        {"budget": Budget(seconds=2e9)},
        {"budget": Budget(calls=10**400)},
        {"budget": Budget(tokens=2 * 10**12)},
        {"price_in": Decimal("1e30"), "price_out": 1},
        {"price_in": 1, "price_out": 2_000_000},
        {"concurrency": 10**5},
        {"max_tokens": 10**7},
        {"max_prompt_tokens": 10**7},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_numbers_are_bounded(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"must be at most \d+"):
        Settings("sim", **fields)


def test_prices() -> None:
    assert Settings("sim").prices is None
    free = Settings("sim", price_in=0, price_out=Decimal("0.6"))
    assert free.prices == (0, Decimal("0.0000006"))
    with pytest.raises(ConfigError, match="both --price-in and --price-out"):
        Settings("sim", price_out=1)


def test_numbers_are_exact() -> None:
    assert number("0.10", "--x") == Decimal("0.1")
    assert number(0.1, "--x") == Decimal("0.1")


def test_prompt_as_text_path_and_prompt(tmp_path: Path) -> None:
    path = tmp_path / "p.md"
    path.write_text("Answer {{question}}\n", encoding="utf-8")
    asked = {
        load_prompt(prompt).prompt for prompt in (path, "Answer {{question}}", Prompt("Answer {{question}}\r\n"))
    }
    assert asked == {Prompt("Answer {{question}}")}


def test_metric_picked_by_the_targets_is_said(tmp_path: Path) -> None:
    task, notes = load_task(write_rows(tmp_path / "d.jsonl"))
    assert task.metric.name == "number"
    assert any(note.startswith("metric number: all ") for note in notes)
    assert task.name == "d"


def test_input_column(tmp_path: Path) -> None:
    only = write_rows(tmp_path / "one.jsonl")
    assert load_task(only)[0].input_column == "question"
    two = write_rows(tmp_path / "two.jsonl", hint="think")
    with pytest.raises(ConfigError, match="several columns"):
        load_task(two, columns_of=Prompt("Answer."))
    assert load_task(two, columns_of=Prompt("Answer {{hint}}"))[0].input_column == "question"
    assert load_task(two, input="hint")[0].input_column == "hint"


def test_wrong_placeholder_is_placed(tmp_path: Path) -> None:
    task, _ = load_task(write_rows(tmp_path / "d.jsonl"))
    path = tmp_path / "p.md"
    path.write_text("---\nmetric: number\n---\nfirst\nsecond {{quest}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"p\.md:5: placeholder \{\{quest\}\} names no column"):
        set_initial(task, load_prompt(path), str(path))
    with pytest.raises(ConfigError, match=r"^placeholder"):
        set_initial(task, parse("{{quest}}"))


def test_wrong_column_of_a_demonstration_is_refused(tmp_path: Path) -> None:
    task, _ = load_task(write_rows(tmp_path / "d.jsonl"))
    path = tmp_path / "p.md"
    block = '```demo\n{"input": {"%s": "x"}, "output": "y"}\n```\n'
    path.write_text("Answer {{question}}\n" + block % "question" + block % "qestion", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"p\.md: demonstration 2: no column 'qestion'; did you mean 'question'\?"
    ):
        set_initial(task, load_prompt(path), str(path))
    with pytest.raises(ConfigError, match=r"^demonstration 1: no column 'x'; valid: question$"):
        set_initial(task, load_prompt(Prompt("Answer {{question}}", (Demo((("x", "1"),), "2"),))))
    free = Prompt("Answer {{question}}", (Demo((), "a block of text"),))
    assert set_initial(task, load_prompt(free)).initial == free


def test_bundled_task_brings_its_metric_and_description() -> None:
    task, _ = load_task("support")
    assert task.metric.name == "label"
    assert task.description.startswith("Sort the message")
    assert load_task("support", metric="exact", description="mine")[0].description == "mine"


@pytest.mark.parametrize("name", ["x" * 5000, "a\x00b", ""])
def test_impossible_paths_are_wrong_use(name: str) -> None:
    with pytest.raises(ConfigError, match="--data"):
        load_task(name)
