"""Demonstrations: examples of train shown inside a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from promptopt.task import Task
from promptopt.types import Demo, Example

_ANSWER_TAG = re.compile(r"<(final_answer|answer)>")


def demonstrate(task: Task, example: Example, output: str) -> Demo:
    """Return the demonstration that shows `example`'s visible columns with `output` as the reply."""
    return Demo(tuple((column, example.inputs[column]) for column in task.shown_columns), output)


def plain_output(instruction: str, example: Example) -> str:
    """Return the target as a reply: in the answer tag that `instruction` asks for, else bare."""
    target = example.target or ""
    tags = _ANSWER_TAG.findall(instruction)
    return f"<{tags[-1]}>{target}</{tags[-1]}>" if tags else target


def not_shown(task: Task, examples: Sequence[Example], demos: Sequence[Demo]) -> list[Example]:
    """Return the examples that `demos` do not show yet, so that no prompt shows one twice."""
    shown = {demo.inputs for demo in demos}
    return [e for e in examples if demonstrate(task, e, "").inputs not in shown]
