"""The models of a run by role, with the settings that the user gave to each of them. Nothing is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args

from promptopt import models_file, tape
from promptopt.address import check_address
from promptopt.bound import MOST_AMOUNT, MOST_LENGTH, MOST_PRICE, number
from promptopt.config import Settings
from promptopt.errors import ConfigError, nearest
from promptopt.facts import Facts, is_unsent, refuses
from promptopt.providers import ModelSpec, find_model, is_simulator, load_litellm
from promptopt.secret import clean
from promptopt.task import Task
from promptopt.types import Role, digest

ROLES: tuple[Role, ...] = get_args(Role)
# What `--set-model` may set besides options of the provider, which may have any name.
FIELDS = ("temperature", "max_tokens", "timeout_s", "api_base", "price_in", "price_out")
# Options that are none of the user's here, and why.
_TAKEN = {
    "model": "name it with --model, --optimizer-model, --judge-model or --embedding-model",
    "messages": "they come from the prompt",
    "input": "it comes from the data",
    "custom_llm_provider": "write it in front of the model's name, as provider/name",
    "api_key": "keys are read from the environment, so that none is stored",
    "stream": "whole answers are read",
    "n": "each answer is a call of its own",
    "logprobs": "strategies ask for them where they use them",
    "top_logprobs": "strategies ask for them where they use them",
    "max_completion_tokens": "write max_tokens",
    "timeout": "write timeout_s",
    "max_retries": "retries are made and counted here",
    "num_retries": "retries are made and counted here",
    "drop_params": "an option that is dropped in silence would make the record of a run wrong",
    "additional_drop_params": "an option that is dropped in silence would make the record of a run wrong",
    "base_url": "write api_base",
    "stream_options": "whole answers are read",
    "best_of": "each answer is a call of its own",
    "encoding_format": "vectors are read as numbers",
    "input_cost_per_token": "write price_in, in dollars per million tokens",
    "output_cost_per_token": "write price_out, in dollars per million tokens",
    "logger_fn": "replies are heard there already",
    **dict.fromkeys(("client", "shared_session"), "connections are made here"),
    **dict.fromkeys(("cache", "caching"), "answers are kept in the journal alone"),
    **dict.fromkeys(
        (
            *("fallbacks", "context_window_fallback_dict", "content_policy_fallbacks", "models", "model_list"),
            *("deployment_id", "engine"),
        ),
        "another model would answer under the name and at the price of this one",
    ),
    **dict.fromkeys(
        ("headers", "extra_headers", "default_headers", "provider_specific_header"),
        "headers may hold keys, and options are stored",
    ),
    **dict.fromkeys(
        ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "modalities", "audio"),
        "answers are text",
    ),
}
# Names of options that hold keys, at whatever provider.
_SECRET = re.compile(
    r"(?:api|access|private|signing)_?key|^apikey|secret|passw|credential|authorization|^token$"
    r"|(?:^|_)(?:access|ad|auth|bearer|id|identity|refresh|session)_token$",
    re.IGNORECASE,
)


def read_options(pairs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return options by role and name from `role.name` -> text; a text that is JSON is read as such.

    Raises:
        ConfigError: a key is not written so, or names no role.
    """
    options: dict[str, dict[str, Any]] = {}
    for key, text in pairs.items():
        role, dot, name = key.partition(".")
        if not dot or not name:
            raise ConfigError(f"--set-model {key}: write it as role.option=value, such as optimizer.temperature=1")
        options.setdefault(role, {})[name] = _value(text)
    check_roles(options)
    return options


