"""What a run was given (prompt, rows, metric, settings) as JSON, and back: so that it can be gone through again.

It stands in the journal, hence in recordings. Code is never among it: a metric, strategy or function of the user's
own is named, and has to be given again by whoever replays the run. Nor are keys, nor images' files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePath
from typing import Any, TypeVar

from promptopt import plugin, registry
from promptopt.config import Settings, shown
from promptopt.errors import ConfigError
from promptopt.plan import Plan, predict_identity
from promptopt.secret import MARK, masked
from promptopt.task import Task
from promptopt.tasks import metrics
from promptopt.types import Budget, Demo, Example, Image, Metric, Prompt

T = TypeVar("T")

_SPLITS = ("train", "dev", "test")
_FILE_METRICS = ("judge", "json-schema")
_WRONG = "it is damaged, or was not written by promptopt record"


def given_to(plan: Plan, front_matter: str) -> dict[str, Any]:
    """Return what a run has to do: its prompt, rows and metric."""
    task, metric = plan.given, plan.given.metric
    return {
        "prompt": _prompt_json(task.initial),
        "front_matter": front_matter,
        "task": task.name,
        "description": task.description,
        "input_column": task.input_column,
        "labels": list(task.labels),
        "verbalizers": dict(task.verbalizers),
        "calls_per_example": task.calls_per_example,
        "predict": predict_identity(task),
        "metric": metric.name,
        "metric_text": str(getattr(metric, "text", "")),
        "answer_pattern": getattr(getattr(metric, "finder", None), "pattern", None),
        "rows": {split: [_row(example) for example in getattr(task, split)] for split in _SPLITS},
    }


def settings_of(plan: Plan) -> dict[str, Any]:
    """Return the settings of a run as JSON; never its folder, nor a token in an address."""
    fields = asdict(replace(plan.settings, out=None))
    del fields["out"]
    fields["api_base"] = fields["api_base"] and masked(fields["api_base"])
    fields["model_options"] = {
        role: {name: shown(name, value) if isinstance(value, str) else value for name, value in given.items()}
        for role, given in plan.settings.model_options.items()
    }
    plain: dict[str, Any] = json.loads(json.dumps(fields, default=str))
    return plain


def read_settings(
    found: Mapping[str, Any], folder: Path, optimizer: str | None, api_base: str | None = None
) -> Settings:
    """Return settings from their JSON, for a run in another folder.

    Args:
        api_base: the address, where the recorded one had a token in it; nothing is sent there.
        optimizer: the strategy to take instead of the recorded one; None = that one, if it is none of the user's.

    Raises:
        ConfigError: they are damaged, or name a strategy that has to be given.
    """
    fields = dict(found)
    unknown = sorted(set(fields) - set(Settings.__dataclass_fields__))
    if unknown:
        raise ConfigError(f"the recording's settings have {unknown[0]!r}, which this version does not know")
    fields["api_base"] = api_base or fields.get("api_base")
    if MARK in str(fields["api_base"]):
        raise ConfigError(
            f"the run's address had a token in it, which is kept nowhere ({fields['api_base']}); name the address "
            "again: --api-base (nothing is sent there)"
        )
    fields["optimizer"] = optimizer or _known(registry.kind(), _text(fields.get("optimizer"), "optimizer"))
    try:
        budget = dict(fields.pop("budget"))
        budget["usd"] = None if budget["usd"] is None else Decimal(str(budget["usd"]))
        for name in ("price_in", "price_out"):
            fields[name] = None if fields[name] is None else Decimal(str(fields[name]))
        return Settings(**fields, budget=Budget(**budget), out=folder)
    except (TypeError, ValueError, KeyError, AttributeError, InvalidOperation) as error:
        raise ConfigError(f"the recording's settings cannot be read ({error}); {_WRONG}") from error


def read_task(found: Mapping[str, Any], folder: Path, metric: str | Metric | None) -> Task:
    """Return the task from its JSON; a file that its metric needs is written into `folder`.

    Args:
        metric: the one to take instead of the recorded one, by name or itself; None = that one, if it is no code.

    Raises:
        ConfigError: it is damaged, or its metric has to be given.
    """
    train, dev, test = (read_examples(found, split) for split in _SPLITS)
    targets = [example.target for example in (*train, *dev)]
    chosen = _metric(found, folder, targets, metric)
    verbalizers = {_text(k, "verbalizers"): _text(v, "verbalizers") for k, v in _items(found, "verbalizers")}
    return Task(
        name=_text(found.get("task"), "task"),
        metric=chosen,
        train=train,
        dev=dev,
        test=test,
        initial=read_prompt(found),
        description=_text(found.get("description"), "description"),
        input_column=_text(found.get("input_column"), "input_column"),
        labels=tuple(_text(label, "labels") for label in _part(found, "labels", list)),
        verbalizers=verbalizers,
        calls_per_example=_part(found, "calls_per_example", int),
    )


def read_prompt(found: Mapping[str, Any]) -> Prompt:
    """Return the prompt that the run began with."""
    return _prompt(_part(found, "prompt", dict))


def read_examples(found: Mapping[str, Any], split: str) -> tuple[Example, ...]:
    """Return the rows of a split, as they were given.

    Raises:
        ConfigError: they are damaged.
    """
    return _rows(_part(_part(found, "rows", dict), split, list))


def front_matter_of(found: Mapping[str, Any]) -> str:
    """Return the front matter of the prompt file; "" = it had none."""
    return _text(found.get("front_matter"), "front_matter")


# Inside ---------------------------------------------------------------------------------------------


def _metric(
    found: Mapping[str, Any], folder: Path, targets: Sequence[str | None], given: str | Metric | None
) -> Metric:
    """Return the metric: the one that was given, or the recorded one."""
    pattern = found.get("answer_pattern")
    if pattern is not None:
        pattern = _text(pattern, "answer_pattern")
    if given is not None:
        return metrics.load(given, targets) if isinstance(given, str) else given
    name = _text(found.get("metric"), "metric")
    head = name.partition(":")[0]
    if head not in _FILE_METRICS:
        if head not in metrics.kind().built_in:
            _known(metrics.kind(), name)
        return metrics.load(name, targets, answer_pattern=pattern)
    path = folder / f"metric{PurePath(name).suffix}"  # never the recorded name: it might be a path of its own
    path.write_text(_text(found.get("metric_text"), "metric_text"), encoding="utf-8")
    loaded: Any = metrics.load(f"{head}:{path}", targets, answer_pattern=pattern)
    renamed: Metric = replace(loaded, name=name)
    return renamed


def _known(kind: plugin.Kind, name: str) -> str:
    """Return the name of something built in or installed.

    Raises:
        ConfigError: it is code of the user's own, which no recording may bring in.
    """
    if name not in plugin.names(kind):
        raise ConfigError(
            f"the run used the {kind.what} {name!r}, and code is never taken from a recording or a journal; "
            f"name it yourself: --{kind.what} {name.rpartition('/')[2]}"
        )
    return name


def _prompt_json(prompt: Prompt) -> dict[str, Any]:
    return {"instruction": prompt.instruction, "demos": [[list(d.inputs), d.output] for d in prompt.demos]}


def _prompt(found: Mapping[str, Any]) -> Prompt:
    demos = []
    for demo in _part(found, "demos", list):
        inputs, output = _pair(demo, "demos")
        shown = tuple(_pair(pair, "demos") for pair in _of(inputs, list, "demos"))
        demos.append(Demo(tuple((_text(c, "demos"), _text(t, "demos")) for c, t in shown), _text(output, "demos")))
    return Prompt(_text(found.get("instruction"), "instruction"), tuple(demos))


def _row(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {"id": example.id, "inputs": dict(example.inputs), "target": example.target}
    if example.also_right:
        row["also_right"] = list(example.also_right)
    if example.images:
        row["images"] = [[image.identity, image.kind] for image in example.images]
    return row


def _rows(found: Sequence[Any]) -> tuple[Example, ...]:
    return tuple(_example(_of(row, dict, "rows")) for row in found)


def _example(row: Mapping[str, Any]) -> Example:
    target = row.get("target")
    images = [_pair(image, "images") for image in _of(row.get("images", []), list, "images")]
    return Example(
        _text(row.get("id"), "rows"),
        {_text(c, "rows"): _text(t, "rows") for c, t in _items(row, "inputs")},
        None if target is None else _text(target, "rows"),
        tuple(_text(t, "rows") for t in _of(row.get("also_right", []), list, "rows")),
        tuple(Image(_text(identity, "images"), _text(kind, "images"), "") for identity, kind in images),
    )


def _items(found: Mapping[str, Any], key: str) -> list[tuple[Any, Any]]:
    return list(_part(found, key, dict).items())


def _part(found: Mapping[str, Any], key: str, kind: type[T]) -> T:
    return _of(found.get(key), kind, key)


def _text(value: object, where: str) -> str:
    return _of(value, str, where)


def _pair(value: object, where: str) -> tuple[Any, Any]:
    pair = _of(value, list, where)
    if len(pair) != 2:
        raise ConfigError(f"the recording's {where} hold {len(pair)} parts instead of two; {_WRONG}")
    return pair[0], pair[1]


def _of(value: object, kind: type[T], where: str) -> T:
    """Return a value that is of a kind; raise ConfigError if it is not."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"the recording's {where} is {type(value).__name__}, expected {kind.__name__}; {_WRONG}")
    return value
