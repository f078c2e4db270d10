"""A task: the data in its splits, how a prompt is shown to the model, and what counts as right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from promptopt import template
from promptopt.errors import ConfigError, nearest
from promptopt.types import KEEP_MARK, Example, JudgedMetric, Message, Metric, Prompt, Score

_MOST_LABELS = 100
UNSCORED = "none"  # name of the metric that gives no scores (NaN), for data without targets


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
        labels: all answers that can be right; () = the distinct targets of train and dev, if they are few, those
            in `also_right` included.
        verbalizers: label -> the word that the model says for it; a label without one is said as it is.

    Raises:
        ConfigError: train or dev is empty, an example id stands twice, or a verbalizer is for no label.
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
    labels: tuple[str, ...] = ()
    verbalizers: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check the splits, so that mistakes surface before any spending."""
        for split in ("train", "dev"):
            if not getattr(self, split):
                raise ConfigError(f"task {self.name!r}: the {split} split is empty; it needs examples")
        counts = Counter(example.id for example in (*self.train, *self.dev, *self.test))
        twice, n = counts.most_common(1)[0]
        if n > 1:
            raise ConfigError(f"task {self.name!r}: example id {twice!r} stands {n} times; make it unique")
        if not self.labels:
            object.__setattr__(self, "labels", _few_targets((*self.train, *self.dev)))
        for label in self.verbalizers:
            if label not in self.labels:
                raise ConfigError(f"task {self.name!r}: verbalizer of {label!r}; {nearest(label, self.labels)}")

    def with_initial(self, prompt: Prompt) -> Task:
        """Return this task with `prompt` as the one to improve.

        Raises:
            ConfigError: the prompt is empty, has an unknown placeholder or unbalanced keep marks, a
                demonstration has an unknown column, or the input has no place in it.
        """
        if not prompt.instruction.strip() and not prompt.demos:
            raise ConfigError("the prompt is empty; write at least one sentence")
        template.kept(prompt.instruction)
        template.parts(KEEP_MARK.sub("", prompt.instruction))
        for i_demo, demo in enumerate(prompt.demos, start=1):
            lost = next((column for column, _ in demo.inputs if column not in self.columns), None)
            if lost is not None:
                raise ConfigError(f"demonstration {i_demo}: no column {lost!r}; {nearest(lost, self.columns)}")
        task = replace(self, initial=prompt)
        is_shown = self.input_column in task.shown_columns
        if is_shown and self.input_column not in self.columns and self.predict is None and self.columns:
            raise ConfigError(
                f"the prompt has no placeholder for the input and there is no column {self.input_column!r} "
                f"(columns: {', '.join(self.columns)}); write {{{{column}}}} in it or name the input column"
            )
        return task

    @property
    def has_images(self) -> bool:
        """Whether any example has an image."""
        return any(example.images for example in (*self.train, *self.dev, *self.test))

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that every example has; () where examples are images alone."""
        return tuple(self.train[0].inputs)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Columns that every candidate must have placeholders for."""
        return template.placeholders(self.initial.instruction, self.columns)

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """Columns that the model sees of an example, hence the columns of a demonstration."""
        is_input_shown = template.needs_input(self.initial.instruction, self.columns) and bool(self.columns)
        return tuple(dict.fromkeys((*self.placeholders, *((self.input_column,) if is_input_shown else ()))))

    @property
    def has_labels(self) -> bool:
        """Whether every example of train and dev has a target."""
        return all(example.target is not None for example in (*self.train, *self.dev))

    @property
    def is_scored(self) -> bool:
        """Whether replies get scores; else a judge model compares them."""
        return self.metric.name != UNSCORED

    @cached_property
    def judged(self) -> JudgedMetric | None:
        """The metric, if a judge model gives its scores; None = it needs no model."""
        return self.metric if isinstance(self.metric, JudgedMetric) else None

    @property
    def calls_per_score(self) -> int:
        """Calls that a score takes with its answer: 2 where a judge model rates the answer, else 1."""
        return 1 if self.judged is None else 2

    @property
    def calls_per_answer(self) -> int:
        """Most calls that a score takes: those of `predict`, and a judge's rating if there is one."""
        return self.calls_per_example + self.calls_per_score - 1

    @property
    def label_words(self) -> tuple[str, ...]:
        """The words that the model says for the labels, in their order."""
        return tuple(self.verbalizers.get(label, label) for label in self.labels)

    def i_label(self, example: Example) -> int | None:
        """Return the index of an example's target among the labels; None if it is none of them."""
        target = (example.target or "").strip().casefold()
        folded = (label.strip().casefold() for label in self.labels)
        return next((i for i, label in enumerate(folded) if label == target), None)

    def score_reply(self, reply: str, example: Example) -> Score:
        """Return the metric's score of a reply: the best over all targets of the example, the first of equal ones.

        A metric that says `reads_all_targets` is asked once and sees them all.
        """
        if not example.also_right or getattr(self.metric, "reads_all_targets", False):
            return self.metric.score(reply, example)
        scores = [self.metric.score(reply, replace(example, target=t, also_right=())) for t in example.targets]
        best = max(scores, key=lambda score: score.value)
        if best.value == 1 or best.feedback is None:
            return best
        return replace(best, feedback=f"{best.feedback} (any of these is right: {', '.join(example.targets)})")

    def render(self, prompt: Prompt, example: Example) -> tuple[Message, ...]:
        """Return the chat messages that `prompt` becomes for `example`."""
        return template.render(prompt, example.inputs, self.input_column)

    def without_test(self) -> Task:
        """Return this task with its test split taken out: the view that strategies get."""
        return replace(self, test=())

    def without_targets(self) -> Task:
        """Return this task with every target taken out: the view where no labels are to be used."""
        if all(example.target is None for example in (*self.train, *self.dev, *self.test)):
            return self  # its labels, if it has any, were declared
        train, dev, test = (
            tuple(replace(e, target=None, also_right=()) for e in s) for s in (self.train, self.dev, self.test)
        )
        return replace(self, train=train, dev=dev, test=test, labels=(), verbalizers={})


def _few_targets(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the distinct targets, sorted, where they look like labels: each stands twice on average."""
    targets = [text for example in reversed(examples) for target in example.targets if (text := target.strip())]
    distinct = {target.casefold(): target for target in targets}
    is_closed = 2 <= len(distinct) <= _MOST_LABELS and 2 * len(distinct) <= len(examples)
    return tuple(sorted(distinct.values())) if is_closed else ()
