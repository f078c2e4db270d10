"""Finds search strategies by name, and reads their options.

A strategy is a frozen dataclass of hyperparameters with `optimize(study)`. Its fields are the option
schema. Others come from the entry-point group `promptopt.optimizers`, or from `path.py:Name` or
`package.module:Name`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from promptopt import plugin
from promptopt.errors import ConfigError, nearest
from promptopt.study import Study
from promptopt.types import Candidate, Role

BUILT_IN: Mapping[str, str] = types.MappingProxyType(
    {
        "capo": "promptopt.optimizers.capo:Capo",
        "claps": "promptopt.optimizers.claps:Claps",
        "promptagent": "promptopt.optimizers.prompt_agent:PromptAgent",
        "promptquine": "promptopt.optimizers.promptquine:PromptQuine",
        "random": "promptopt.optimizers.random_search:RandomSearch",
        "reflect": "promptopt.optimizers.reflect:Reflect",
        "spo": "promptopt.optimizers.spo:Spo",
        "tapruning": "promptopt.optimizers.tapruning:TaPruning",
    }
)
AUTO = "reflect"
LABEL_FREE = "spo"  # what `auto` picks where nothing gives scores


class Optimizer(Protocol):
    """A search strategy: a frozen dataclass whose fields are its options.

    Obligations: `optimize` touches nothing but the study; it prints nothing, catches no budget or
    provider error, and calls `study.propose` whenever its incumbent changes.

    Args:
        source: the publication.
        requires: what it cannot do without: labels (targets, and scores by them), scores (whatever gives them),
            log-probabilities, optimizer model, judge.
        usual_calls: its typical number of calls, in words.
        when: when to choose it.
        presets: options by the name of the preset; `paper` is the published algorithm with its settings.

    With `objectives` it says which it can weigh, the score among them, if the user asks for more than the score;
    it then reads `study.objectives`, races by fronts, and names its front with `study.front`.

    It may also have `prefers`, as an attribute or a property that hangs on its options: what it uses if it is
    there (log-probabilities, embeddings). An option `max_demos` is the most demonstrations of a prompt; forecasts
    reckon that prompts come to have so many. One `show` is the failures that a request for a text shows.

    Where the budget is in dollars and prices are known, its method `at_price(ratio)`, if it has one, returns it
    with options that suit, and a sentence for the screen or "": a text of the optimizer model costs `ratio`
    answers.
    """

    source: ClassVar[str]
    requires: ClassVar[frozenset[str]]
    usual_calls: ClassVar[str]
    when: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, object]]]

    def minimum_calls(self) -> int:
        """Return the answers below which the strategy refuses to start."""
        ...

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role for a search of `n_calls`."""
        ...

    async def optimize(self, study: Study) -> Candidate:
        """Return the best candidate found."""
        ...


def kind() -> plugin.Kind:
    """Return strategies as a kind of plug-ins."""
    return plugin.Kind("optimizer", "promptopt.optimizers", (*BUILT_IN, "auto"))


def optimizer_names() -> tuple[str, ...]:
    """Return the names of all strategies, built in and installed."""
    return tuple(name for name in plugin.names(kind()) if name != "auto")


