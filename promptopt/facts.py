"""What litellm's tables say of a model, and whether it can be called; nothing is sent."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import ModuleType
from typing import Any

from promptopt.errors import ConfigError, nearest
from promptopt.reply import list_prices, model_info
from promptopt.tape import inserted

# Packages that litellm needs for some models and does not bring along: (module, extra of ours that does).
_RESPONSES_API, _VERTEX = ("mcp", "responses"), ("google.auth", "vertex")
# Controls of litellm's own that say how a model is reached, or what may be sent to it.
_NEEDED = ("api_version", "region_name", "ssl_verify", "allowed_openai_params", "supports_system_message")
# What litellm names as missing though it has a default for it, and the provider for which one of the keys will do.
_OPTIONAL, _EITHER_KEY = ("OLLAMA_API_BASE",), "gemini"
# Kinds of models, as litellm's table names them, that reply to chats.
_CHATS = ("chat", "completion", "responses")


@dataclass(frozen=True)
class Facts:
    """What is known of a model before any call.

    Args:
        price_in: dollars per input token by the list; None = unknown.
        price_out: dollars per output token by the list; None = unknown.
        is_reasoning: whether the model thinks before it answers.
        takes_temperature: whether the temperature of its role would be sent to it.
        takes_logprobs: whether it would be asked for log-probabilities; whether it gives them, a call shows.
        sees_images: None = not known.
    """

    price_in: Decimal | None = None
    price_out: Decimal | None = None
    is_reasoning: bool = False
    takes_temperature: bool = True
    takes_logprobs: bool = False
    sees_images: bool | None = None


def look_up(litellm: ModuleType, name: str, temperature: float, api_base: str | None) -> Facts:
    """Return what the tables say of a model.

    Raises:
        ConfigError: it cannot be called, see `check_callable`.
    """
    check_callable(litellm, name, api_base)
    info, wire = model_info(litellm, name), wire_name(name, api_base)
    price_in, price_out = list_prices(litellm, name)
    return Facts(
        price_in=price_in,
        price_out=price_out,
        is_reasoning=bool(info and info.get("supports_reasoning")),
        takes_temperature=_takes(litellm, wire, temperature=temperature),
        takes_logprobs=_takes(litellm, wire, logprobs=True, top_logprobs=1),
        sees_images=None if api_base is not None else _sees_images(litellm, name),
    )


def check_callable(litellm: ModuleType, name: str, api_base: str | None) -> None:
    """Raise ConfigError if the name is unknown to litellm, or a key or package that it needs is missing."""
    if api_base is None:
        _check_name_and_key(litellm, name)
    _check_packages(litellm, name, api_base)


def check_kind(litellm: ModuleType, name: str, is_embedding: bool) -> None:
    """Raise ConfigError if litellm knows a model as one that cannot do what its role asks of it."""
    kind = (model_info(litellm, name) or {}).get("mode")
    if kind is None or (kind == "embedding" if is_embedding else kind in _CHATS):
        return
    wanted = "gives no word vectors; name an embedding model" if is_embedding else "is none that chats; name one"
    raise ConfigError(f"model {name!r} {wanted} (litellm lists it as {kind})")


def refuses(litellm: ModuleType, name: str, api_base: str | None, option: str, value: Any) -> bool:
    """Return whether a model is known to refuse an option."""
    return _sent(litellm, wire_name(name, api_base), {option: value})[1] is None


def is_unsent(litellm: ModuleType, option: str) -> bool:
    """Return whether an option is one of litellm's own controls, and none that a call may need."""
    return option in litellm.types.utils.all_litellm_params and option not in _NEEDED


def wire_name(name: str, api_base: str | None) -> str:
    """Return the name that litellm is called with; any name behind `api_base` is OpenAI-compatible."""
    return name if api_base is None or name.startswith("openai/") else f"openai/{name}"


def _check_name_and_key(litellm: ModuleType, name: str) -> None:
    try:
        _, provider, _, _ = litellm.get_llm_provider(name)
    except litellm.BadRequestError as error:
        hint = nearest(name, ("sim", *(n for n in litellm.model_cost if "/" not in n)))
        raise ConfigError(
            f"model {name!r} is unknown: {hint} Write provider/name as litellm does (openai/gpt-5-mini), "
            "`sim` for the simulator, or add --api-base for your own server"
        ) from error
    tape = inserted()
    if tape is not None and tape.is_closed:  # nobody is called
        return
    found = litellm.validate_environment(name)  # its keys are empty where the environment has what is needed
    missing = [key for key in found["missing_keys"] if key not in os.environ and key not in _OPTIONAL]
    if missing:
        names = (" or " if provider == _EITHER_KEY else " and ").join(missing)
        what = "a key" if all("KEY" in key or "TOKEN" in key for key in missing) else "settings"
        raise ConfigError(f"model {name!r} ({provider}) needs {what}: set {names} in the environment")


def _check_packages(litellm: ModuleType, name: str, api_base: str | None) -> None:
    wire, info = wire_name(name, api_base), model_info(litellm, name)
    needed = []
    if "/responses/" in wire or (info is not None and info.get("mode") == "responses"):
        needed.append(_RESPONSES_API)
    if wire.startswith("vertex_ai/"):
        needed.append(_VERTEX)
    for module, extra in needed:
        if not _is_installed(module):
            raise ConfigError(
                f"model {name!r} needs the package {module}, which is not installed: "
                f"pip install 'promptopt-suite[{extra}]'"
            )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _takes(litellm: ModuleType, wire: str, **setting: Any) -> bool:
    """Return whether litellm would send a setting to the model."""
    provider, sent = _sent(litellm, wire, setting)
    return sent is not None and (bool(setting.keys() & sent.keys()) or provider not in ("openai", "azure"))


def _sent(litellm: ModuleType, wire: str, setting: Mapping[str, Any]) -> tuple[str, Mapping[str, Any] | None]:
    """Return the model's provider, and what litellm would send it for a setting; None = it is refused."""
    bare, provider, _, _ = litellm.get_llm_provider(wire)
    try:
        return provider, litellm.get_optional_params(model=bare, custom_llm_provider=provider, **setting)
    except litellm.UnsupportedParamsError:
        return provider, None


def _sees_images(litellm: ModuleType, name: str) -> bool | None:
    bare = litellm.get_llm_provider(name)[0]
    row = litellm.model_cost.get(name) or litellm.model_cost.get(bare) or {}
    known: bool | None = row.get("supports_vision")
    return known
