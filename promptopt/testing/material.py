"""Tasks to try a strategy on: small, with labels, and with a prompt that has something to lose."""

from __future__ import annotations

from dataclasses import replace

from promptopt.task import Task
from promptopt.tasks.metrics import load
from promptopt.tasks.synthetic import DESCRIPTIONS, synthetic_task
from promptopt.types import Example, Prompt, digest

_PROMPT = Prompt(
    "system:\nYou sort the messages that a web shop gets.\n"
    "<!-- keep -->Reply in English.<!-- /keep -->\n\nuser:\n{{input}}"
)
_SYLLABLES = ("ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "pa", "re", "so", "ti", "vu", "wa", "xe", "zo")


def label_task() -> Task:
    """Return messages with one of four labels; the prompt has parts, a kept passage and a placeholder.

    Each message begins and ends with a word of its own, by which it is known wherever it is shown.
    """
    rows = synthetic_task("label", seed=11, n_train=24, n_dev=24, n_test=12)
    train, dev, test = (tuple(map(_marked, split)) for split in rows)
    metric = load("label", [example.target for example in train])
    return Task("messages", metric, train, dev, test, _PROMPT, DESCRIPTIONS["label"])


def number_task() -> Task:
    """Return the same messages, each with a number of its own as target: a target tells its example."""
    task = label_task()
    train, dev, test = (tuple(map(_numbered, split)) for split in (task.train, task.dev, task.test))
    return replace(
        task,
        name="numbers",
        metric=load("number", [example.target for example in train]),
        train=train,
        dev=dev,
        test=test,
        description="Each message from a customer of a web shop has a number; the answer is this number.",
        labels=(),
    )


def _marked(example: Example) -> Example:
    text = example.inputs["input"]
    return replace(example, inputs={"input": f"Case {_word('case', text)}: {text} Order {_word('order', text)}."})


def _word(*parts: str) -> str:
    return "".join(_SYLLABLES[int(letter, 16)] for letter in digest(*parts)[:6])


def _numbered(example: Example) -> Example:
    # Nine digits, so that neither a near number, which a wrong answer is, nor chance gives another's target.
    return replace(example, target=str(10**8 + int(digest(example.inputs["input"])[:8], 16) % (9 * 10**8)))
