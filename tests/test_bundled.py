import json
import re

import pytest

from promptopt import data, promptfile
from promptopt.errors import ConfigError
from promptopt.tasks import bundled, metrics
from promptopt.types import Example

NAMES = bundled.names()
SIZES = {"train": 40, "dev": 60, "test": 120}


def _load(name: str) -> data.Dataset:
    return data.load(bundled.folder(name), seed=0)


def test_there_are_four_kinds() -> None:
    assert NAMES == ("contacts", "logic", "sums", "support")
    assert {bundled.describe(name).metric for name in NAMES} == {"json", "choice", "number", "label"}


@pytest.mark.parametrize("name", NAMES)
def test_data_prompt_and_description_agree(name: str) -> None:
    task, loaded = bundled.describe(name), _load(name)
    assert task.sizes == SIZES == {split: len(getattr(loaded, split)) for split in SIZES}
    assert len(loaded.notes) == 1  # nothing was dropped or renamed
    assert task.licence == "CC0-1.0"
    assert task.description.endswith(".")
    prompt = promptfile.read(bundled.folder(name) / "prompt.md").prompt
    assert f"{{{{{loaded.columns[0]}}}}}" in prompt.instruction
    targets = [row.target for row in (*loaded.train, *loaded.dev)]
    metric, _ = metrics.choose(targets)
    assert metric.name == task.metric
    for row in (*loaded.train, *loaded.dev, *loaded.test):
        assert metric.score(f"Answer: {row.target}", row).value == 1


def test_the_column_of_support_has_another_name() -> None:
    assert _load("support").columns == ("message",)


def test_labels_of_support_are_named_in_its_prompt() -> None:
    instruction = promptfile.read(bundled.folder("support") / "prompt.md").prompt.instruction
    loaded = _load("support")
    for split in (loaded.train, loaded.dev, loaded.test):
        labels = {row.target or "" for row in split}
        assert len(labels) == 6
        assert all(label in instruction for label in labels)


def _every(name: str) -> tuple[Example, ...]:
    loaded = _load(name)
    return (*loaded.train, *loaded.dev, *loaded.test)


def test_logic_has_four_different_options() -> None:
    for row in _every("logic"):
        options = re.findall(r"^\(([A-D])\) (.+)$", row.inputs["input"], re.MULTILINE)
        assert [letter for letter, _ in options] == list("ABCD")
        assert len({text for _, text in options}) == 4


def test_contacts_holds_what_the_target_says_and_only_invented_data() -> None:
    for row in _every("contacts"):
        text, target = row.inputs["input"], json.loads(row.target or "")
        assert set(target) == {"name", "company", "email", "phone"}
        assert all(part in text for part in target["name"].split())
        assert all(target[key] in text for key in ("company", "email", "phone") if target[key])
        assert target["email"] is None or re.search(r"@(mail\.)?example\.(com|org|net)$", target["email"])
        assert target["phone"] is None or re.fullmatch(r"555-01\d\d", target["phone"])


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no bundled task 'suport'; did you mean 'support'"):
        bundled.folder("suport")
    with pytest.raises(ConfigError, match="no bundled task"):
        bundled.describe("../tests")
