"""The metric json-schema: what fits, what is said, hostile replies, schemas that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.errors import ConfigError, TaskError
from promptopt.tasks import metrics, pattern
from promptopt.types import Example, Metric

EXAMPLE = Example("e1", {"input": "i"})
PERSON = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"$ref": "#/$defs/word"}, "age": {"type": "integer", "multipleOf": 0.5}},
    "patternProperties": {"^n_": {"type": "number"}},
    "$defs": {"word": {"type": "string", "pattern": "^[A-Z]"}},
}
TREE = {"type": "array", "items": {"$ref": "#"}}


def metric_of(folder: Path, schema: Any, text: str | None = None, answer_pattern: str | None = None) -> Metric:
    file = folder / "schema.json"
    file.write_text(json.dumps(schema) if text is None else text, encoding="utf-8")
    return metrics.load(f"json-schema:{file}", [None], answer_pattern=answer_pattern)


@pytest.mark.parametrize(
    ("reply", "value", "is_parsed", "said"),
    [
        ('{"name": "Ann", "age": 4}', 1, True, None),
        ('Here:\n```json\n{"name": "Ann", "age": 4}\n```', 1, True, None),
        ('{"name": "Bo"}\nAnswer: {"name": "Ann", "age": 4}', 1, True, None),
        ('{"name": "Ann"}', 0, True, "the JSON does not fit the schema: 'age' is a required property"),
        ('{"name": "ann", "age": 4}', 0, True, "at $.name: 'ann' does not match '^[A-Z]'"),
        ('{"name": "Ann", "age": 4, "n_x": "1"}', 0, True, "at $.n_x: '1' is not of type 'number'"),
        ("[1, 2]", 0, True, "[1, 2] is not of type 'object'"),
        ("none of it", 0, False, "no JSON found in the reply"),
        ('{"name": "Ann", "age": NaN}', 0, False, "no JSON found"),
        ('{"name": "Ann", "age": 1e999}', 0, False, "no JSON found"),
        ('{"name": "Ann", "age": 1' + 400 * "0" + "}", 0, False, "cannot be checked"),
    ],
)  # fmt: skip
def test_scores(tmp_path: Path, reply: str, value: float, is_parsed: bool, said: str | None) -> None:
    score = metric_of(tmp_path, PERSON).score(reply, EXAMPLE)
    assert (score.value, score.is_parsed) == (value, is_parsed), score.feedback
    assert (score.feedback is None) is (said is None)
    assert (said or "") in (score.feedback or "")


def test_any_json_may_be_asked_for(tmp_path: Path) -> None:
    assert metric_of(tmp_path, {"type": "array"}).score("So: [1, {}]", EXAMPLE).value == 1
    assert metric_of(tmp_path, {"enum": ["a", 3]}).score("Answer: 3", EXAMPLE).value == 1
    assert metric_of(tmp_path, True).score("{}", EXAMPLE).value == 1
    score = metric_of(tmp_path, PERSON, answer_pattern=r"(?s)=> (.*)").score('{"name": "Ann", "age": 4}', EXAMPLE)
    assert (score.value, score.is_parsed) == (0, False)


def test_deep_nesting_is_an_answer_of_no_use(tmp_path: Path) -> None:
    for depth in (20, 400, 900, 50_000):
        score = metric_of(tmp_path, TREE).score("[" * depth + "]" * depth, EXAMPLE)
        assert score.value in (0, 1)
        assert score.is_parsed or score.value == 0
    assert metric_of(tmp_path, TREE).score("[" * 20 + "]" * 20, EXAMPLE).value == 1


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_reply_makes_it_raise(tmp_path_factory: pytest.TempPathFactory, reply: str) -> None:
    score = metric_of(tmp_path_factory.getbasetemp(), PERSON).score(reply, EXAMPLE)
    assert score.value in (0, 1)
    assert score.is_parsed or score.value == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"schema\.json:1:2: not JSON"),
        ("[]", "a JSON Schema is an object"),
        ('{"type": "objekt"}', r"is no JSON Schema \(\$\.type: 'objekt'"),
        ('{"$ref": "#/$defs/gone"}', "refers to '#/\\$defs/gone', which is not in it"),
        (
            '{"properties": {"a": {"$ref": "https://example.org/x.json"}}}',
            "refers to 'https://example.org/x.json'",
        ),
        ('{"items": {"$ref": "other.json"}}', "put all that it refers to into one file"),
        ('{"$ref": "#"}', "refers to itself without end"),
        ('{"properties": {"a": {"pattern": "("}}}', r"'\(' is not a 'regex'"),
        ('{"patternProperties": {"[": {}}}', r"'\[' is not a 'regex'"),
        ('{"$schema": 3}', r"\$schema is no text"),
        (
            '{"unevaluatedProperties": false, "allOf": [{"patternProperties": {"a": {}}}]}',
            "both unevaluatedProperties and patternProperties.*write additionalProperties",
        ),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_schemas(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        metric_of(tmp_path, None, text)
    assert "schema.json" in str(caught.value)


def test_property_names_are_no_keywords(tmp_path: Path) -> None:
    schema = {
        "properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}},
        "enum": [{"pattern": "("}],
    }
    assert metric_of(tmp_path, schema).score('{"pattern": "("}', EXAMPLE).value == 1


def test_wrong_files(tmp_path: Path) -> None:
    for name, said in (
        ("json-schema", "needs a file"),
        ("json-schema:", "needs a file"),
        ("json-schema:g.json", "g.json"),
    ):
        with pytest.raises(ConfigError, match=said):
            metrics.load(name, [None])


def test_a_pattern_that_needs_ages_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern, "TIMEOUT_S", 0.05)
    metric = metric_of(tmp_path, {"pattern": r"^(a+)+\1\1b"})
    with pytest.raises(TaskError, match="repeats within repeats"):
        metric.score(json.dumps("a" * 4000), EXAMPLE)


@pytest.mark.parametrize(
    "draft", ["", "https://json-schema.org/draft/2019-09/schema", "http://json-schema.org/draft-07/schema#"]
)
def test_names_of_properties_meet_patterns_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draft: str
) -> None:
    """Whichever keyword comes first in the schema."""
    monkeypatch.setattr(pattern, "TIMEOUT_S", 0.05)
    slow = {"additionalProperties": False, "patternProperties": {r"^(a+)+\1\1b": {}}}
    metric = metric_of(tmp_path, slow | ({"$schema": draft} if draft else {}))
    with pytest.raises(TaskError, match="repeats within repeats"):
        metric.score(json.dumps({"a" * 4000: 1}), EXAMPLE)


@pytest.mark.parametrize(
    ("wanted", "reply", "said"),
    [
        (False, '{"a": 0, "n_x": 0}', None),
        (False, '{"a": 0, "b": 0, "c": 0}', "not allowed: 'b', 'c'; others must match '^n_' or '^m_'"),
        ({"type": "string"}, '{"a": 0, "n_x": 0, "b": "x"}', None),
        ({"type": "string"}, '{"b": 4}', "at $.b: 4 is not of type 'string'"),
        (True, '{"b": 4}', None),
        (False, "[4]", None),
    ],
)
def test_additional_properties(tmp_path: Path, wanted: object, reply: str, said: str | None) -> None:
    schema = {"additionalProperties": wanted, "patternProperties": {"^n_": {}, "^m_": {}}, "properties": {"a": {}}}
    score = metric_of(tmp_path, schema).score(reply, EXAMPLE)
    assert score.value == (said is None)
    assert (said or "") in (score.feedback or "")


def test_a_changed_schema_is_another_metric(tmp_path: Path) -> None:
    first, second = metric_of(tmp_path, PERSON), metric_of(tmp_path, TREE)
    assert isinstance(first, metrics.JsonSchema)
    assert isinstance(second, metrics.JsonSchema)
    assert first.digest != second.digest
