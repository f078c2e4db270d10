"""The metrics: each scores a reply against an example's target, and says in words what was wrong.

A metric is called by its name, or `name:argument` where it takes one. What others wrote comes from
`path.py:function`, `package.module:function`, or the entry-point group `promptopt.metrics`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType

from promptopt import plugin
from promptopt.errors import ConfigError, TaskError, nearest
from promptopt.task import UNSCORED
from promptopt.tasks import pattern, rubric
from promptopt.tasks.answer import Finder, is_number, parse_letters, parse_number, trim
from promptopt.tasks.function_metric import FunctionMetric, wrapped
from promptopt.tasks.json_metrics import Json, JsonSchema, is_object, load_schema
from promptopt.tasks.text_metrics import (
    F1,
    ROUGES,
    SMOOTHINGS,
    Bleu,
    Contains,
    Exact,
    Regex,
    Rouge,
    rouge_misfit,
)
from promptopt.tasks.wording import short, spaced, target_of
from promptopt.types import Example, Metric, Score

__all__ = [
    "METRICS",
    "Choice",
    "Exact",
    "FunctionMetric",
    "Json",
    "JsonSchema",
    "Label",
    "Number",
    "Unscored",
    "check_targets",
    "choose",
    "is_code",
    "kind",
    "load",
    "needs_targets",
]

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "exact": "the answer equals the target; runs of whitespace count as one space",
        "label": "the answer is the right one of the labels in the data; case and final punctuation ignored",
        "choice": "the answer names the right option letter: (B), B, B), b., Option B",
        "number": "the last number of the answer equals the target as a number; $ , % ignored",
        "json": "share of the target's fields that the answer's JSON object has right",
        "json-schema:FILE.json": "the answer's JSON fits the JSON Schema in the file; needs no targets",
        "regex": "the whole answer matches the target, a regular expression; regex:search: something in it does",
        "contains": "the reply holds the target, case ignored; contains:all: all entries of a list",
        "f1": "overlap of the words of answer and target, as SQuAD defines it",
        "rouge": "ROUGE-L F-measure of answer and target; also rouge:rouge1 to rouge:rouge9, rouge:rougeLsum",
        "bleu": "sentence BLEU of answer and target, in [0, 1]; also bleu:floor, bleu:add-k, bleu:none",
        "none": "no score: where there are no targets, a judge model compares answers",
        "judge:FILE.md": "a judge model's verdicts on the principles that a Markdown file lists; one more call",
        "path.py:function": "your own `def function(reply, example)`: number, (number, feedback) or Score",
    }
)

_N_LETTERS = 8
_LONGEST_LABEL = 80


@dataclass(frozen=True)
class Label:
    """The answer is the right one of `labels`; an answer that is none of them is unparseable."""

    labels: tuple[str, ...]
    finder: Finder = Finder()
    name: str = "label"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the answer is the target label."""
        target = target_of(example, self.name)
        right, named = self.classes(reply, example)
        if named == right:
            return Score(1.0)
        answer = self.finder.answer(reply)
        if named is not None:
            return Score(0.0, f"expected {short(target)}, got {short(answer)}")
        got = f"the answer {short(answer)} is none of the labels" if answer else "no label found"
        return Score(0.0, f"{got}; expected {short(target)}", is_parsed=False)

    def classes(self, reply: str, example: Example) -> tuple[str, str | None]:
        """Return the right label and the one that the reply names (None = none), folded alike."""
        right = _fold_label(target_of(example, self.name))
        named = _fold_label(self.finder.answer(reply))
        is_label = named != "" and (named == right or named in self._folded)
        return right, named if is_label else None

    @cached_property
    def _folded(self) -> frozenset[str]:
        return frozenset(map(_fold_label, self.labels))


@dataclass(frozen=True)
class Choice:
    """The answer names the target's option letter, and no other."""

    finder: Finder = Finder()
    name: str = "choice"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the answer names the target's letter."""
        wanted = self._letter(example)
        found = parse_letters(self.finder.answer(reply))
        if not found:
            return Score(0.0, f"no option letter found in the reply; expected ({wanted})", is_parsed=False)
        if len(found) > 1:
            got = "several option letters found: " + ", ".join(f"({letter})" for letter in found)
            return Score(0.0, f"{got}; expected ({wanted})", is_parsed=False)
        if found == (wanted,):
            return Score(1.0)
        return Score(0.0, f"expected ({wanted}), got ({found[0]})")

    def classes(self, reply: str, example: Example) -> tuple[str, str | None]:
        """Return the right letter and the one that the reply names; None = none or several."""
        found = parse_letters(self.finder.answer(reply))
        return self._letter(example), found[0] if len(found) == 1 else None

    def _letter(self, example: Example) -> str:
        target = target_of(example, self.name)
        wanted = parse_letters(trim(target))
        if len(wanted) != 1:
            raise TaskError(f"example {example.id!r}: target {short(target)} is no option letter such as (B)")
        return wanted[0]


