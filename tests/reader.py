"""The built-in metrics and judges as tests of hostile replies ask them."""

from __future__ import annotations

import functools
from typing import Any

from promptopt.tasks import metrics, rubric
from promptopt.tasks.json_metrics import JsonSchema
from promptopt.types import Example

EXAMPLE = Example("1", {"item": "a"}, "red")
SCHEMA = JsonSchema(
    "s",
    {
        "type": "object",
        "properties": {"a": {"pattern": "(a+)+$"}, "b": {"multipleOf": 0.1}},
        "patternProperties": {"^x(a|aa)+$": {"type": "number"}},
        "additionalProperties": {"$ref": "#"},
    },
)
RUBRIC = rubric.Rubric("judge:r.md", ("Right.", "Short."), "", "")
NAMES = [
    *("exact", "label", "choice", "number", "json", "regex", "regex:search", "contains", "contains:all", "f1"),
    *("rouge", "rouge:rouge2", "rouge:rougeLsum", "bleu", "bleu:floor", "bleu:add-k", "bleu:none"),
]
TARGETS = {"choice": "(B)", "number": "3", "json": '{"a": 1, "b": [1, {"c": null}]}', "contains:all": '["a", "b"]'}


@functools.cache
def metric_of(name: str) -> tuple[Any, Example]:
    target = TARGETS.get(name, "red")
    return metrics.load(name, [target]), Example("1", {"item": "a"}, target)