def check_roles(options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError where options are for no role, not for the user to set, or nothing that can be sent."""
    for role, given in options.items():
        if role not in ROLES:
            raise ConfigError(f"--set-model {role}.{next(iter(given), '')}: no such role; {nearest(role, ROLES)}")
        for name, value in given.items():
            if reason := _objection(name):
                raise ConfigError(f"--set-model {role}.{name}: {reason}")
            if name != "api_base" and clean(text := str(value)) != text:
                raise ConfigError(f"--set-model {role}.{name}: its value holds a key; {_TAKEN['api_key']}")
            for inner in value if name == "extra_body" and isinstance(value, dict) else ():  # options all the same
                if reason := "write it outside of extra_body" if inner in FIELDS else _objection(str(inner)):
                    raise ConfigError(f"--set-model {role}.{name}: {inner}: {reason}")
            _json(role, name, value)


def _objection(name: str) -> str:
    """Return why an option is none of the user's to set; "" = it may be set."""
    if name.startswith("mock_"):
        return "the answers would be made up, and no model asked"
    return _TAKEN.get(name, "") or (_TAKEN["api_key"] if _SECRET.search(name) else "")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def find_models(settings: Settings, needs: frozenset[str], roles: tuple[Role, ...]) -> dict[Role, ModelSpec]:
    """Return the models by role; a judge only where one is needed, embeddings only where they can be used.

    What a former session in the run's folder has looked up is not looked up again.

    Args:
        needs: what the strategy and the proof need or can use.
        roles: which of task and optimizer model the run has.

    Raises:
        ConfigError: a name, key, price or option does not allow the run.
    """
    names: dict[Role, str] = {"task": settings.model, "optimizer": settings.optimizer_model or settings.model}
    names = {role: names[role] for role in roles}
    if "judge" in needs:
        names["judge"] = settings.judge_model or settings.model
    if "embeddings" in needs and settings.embedding_model is not None:
        if is_simulator(settings.embedding_model):
            raise ConfigError(
                f"--embedding-model {settings.embedding_model}: the simulator gives no word vectors; leave it "
                "out, and character n-grams serve instead"
            )
        names["embedding"] = settings.embedding_model
    check_roles(settings.model_options)
    _check_once(settings)
    unused = sorted(set(settings.model_options) - set(names))
    if unused:
        raise ConfigError(
            f"--set-model {unused[0]}: this run has no {unused[0]} model (it has {', '.join(names)})"
        )
    known = tape.known_facts({} if settings.out is None else models_file.read(settings.out))
    models = {role: _find(name, role, settings, known) for role, name in names.items()}
    tape.keep_facts({spec.question: spec.facts for spec in models.values() if not spec.is_simulated})
    _check_prices(models, settings)
    return models


def unused_models(settings: Settings, needs: frozenset[str]) -> list[str]:
    """Return sentences on models that the user named and this run will not ask."""
    named = {
        "--optimizer-model": (settings.optimizer_model, "optimizer model"),
        "--judge-model": (settings.judge_model, "judge"),
        "--embedding-model": (settings.embedding_model, "embeddings"),
    }
    return [
        f"{flag} {name} is not used: nothing in this run asks it"
        for flag, (name, need) in named.items()
        if name is not None and need not in needs
    ]


def _check_once(settings: Settings) -> None:
    """Raise ConfigError if an option of the task model is given in both ways; `--api-base` is for every role."""
    for name in settings.model_options.get("task", {}):
        if name in ("max_tokens", "price_in", "price_out") and getattr(settings, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} and --set-model task.{name} say the same; give one of them")


def _find(name: str, role: Role, settings: Settings, known: Mapping[str, Facts]) -> ModelSpec:
    """Return a role's model with the user's settings of it; whether it takes them is known with its facts."""
    if is_simulator(name):
        from promptopt.simulator import landscape

        landscape(name.partition(":")[2] or "default")  # an unknown one must fail before any spending
    given = dict(settings.model_options.get(role, {}))
    question = digest(name, role, settings.api_base, given)
    api_base = given.pop("api_base", settings.api_base)
    check_address(api_base, f"--set-model {role}.api_base")
    own_prices = _own_prices(role, given.pop("price_in", None), given.pop("price_out", None))
    prices = own_prices or (settings.prices if name == settings.model else None)
    spec = find_model(
        name,
        role,
        api_base=None if is_simulator(name) else api_base,
        max_tokens=settings.max_tokens if role == "task" else None,
        prices=prices,
        facts=known.get(question),
    )
    if spec.price_in is None and settings.prices is not None:
        spec = replace(spec, price_in=settings.prices[0], price_out=settings.prices[1])
    fields, options = {}, {}
    for key, value in given.items():
        if key in FIELDS:
            fields[key] = _field(role, key, value)
        else:
            options[key] = value
    if question not in known:
        _check_taken(spec, role, {key: value for key, value in (fields | options).items() if value is not None})
    ordered = tuple(sorted((key, _json(role, key, value)) for key, value in options.items()))
    return replace(spec, **fields, options=ordered, question=question, is_remembered=question in known)


def _json(role: str, name: str, value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set-model {role}.{name}: no JSON can carry its value ({error})") from error


def _own_prices(role: str, price_in: object, price_out: object) -> tuple[Decimal, Decimal] | None:
    if (price_in is None) != (price_out is None):
        raise ConfigError(f"--set-model: give both {role}.price_in and {role}.price_out, in dollars per million")
    if price_in is None:
        return None
    prices = [number(price, f"--set-model {role}.price", MOST_PRICE) for price in (price_in, price_out)]
    if min(prices) < 0:
        raise ConfigError(f"--set-model {role}.price is {min(prices)}; a price is at least 0 dollars per million")
    return prices[0] / 1_000_000, prices[1] / 1_000_000


def _field(role: str, name: str, value: object) -> Any:
    """Return a field of a model as a number in its range; `none` as temperature = send none."""
    flag = f"--set-model {role}.{name}"
    if name == "temperature":
        if value is None or value == "none":
            return None
        exact = float(number(value, flag))
        if not 0 <= exact <= 2:
            raise ConfigError(f"{flag} is {value}; it must lie between 0 and 2, or be none")
        return exact
    exact = float(number(value, flag, MOST_LENGTH if name == "max_tokens" else MOST_AMOUNT))
    if name == "max_tokens" and (exact != int(exact) or exact < 1):
        raise ConfigError(f"{flag} is {value}; write a whole number above 0")
    if exact <= 0:
        raise ConfigError(f"{flag} is {value}; it must be above 0")
    return int(exact) if name == "max_tokens" else exact


def _check_taken(spec: ModelSpec, role: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError if litellm knows that the model refuses an option; what it does not know, a call shows."""
    own = ("max_tokens", "timeout_s")
    for name, value in options.items():
        if not spec.is_simulated and name not in FIELDS and is_unsent(load_litellm(), name):
            raise ConfigError(f"--set-model {role}.{name}: litellm keeps it to itself, so no model would see it")
        try:
            is_refused = name not in own and _refuses(spec, name, value)
        except (TypeError, ValueError, LookupError, AttributeError) as error:  # within litellm
            raise ConfigError(
                f"--set-model {role}.{name}={value}: litellm cannot read the value ({error}); write it as the "
                "provider documents it"
            ) from error
        if is_refused:
            raise ConfigError(
                f"--set-model {role}.{name}={value}: {spec.name} does not take it; leave it out"
                + (", or write none" if name == "temperature" else "")
            )


def _refuses(spec: ModelSpec, name: str, value: Any) -> bool:
    if spec.is_simulated:
        return name != "temperature"
    return refuses(load_litellm(), spec.name, spec.api_base, name, value)


def _check_prices(models: Mapping[Role, ModelSpec], settings: Settings) -> None:
    """Raise ConfigError where a budget in dollars cannot hold, or would limit nothing."""
    budget = settings.budget
    for spec in models.values():
        if spec.price_in is None and budget.usd is not None:
            raise ConfigError(
                f"no known price for model {spec.name!r}, so --budget-usd cannot hold; give --price-in and "
                "--price-out (dollars per million tokens), or limit --budget-calls or --budget-tokens instead"
            )
    is_free = all(spec.is_free for spec in models.values())
    others = (budget.calls, budget.tokens, budget.seconds)
    if is_free and budget.usd is not None and others == (None, None, None):
        raise ConfigError(
            "every price is 0, so --budget-usd limits nothing; add --budget-calls or --budget-tokens"
        )


def check_images(task: Task, models: Mapping[Role, ModelSpec]) -> list[str]:
    """Return sentences on who sees the images of a task; [] = it has none.

    Raises:
        ConfigError: litellm knows that the task model sees none, or the simulator would see nothing at all.
    """
    if not task.has_images:
        return []
    spec = models["task"]
    if spec.is_simulated:
        if not task.columns:
            raise ConfigError(
                f"the simulator ({spec.name}) sees no images, and the data has no text; take a real model, "
                "or data with a text column"
            )
        return ["the simulator ignores images"]
    if spec.facts.sees_images is False:
        raise ConfigError(
            f"model {spec.name!r} sees no images, as litellm's table of models says; take a vision model, "
            "or leave --image out"
        )
    unknown = [f"images are sent to {spec.name}; whether it sees them is not known beforehand"]
    others = ", ".join(role for role in ("optimizer", "judge") if role in models)
    alone = [f"images are shown to the task model alone, not to: {others}"] if others else []
    return [*(unknown if spec.facts.sees_images is None else []), *alone]
