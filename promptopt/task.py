"""A task: the data in its splits, how a prompt is shown to the model, and what counts as right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from promptopt import template
from promptopt.errors import ConfigError
from promptopt.types import KEEP_MARK, Example, Message, Metric, Prompt


@dataclass(frozen=True)
class Task:
    """What to optimize a prompt for.

    Args:
        name: short name, shown and journaled.
        metric: scores replies.
        train: examples for demonstrations and for errors shown to the optimizer model.
        dev: examples that drive the search.
        test: sealed examples for the proof; strategies never see them.
        initial: the user's prompt; `promptopt.optimize` puts its own argument here.
        description: one paragraph on the task, for the optimizer model; "" = none.
        input_column: column that is the user message of a prompt without placeholders.
        predict: the user's own `predict(prompt, example, call) -> reply`, sync or async; `call(messages)`
            is the journaled door to the task model and returns a Response. None = one call with
            `render`'s messages.
        calls_per_example: most calls that `predict` makes for an example; the proof reserves so many.

    Raises:
        ConfigError: train or dev is empty, or an example id stands twice.
    """

    name: str
    metric: Metric
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...] = ()
    initial: Prompt = field(default=Prompt(""))
    description: str = ""
    input_column: str = "input"
    predict: Callable[[Prompt, Example, Any], Any] | None = None
    calls_per_example: int = 1

    def __post_init__(self) -> None:
        """Check the splits, so that mistakes surface before any spending."""
        for split in ("train", "dev"):
            if not getattr(self, split):
                raise ConfigError(f"task {self.name!r}: the {split} split is empty; it needs examples")
        counts = Counter(example.id for example in (*self.train, *self.dev, *self.test))
        twice, n = counts.most_common(1)[0]
        if n > 1:
            raise ConfigError(f"task {self.name!r}: example id {twice!r} stands {n} times; make it unique")

    def with_initial(self, prompt: Prompt) -> Task:
        """Return this task with `prompt` as the one to improve.

        Raises:
            ConfigError: the prompt is empty, has an unknown placeholder or unbalanced keep marks, or the
                input has no place in it.
        """
        if not prompt.instruction.strip() and not prompt.demos:
            raise ConfigError("the prompt is empty; write at least one sentence")
        template.kept(prompt.instruction)
        template.parts(KEEP_MARK.sub("", prompt.instruction))
        task = replace(self, initial=prompt)
        is_shown = self.input_column in task.shown_columns
        if is_shown and self.input_column not in self.columns and self.predict is None:
            raise ConfigError(
                f"the prompt has no placeholder for the input and there is no column {self.input_column!r} "
                f"(columns: {', '.join(self.columns)}); write {{{{column}}}} in it or name the input column"
            )
        return task

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that every example has."""
        return tuple(self.train[0].inputs)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Columns that every candidate must have placeholders for."""
        return template.placeholders(self.initial.instruction, self.columns)

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """Columns that the model sees of an example, hence the columns of a demonstration."""
        is_input_shown = template.needs_input(self.initial.instruction, self.columns)
        return tuple(dict.fromkeys((*self.placeholders, *((self.input_column,) if is_input_shown else ()))))

    @property
    def has_labels(self) -> bool:
        """Whether every example of train and dev has a target."""
        return all(example.target is not None for example in (*self.train, *self.dev))

    def render(self, prompt: Prompt, example: Example) -> tuple[Message, ...]:
        """Return the chat messages that `prompt` becomes for `example`."""
        return template.render(prompt, example.inputs, self.input_column)

    def without_test(self) -> Task:
        """Return this task with its test split taken out: the view that strategies get."""
        return replace(self, test=())