@dataclass(frozen=True)
class Number:
    """The last number of the answer equals the target as a number."""

    finder: Finder = Finder()
    name: str = "number"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the last number of the answer equals the target exactly."""
        target = target_of(example, self.name)
        wanted = parse_number(target)
        if wanted is None:
            raise TaskError(f"example {example.id!r}: target {short(target)} holds no number")
        answer = self.finder.answer(reply)
        found = parse_number(answer)
        if found is None:
            return Score(0.0, f"no number found in the answer; expected {short(target)}", is_parsed=False)
        if found == wanted:
            return Score(1.0)
        return Score(0.0, f"expected {short(target)}, got {short(answer)}")


@dataclass(frozen=True)
class Unscored:
    """Gives no score: every value is NaN. For data without targets; a judge model compares answers instead."""

    name: str = UNSCORED

    def score(self, reply: str, example: Example) -> Score:
        """Return no score."""
        return Score(float("nan"))


@dataclass(frozen=True)
class _Order:
    """What a metric is made from: its name as given, what stands after the colon, the known targets, a finder."""

    name: str
    argument: str
    known: tuple[str, ...]
    finder: Finder


@dataclass(frozen=True)
class _BuiltIn:
    """A built-in metric.

    Args:
        build: makes it.
        misfit: says why it cannot score with a target; "" = it can.
        arguments: what may stand after the colon; () = nothing may.
        takes_file: whether a file must stand there.
        needs_targets: whether every row must have one.
        reads_text_lists: whether a target that is a JSON list of texts, written as text, means any of them.
    """

    build: Callable[[_Order], Metric]
    misfit: Callable[[str], str] = lambda target: ""
    arguments: tuple[str, ...] = ()
    takes_file: bool = False
    needs_targets: bool = True
    reads_text_lists: bool = False


def kind() -> plugin.Kind:
    """Return metrics as a kind of plug-ins."""
    return plugin.Kind("metric", "promptopt.metrics", (*_BUILT_IN, UNSCORED, "auto"))


def is_code(name: str) -> bool:
    """Return whether the metric called `name` is a user's file or module, which is run when it is loaded."""
    return name.partition(":")[0] not in _BUILT_IN and plugin.is_code(name)


def needs_targets(name: str) -> bool:
    """Return whether every row must have a target for the metric called `name`."""
    found = _BUILT_IN.get(name.partition(":")[0])
    return name != UNSCORED and found is not None and found.needs_targets


def list_reading(name: str) -> dict[str, bool]:
    """Return how the metric called `name` wants targets that are lists to be read, see `data.load`."""
    if name in ("json", "contains:all"):
        return {"has_alternatives": False}
    found = _BUILT_IN.get(name.partition(":")[0])
    return {"has_text_lists": found is not None and found.reads_text_lists}


def load(
    name: str,
    targets: Sequence[str | None],
    *,
    answer_pattern: str | None = None,
) -> Metric:
    """Return the metric called `name` for data with these targets (of train and dev; None = no label).

    Args:
        answer_pattern: see `Finder`; None = the built-in places of the answer.

    Raises:
        ConfigError: no such metric, the targets are not of its kind, a package that it needs is not installed, or
            the pattern is none.
    """
    finder = Finder(answer_pattern)
    if name == "auto":
        name = choose(targets)[0].name
    head, _, argument = name.partition(":")
    found = _BUILT_IN.get(head)
    if answer_pattern is not None and (found is None or head in (UNSCORED, "judge")):
        raise ConfigError(
            f"--answer-pattern: the metric {name!r} looks for no answer in a reply; leave one of them out"
        )
    if name == UNSCORED:
        return Unscored()
    if found is None:
        return _from_plugin(name)
    plugin.check_unshared(kind(), head)
    _check_argument(name, found)
    known = tuple(target for target in targets if target is not None)
    if found.needs_targets:
        _check_fit(name, found, [(target, "") for target in targets])
    return found.build(_Order(name, argument, known, finder))


def check_targets(name: str, examples: Sequence[Example]) -> None:
    """Raise ConfigError if an example's target does not suit the metric called `name`, or if none has one."""
    found = _BUILT_IN.get(name.partition(":")[0])
    if found is not None and found.needs_targets:
        _check_fit(name, found, [(example.target, f" of row {example.id!r}") for example in examples])


def choose(targets: Sequence[str | None]) -> tuple[Metric, str]:
    """Return the metric that fits the targets, and the reason as a sentence: what `auto` means."""
    known = tuple(target for target in targets if target is not None)
    if not known:
        return Unscored(), f"no row has a target, so answers get no scores: {UNSCORED}"
    n, distinct = len(known), set(known)
    if all(map(is_object, known)):
        return Json(), f"all {n} targets are JSON objects: json"
    bare = [target for target in distinct if len(target.strip()) == 1]
    if all(map(_is_letter, known)) and (not bare or _are_options(distinct)):
        return Choice(), f"all {n} targets are option letters: choice"
    if all(map(is_number, known)):
        return Number(), f"all {n} targets are numbers: number"
    labels = {_fold_label(target) for target in known}
    is_short = all(len(target) <= _LONGEST_LABEL for target in distinct)
    if is_short and len(labels) <= max(20, 2 * n / 5) and 2 * len(labels) <= n:
        return Label(_distinct(known)), f"{len(labels)} distinct targets in {n} rows: label"
    return Exact(), f"{len(distinct)} distinct targets in {n} rows, of no special form: exact"