def weighing(objectives: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the strategies that can weigh these objectives."""
    names = optimizer_names()
    return tuple(n for n in names if set(objectives) <= getattr(optimizer_class(n), "objectives", frozenset()))


def uses(optimizer: Optimizer) -> frozenset[str]:
    """Return what a strategy requires, and what it uses if it is there."""
    prefers: frozenset[str] = getattr(optimizer, "prefers", frozenset())
    return optimizer.requires | prefers


def optimizer_class(name: str) -> type[Any]:
    """Return the class of a strategy by name, or from `path.py:Name` or `package.module:Name`.

    Raises:
        ConfigError: there is none, the message names the nearest; or it is no strategy.
    """
    found = plugin.find(kind(), name)
    if found is not None:
        return _checked(found)
    if name not in BUILT_IN:
        raise ConfigError(f"optimizer {name!r} is unknown: {nearest(name, optimizer_names())}")
    module, _, attribute = BUILT_IN[name].partition(":")
    cls: type[Any] = getattr(importlib.import_module(module), attribute)
    return cls


def make_optimizer(name: str, options: Mapping[str, str]) -> tuple[str, Optimizer]:
    """Return the name and the strategy that `name` means (`auto` picks), with its options read from text.

    Raises:
        ConfigError: an option is unknown, has no such value, or a size cannot work.
    """
    name = AUTO if name == "auto" else name
    cls = optimizer_class(name)
    kinds = _option_types(cls)
    values: dict[str, object] = {}
    given = dict(options)
    preset = given.pop("preset", None)
    if preset is not None:
        presets = getattr(cls, "presets", {})
        if preset not in presets:
            raise ConfigError(f"optimizer {name!r} has no preset {preset!r}: {nearest(preset, presets)}")
        values.update(presets[preset])
    for key, text in given.items():
        if key not in kinds:
            raise ConfigError(f"optimizer {name!r} has no option {key!r}: {nearest(key, (*kinds, 'preset'))}")
        values[key] = _read(text, kinds[key], f"{name}.{key}")
    optimizer: Optimizer = cls(**values)
    return name, optimizer


def at_price(optimizer: Optimizer, ratio: float) -> tuple[Optimizer, str]:
    """Return a strategy as it suits prices, and a sentence that says what was changed, or "".

    Args:
        ratio: answers of the task model that a text of the optimizer model costs.
    """
    suit = getattr(optimizer, "at_price", None)
    if suit is None:
        return optimizer, ""
    suited: tuple[Optimizer, str] = suit(ratio)
    return suited


def source_digest(name: str) -> str:
    """Return the digest of the file of a strategy; "" for a built-in one."""
    return plugin.source_digest(kind(), name)


def describe_options(cls: type[Any]) -> list[tuple[str, str, str]]:
    """Return (name, default, meaning) of each option, from the class and its docstring."""
    meanings = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", inspect.getdoc(cls) or "", re.MULTILINE))
    meanings = {key: " ".join(text.split()) for key, text in meanings.items()}
    return [
        (field.name, "None" if field.default is None else str(field.default), meanings.get(field.name, ""))
        for field in dataclasses.fields(cls)
    ]


def options_of(optimizer: Optimizer) -> dict[str, Any]:
    """Return the options of a strategy as plain values, for the journal and the result."""
    return dataclasses.asdict(typing.cast(Any, optimizer))


def deviations_of(optimizer: Optimizer) -> tuple[str, ...]:
    """Return how a strategy differs from its publication: the list after `Deviations` in its file's docstring."""
    module = inspect.getmodule(type(optimizer))
    text = (inspect.getdoc(module) or "").partition("\nDeviations")[2] if module else ""
    return tuple(" ".join(item.split()) for item in re.findall(r"^- (.+(?:\n  .+)*)", text, re.MULTILINE))


def _checked(plugged: plugin.Plugin) -> type[Any]:
    """Return the class that a plug-in is.

    Raises:
        ConfigError: it is no strategy.
    """
    found, spec = plugged.value, plugged.name
    if not (inspect.isclass(found) and dataclasses.is_dataclass(found) and hasattr(found, "optimize")):
        raise ConfigError(f"optimizer {spec!r} must be a dataclass with `async def optimize(self, study)`")
    needed = ("source", "requires", "when", "presets", "minimum_calls", "forecast")
    missing = [name for name in needed if not hasattr(found, name)]
    if missing:
        raise ConfigError(
            f"optimizer {spec!r} lacks {', '.join(missing)}; see promptopt.Optimizer for what a strategy declares"
        )
    return found


def _option_types(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _read(text: str, kind: Any, what: str) -> object:
    """Return `text` read as `kind`: int, float, bool, str, a Literal, or one of these or None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        arms = typing.get_args(kind)
        if text.lower() == "none" and type(None) in arms:
            return None
        return _read(text, next(arm for arm in arms if arm is not type(None)), what)
    if typing.get_origin(kind) is Literal:
        choices: Sequence[str] = typing.get_args(kind)
        if text not in choices:
            raise ConfigError(f"{what}={text}: {nearest(text, choices)}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{what}={text}; write true or false")
        return text.lower() == "true"
    try:
        value: object = kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{what}={text}; it must be {wanted}") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{what}={text}; it must be a finite number")
    return value
