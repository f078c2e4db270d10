from __future__ import annotations

import json
import re

import pytest

from promptopt.errors import ConfigError
from promptopt.tasks.synthetic import DESCRIPTIONS, INITIAL_PROMPTS, synthetic_task

KINDS = sorted(INITIAL_PROMPTS)


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_distinct_and_sized(kind: str) -> None:
    splits = synthetic_task(kind, seed=3, n_train=50, n_dev=60, n_test=70)
    assert [len(split) for split in splits] == [50, 60, 70]
    examples = [example for split in splits for example in split]
    assert len({example.inputs["input"] for example in examples}) == 180
    assert len({example.id for example in examples}) == 180
    assert all(40 <= len(example.inputs["input"]) <= 300 for example in examples)
    assert all(example.target for example in examples)


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides(kind: str) -> None:
    assert synthetic_task(kind, seed=1) == synthetic_task(kind, seed=1)
    assert synthetic_task(kind, seed=1) != synthetic_task(kind, seed=2)


def test_targets_have_the_shape_of_their_kind() -> None:
    def targets(kind: str) -> list[str]:
        return [example.target or "" for example in synthetic_task(kind, seed=0)[2]]

    assert set(targets("label")) == {"billing", "delivery", "account", "product"}
    assert set(targets("choice")) == set("ABCD")
    assert all(re.fullmatch(r"-?\d+", target) for target in targets("number"))
    assert all(set(json.loads(target)) == {"customer", "item", "quantity", "city"} for target in targets("json"))


def test_choice_follows_its_stated_rule() -> None:
    for example in synthetic_task("choice", seed=5)[0]:
        text = example.inputs["input"]
        letters = {good: mark for mark, good in re.findall(r"\((\w)\) ([a-z ]+?)(?= \(|$)", text)}
        facts = re.findall(r"the ([a-z ]+?) (?:costs|weighs|lasts|is) (\d+)", text)
        values = {good: int(number) for good, number in facts}
        best = (min if "cheapest" in text or "narrowest" in text else max)(values, key=lambda good: values[good])
        assert letters[best] == example.target


def test_every_kind_is_described() -> None:
    assert set(DESCRIPTIONS) == set(INITIAL_PROMPTS)


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'label'"):
        synthetic_task("labels", seed=0)