def _from_plugin(name: str) -> Metric:
    found = plugin.find(kind(), name)
    if found is None:
        raise ConfigError(
            f"unknown metric {name!r} (your own function is named as path.py:function); "
            f"{nearest(name, plugin.names(kind()))}"
        )
    return wrapped(found)


def _check_argument(name: str, found: _BuiltIn) -> None:
    """Raise ConfigError if what stands after the colon of a metric's name is not what it takes."""
    head, colon, argument = name.partition(":")
    if found.takes_file:
        if not argument.strip():
            raise ConfigError(f"metric {name!r} needs a file; write it as {head}:FILE")
    elif colon and not found.arguments:
        raise ConfigError(f"metric {name!r}: {head} takes nothing after a colon; write {head}")
    elif colon and argument not in found.arguments:
        raise ConfigError(f"metric {name!r}: {head} has no {argument!r}; {nearest(argument, found.arguments)}")


def _check_fit(name: str, found: _BuiltIn, targets: Sequence[tuple[str | None, str]]) -> None:
    """Raise ConfigError if no target is known, or one does not suit the metric; each comes with its place."""
    if all(target is None for target, _ in targets):
        raise ConfigError(
            f"metric {name!r}: no row has a target; name the target column, your own path.py:function, or the "
            f"metric {UNSCORED}"
        )
    for target, place in targets:
        if target is not None and (reason := found.misfit(target)):
            raise ConfigError(
                f"metric {name!r}: target {short(target)}{place} does not fit it ({reason}); "
                "correct the target, or take another metric, such as auto"
            )


def _distinct(known: Sequence[str]) -> tuple[str, ...]:
    """Return the labels in the targets, each as it is first written, sorted."""
    firsts: dict[str, str] = {}
    for target in known:
        firsts.setdefault(_fold_label(target), target)
    return tuple(sorted(firsts.values()))


def _is_letter(target: str) -> bool:
    return re.fullmatch(r"\([A-Za-z]\)|[A-Za-z]", target.strip()) is not None


def _are_options(targets: set[str]) -> bool:
    letters = {target.strip(" ()").upper() for target in targets}
    return len(letters) <= _N_LETTERS and letters <= set(string.ascii_uppercase[:_N_LETTERS])


@lru_cache(maxsize=1000)  # the same few targets and answers come again and again
def _fold_label(text: str) -> str:
    folded = " ".join(spaced(text).casefold().replace("_", " ").split())
    return folded.rstrip(".,;:!? ").strip("*\"'`") or folded


def _unless(fits: Callable[[str], bool], name: str) -> Callable[[str], str]:
    return lambda target: "" if fits(target) else METRICS[name]


def _bad_pattern(target: str) -> str:
    try:
        pattern.compiled(target)
    except ConfigError as error:
        return str(error)
    return ""


_BUILT_IN: Mapping[str, _BuiltIn] = {
    "exact": _BuiltIn(lambda order: Exact(order.finder)),
    "label": _BuiltIn(lambda order: Label(_distinct(order.known), order.finder)),
    "choice": _BuiltIn(lambda order: Choice(order.finder), _unless(_is_letter, "choice")),
    "number": _BuiltIn(lambda order: Number(order.finder), _unless(is_number, "number")),
    "json": _BuiltIn(lambda order: Json(order.finder), _unless(is_object, "json")),
    "json-schema": _BuiltIn(
        lambda order: load_schema(order.name, order.argument, order.finder), takes_file=True, needs_targets=False
    ),
    "regex": _BuiltIn(
        lambda order: Regex(not order.argument, order.finder, order.name), _bad_pattern, arguments=("search",)
    ),
    "contains": _BuiltIn(
        lambda order: Contains(order.argument == "all", order.finder, order.name),
        arguments=("all",),
        reads_text_lists=True,
    ),
    "f1": _BuiltIn(lambda order: F1(order.finder), reads_text_lists=True),
    "rouge": _BuiltIn(
        lambda order: Rouge(order.argument or "rougeL", order.finder, order.name),
        rouge_misfit,
        arguments=ROUGES,
        reads_text_lists=True,
    ),
    "bleu": _BuiltIn(
        lambda order: Bleu(order.argument or "exp", order.finder, order.name),
        arguments=SMOOTHINGS,
        reads_text_lists=True,
    ),
    "judge": _BuiltIn(lambda order: rubric.load(order.name), takes_file=True, needs_targets=False),
}
