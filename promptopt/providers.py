"""Models behind litellm: what they cost and take, how they are called, what their failures mean.

litellm costs three seconds to import, hence it is imported at the first need. Its own retries, price
download, `.env` loading and printing are switched off before.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import math
import os
import time
import warnings
from dataclasses import dataclass, replace
from decimal import Decimal
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from promptopt import image
from promptopt.errors import (
    CallRefused,
    CallTimedOut,
    ConfigError,
    ConnectionLost,
    ContentRefused,
    ContextTooLong,
    ProviderError,
    RateLimited,
    RunRefused,
    ServerFailed,
    nearest,
)
from promptopt.ledger import Amount
from promptopt.types import Message, Request, Response, Role, Usage

if TYPE_CHECKING:
    from promptopt.simulator import Simulator

MAX_TOKENS_TASK = 1024
MAX_TOKENS_WRITER = 8192
# Tokens that chat formats add; generous, since a reservation must be a true bound.
_TOKENS_PER_MESSAGE = 16
_QUOTA_WORDS = ("insufficient_quota", "exceeded your current quota", "credit balance is too low", "billing_hard")
# litellm knows most of these refusals by their wording; the code is surer.
_REFUSAL_CODES: dict[str, type[CallRefused]] = {
    "context_length_exceeded": ContextTooLong,
    "content_policy_violation": ContentRefused,
    "content_filter": ContentRefused,
}
# Gemini words a limit per minute like an exhausted quota, but then says when to come back.
_RETRY_WORDS = ("retry in", "retrydelay", "try again in")


_REMEDIES = {
    "AuthenticationError": "; check the key in the environment",
    "PermissionDeniedError": "; check what the key may do",
    "PaymentRequiredError": "; check the account's credit",
    "NotFoundError": "; check the model's name and --api-base",
}


class Transport(Protocol):
    """Sends one request, once, and returns the answer.

    Obligations: no retries of its own; raises only errors below ProviderError; `cost_usd` None when
    the price is unknown; safe to call concurrently.
    """

    async def send(self, request: Request, timeout_s: float) -> Response:
        """Return the answer to `request`, or raise within about `timeout_s` seconds."""
        ...


@dataclass(frozen=True)
class ModelSpec:
    """A role's model with its settings and prices.

    Args:
        name: as the user gave it.
        max_tokens: upper limit of output tokens of a call.
        temperature: None = the model takes none; its answers count as noisy.
        api_base: address of an OpenAI-compatible server; None = the provider's own.
        price_in: dollars per input token; None = unknown.
        price_out: dollars per output token; None = unknown.
        is_reasoning: whether the model thinks before it answers.
        timeout_s: seconds that one call may take.
        top_logprobs: log-probabilities of the first answer token to ask for; 0 = none.
        is_embedding: whether the model gives vectors of texts instead of replies.
        options: further settings of the provider by name, sorted; values as JSON.
    """

    name: str
    max_tokens: int = MAX_TOKENS_TASK
    temperature: float | None = 0.0
    api_base: str | None = None
    price_in: Decimal | None = None
    price_out: Decimal | None = None
    is_reasoning: bool = False
    timeout_s: float = 120.0
    top_logprobs: int = 0
    is_embedding: bool = False
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_simulated(self) -> bool:
        """Whether the model is the built-in simulator."""
        return is_simulator(self.name)

    @property
    def is_noisy(self) -> bool:
        """Whether the same request may get another answer."""
        return self.temperature is None or self.temperature > 0

    @property
    def prices(self) -> tuple[Decimal | None, Decimal | None]:
        """Dollars per input and per output token; None = unknown."""
        return self.price_in, self.price_out

    def request(self, messages: tuple[Message, ...], sample: str = "") -> Request:
        """Return the request that asks this model."""
        return Request(
            model=self.name,
            messages=messages,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_logprobs=self.top_logprobs,
            api_base=self.api_base,
            sample=sample if self.is_noisy else "",
            is_embedding=self.is_embedding,
            options=self.options,
        )

    def worst_case(self, request: Request) -> Amount:
        """Return the most that a call can take: a token per UTF-8 byte, 50,000 an image, and all of max_tokens."""
        n_in = sum(len(m.content.encode("utf-8", "replace")) + _TOKENS_PER_MESSAGE for m in request.messages)
        n_in += _TOKENS_PER_MESSAGE + image.MAX_TOKENS * len(request.images)
        return Amount(1, n_in + request.max_tokens, self.price(n_in, request.max_tokens) or Decimal(0))

    def price(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Return the list price of that many tokens in dollars; None = unknown."""
        if self.price_in is None or self.price_out is None:
            return None
        return self.price_in * input_tokens + self.price_out * output_tokens


def is_simulator(name: str) -> bool:
    """Return whether a model name means the built-in simulator: `sim` or `sim:LANDSCAPE`."""
    return name == "sim" or name.startswith("sim:")


def find_model(
    name: str,
    role: Role,
    *,
    api_base: str | None = None,
    max_tokens: int | None = None,
    prices: tuple[Decimal, Decimal] | None = None,
) -> ModelSpec:
    """Return the model's settings for a role, from litellm's tables; nothing is sent.

    Args:
        max_tokens: None = 1,024 for task and judge, 8,192 for the optimizer and for reasoning models.
        prices: dollars per input and output token, which win over litellm's list; None = the list.

    Raises:
        ConfigError: the name is unknown to litellm, or its key is missing in the environment.
    """
    if is_simulator(name):
        from promptopt.simulator import PRICE_IN, PRICE_OUT

        listed: tuple[Decimal, Decimal] | tuple[None, None] = (PRICE_IN, PRICE_OUT)
        is_reasoning, takes = False, True
    else:
        litellm = load_litellm()
        _check_name_and_key(litellm, name, api_base)
        info = _model_info(litellm, name)
        listed = _list_prices(litellm, info)
        is_reasoning = bool(info and info.get("supports_reasoning"))
        takes = _takes(litellm, wire_name(name, api_base), temperature=_temperature(role))
    default = MAX_TOKENS_WRITER if role == "optimizer" or is_reasoning else MAX_TOKENS_TASK
    is_embedding = role == "embedding"
    return ModelSpec(
        name=name,
        max_tokens=0 if is_embedding else max_tokens or default,
        is_embedding=is_embedding,
        temperature=_temperature(role) if takes or is_embedding else None,
        api_base=api_base,
        price_in=(prices or listed)[0],
        price_out=(prices or listed)[1],
        is_reasoning=is_reasoning,
        timeout_s=600.0 if is_reasoning or role == "optimizer" else 120.0,
    )


@functools.cache
def load_litellm() -> ModuleType:
    """Import litellm with its network access, `.env` loading and printing switched off."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    with warnings.catch_warnings():
        # Its records are built at first use and warn then; where warnings are errors, every call would fail.
        warnings.simplefilter("ignore")
        litellm = importlib.import_module("litellm")
        litellm.ModelResponse()
    litellm.suppress_debug_info = True  # type: ignore[attr-defined]  # it prints to stdout otherwise
    litellm.telemetry = False  # type: ignore[attr-defined]
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    return litellm


class LitellmTransport:
    """Calls any provider through litellm.

    Args:
        specs: the run's models, for prices that the user gave.
    """

    def __init__(self, specs: tuple[ModelSpec, ...]) -> None:
        self._specs = {(spec.name, spec.api_base): spec for spec in specs}

    async def send(self, request: Request, timeout_s: float) -> Response:
        """Return the answer to `request`; see Transport."""
        litellm = load_litellm()
        ask, read = litellm.acompletion, self._response
        if request.is_embedding:
            ask, read = litellm.aembedding, self._vectors
        started = time.monotonic()
        try:
            reply = await ask(**self._arguments(request), timeout=timeout_s, max_retries=0)
        except Exception as error:  # litellm's tree has no root; each is drawn anew, none kept
            raise classify(litellm, error) from error
        return read(litellm, request, reply, time.monotonic() - started)

    def _arguments(self, request: Request) -> dict[str, Any]:
        arguments: dict[str, Any] = {"model": wire_name(request.model, request.api_base)}
        if request.is_embedding:
            arguments |= {"input": [m.content for m in request.messages], "encoding_format": "float"}
        else:
            messages: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in request.messages]
            if request.images:
                last = next(m for m in reversed(messages) if m["role"] == "user")
                last["content"] = image.parts_of(request.images, last["content"])
            arguments["messages"] = messages
            arguments["max_tokens"] = request.max_tokens
            if request.temperature is not None:
                arguments["temperature"] = request.temperature
        if request.top_logprobs:
            arguments |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        arguments |= {name: json.loads(value) for name, value in request.options}
        if request.api_base:
            arguments["api_base"] = request.api_base
            if not os.environ.get("OPENAI_API_KEY"):
                arguments["api_key"] = "none"  # local servers take any key, the client insists on one
        return arguments

    def _response(self, litellm: ModuleType, request: Request, reply: Any, latency_s: float) -> Response:
        if not reply.choices:
            raise ServerFailed(f"{request.model} sent a reply without choices")
        choice = reply.choices[0]
        extra = getattr(choice.message, "provider_specific_fields", None) or {}
        text = choice.message.content or extra.get("refusal") or ""
        usage = _usage(getattr(reply, "usage", None))
        return Response(
            text=text,
            usage=usage,
            cost_usd=self._cost(litellm, request, reply, usage),
            latency_s=latency_s,
            finish_reason="content_filter" if extra.get("refusal") else str(choice.finish_reason or "unknown"),
            logprobs=_first_token(getattr(choice, "logprobs", None)),
        )

    def _vectors(self, litellm: ModuleType, request: Request, reply: Any, latency_s: float) -> Response:
        """Return the vectors as a JSON list, in the order of the texts."""
        try:
            rows = sorted(reply.data, key=lambda row: int(row["index"]))
            vectors = [[float(value) for value in row["embedding"]] for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise ServerFailed(f"{request.model} sent vectors that cannot be read: {error!r}") from error
        is_complete = len(vectors) == len(request.messages) and len({len(vector) for vector in vectors}) == 1
        if not is_complete or not all(math.isfinite(value) for vector in vectors for value in vector):
            raise ServerFailed(f"{request.model} sent {len(vectors)} vectors for {len(request.messages)} texts")
        usage = _usage(getattr(reply, "usage", None))
        return Response(json.dumps(vectors), usage, self._cost(litellm, request, reply, usage), latency_s)

    def _cost(self, litellm: ModuleType, request: Request, reply: Any, usage: Usage | None) -> Decimal | None:
        if usage is None:
            return None
        spec = self._specs.get((request.model, request.api_base))
        info = _model_info(litellm, request.model)
        listed = _list_prices(litellm, info)
        if spec is not None and (spec.price_in, spec.price_out) != listed:
            return spec.price(usage.input_tokens, usage.output_tokens)
        own = getattr(reply.usage, "cost", None)
        if own:  # the provider's own sum, as OpenRouter sends it
            return Decimal(str(own))
        if listed[0] is None:
            return None
        parts = litellm.cost_per_token(model=request.model, usage_object=reply.usage)
        return Decimal(str(parts[0])) + Decimal(str(parts[1]))


class SimulatorTransport:
    """Answers with the built-in simulator, in process.

    Args:
        simulator: told the task's data beforehand.
        spec: gives the prices to charge.
    """

    def __init__(self, simulator: Simulator, spec: ModelSpec) -> None:
        self._simulator = simulator
        self._spec = spec

    async def send(self, request: Request, timeout_s: float) -> Response:
        """Return the simulated answer, at once."""
        response = self._simulator.complete(request)
        if response.usage is None:
            return response
        cost = self._spec.price(response.usage.input_tokens, response.usage.output_tokens)
        return replace(response, cost_usd=cost)


def takes_logprobs(spec: ModelSpec) -> bool:
    """Return whether litellm would ask the model for log-probabilities; whether it gives them, a call shows."""
    return spec.is_simulated or _takes(
        load_litellm(), wire_name(spec.name, spec.api_base), logprobs=True, top_logprobs=1
    )


def refuses(spec: ModelSpec, name: str, value: Any) -> bool:
    """Return whether an option is known to be refused; asked locally, nothing is sent."""
    if spec.is_simulated:
        return name != "temperature"
    litellm = load_litellm()
    bare, provider, _, _ = litellm.get_llm_provider(wire_name(spec.name, spec.api_base))
    try:
        litellm.get_optional_params(model=bare, custom_llm_provider=provider, **{name: value})
    except litellm.UnsupportedParamsError:
        return True
    return False


def wire_name(name: str, api_base: str | None) -> str:
    """Return the name that litellm is called with; any name behind `api_base` is OpenAI-compatible."""
    return name if api_base is None or name.startswith("openai/") else f"openai/{name}"


def classify(litellm: ModuleType, error: Exception) -> ProviderError:
    """Return the error of our tree that a failure of litellm means; by class, its codes are unreliable."""
    message = _one_line(error)
    kinds: list[tuple[Any, type[ProviderError]]] = [
        (litellm.AuthenticationError, RunRefused),
        (litellm.PermissionDeniedError, RunRefused),
        (litellm.NotFoundError, RunRefused),
        (litellm.ContextWindowExceededError, ContextTooLong),
        (litellm.ContentPolicyViolationError, ContentRefused),
        (litellm.Timeout, CallTimedOut),
        (litellm.PaymentRequiredError, RunRefused),
        (litellm.BadRequestError, CallRefused),
        (litellm.UnprocessableEntityError, CallRefused),
        (litellm.InternalServerError, ServerFailed),
        (litellm.ServiceUnavailableError, ServerFailed),
        (litellm.BadGatewayError, ServerFailed),
        (litellm.APIConnectionError, ConnectionLost),
        (litellm.APIError, ServerFailed),
    ]
    if isinstance(error, litellm.RateLimitError):
        whole = str(error).lower()
        is_passing = any(word in whole for word in _RETRY_WORDS)
        if any(word in whole for word in _QUOTA_WORDS) and not is_passing:
            return RunRefused(message)
        return RateLimited(message, _retry_after(error))
    if "No module named" in message:  # a local fault in the coat of a connection error
        return RunRefused(f"{message}; install the missing package")
    status = str(getattr(error, "status_code", ""))
    if type(error) is litellm.APIError and status in ("402", "403"):  # it has no class of its own for these
        return RunRefused(message)
    body = getattr(error, "body", None)
    code = body.get("code") if isinstance(body, dict) else None
    if isinstance(error, litellm.BadRequestError) and code in _REFUSAL_CODES:
        return _REFUSAL_CODES[code](message)
    for kind, ours in kinds:
        if isinstance(error, kind):
            return ours(message + _REMEDIES.get(type(error).__name__, ""))
    return RunRefused(f"{type(error).__name__}: {message}")


def _one_line(error: Exception) -> str:
    return without_secrets(" ".join(str(error).split()))[:500]


def without_secrets(text: str) -> str:
    """Return `text` with the values of the environment's keys and tokens struck out."""
    for name, value in os.environ.items():
        if name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")) and len(value) >= 8:
            text = text.replace(value, f"<{name}>")
    return text


def _retry_after(error: Exception) -> float | None:
    headers = getattr(error, "litellm_response_headers", None) or {}
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:  # absent, or a date: then our own back-off decides
        return None


def _temperature(role: Role) -> float:
    """Return a role's temperature; the judge's is SPO's (arXiv 2502.06855): at 0, votes would be copies."""
    return {"optimizer": 1.0, "judge": 0.3}.get(role, 0.0)


def _check_name_and_key(litellm: ModuleType, name: str, api_base: str | None) -> None:
    if api_base is not None:
        return
    try:
        _, provider, _, _ = litellm.get_llm_provider(name)
    except litellm.BadRequestError as error:
        hint = nearest(name, (n for n in litellm.model_cost if "/" not in n))
        raise ConfigError(
            f"model {name!r} is unknown: {hint} Write provider/name as litellm does (openai/gpt-5-mini), "
            "`sim` for the simulator, or add --api-base for your own server"
        ) from error
    missing = litellm.validate_environment(name)
    if not missing["keys_in_environment"] and missing["missing_keys"]:
        names = " or ".join(missing["missing_keys"])
        raise ConfigError(f"model {name!r} ({provider}) needs a key: set {names} in the environment")


def _model_info(litellm: ModuleType, name: str) -> dict[str, Any] | None:
    """Return litellm's row for a model; None if it has none or only a family's rule, which has price 0."""
    try:
        info: dict[str, Any] = dict(litellm.get_model_info(name))
    except Exception:  # noqa: BLE001  # litellm raises bare exceptions for names that it does not map
        return None
    return info if info.get("key") in litellm.model_cost else None


def _list_prices(litellm: ModuleType, info: dict[str, Any] | None) -> tuple[Decimal, Decimal] | tuple[None, None]:
    if info is None:
        return (None, None)
    row = litellm.model_cost[info["key"]]
    price_in, price_out = row.get("input_cost_per_token"), row.get("output_cost_per_token")
    if price_in is None or price_out is None:
        return (None, None)
    return (Decimal(str(price_in)), Decimal(str(price_out)))


def _takes(litellm: ModuleType, name: str, **setting: Any) -> bool:
    """Return whether litellm would send a setting to the model; asked locally, nothing is sent."""
    bare, provider, _, _ = litellm.get_llm_provider(name)
    try:
        taken = litellm.get_optional_params(model=bare, custom_llm_provider=provider, **setting)
    except litellm.UnsupportedParamsError:
        return False
    return bool(setting.keys() & taken.keys()) or provider not in ("openai", "azure")


def _usage(raw: Any) -> Usage | None:
    """Return the reported usage; None where the endpoint sent none (litellm then says 0 and 0)."""
    n_in, n_out = getattr(raw, "prompt_tokens", 0) or 0, getattr(raw, "completion_tokens", 0) or 0
    if raw is None or (n_in <= 0 and n_out <= 0) or n_in < 0 or n_out < 0:
        return None
    details_in = getattr(raw, "prompt_tokens_details", None)
    details_out = getattr(raw, "completion_tokens_details", None)
    cached = getattr(details_in, "cached_tokens", 0) or 0
    reasoning = getattr(details_out, "reasoning_tokens", 0) or 0
    return Usage(n_in, n_out, cached, reasoning)


def _first_token(raw: Any) -> tuple[tuple[str, float], ...] | None:
    content = getattr(raw, "content", None)
    if not content:
        return None
    # Marks such as ** before the answer tell nothing; they are asked for by no label.
    first = next((token for token in content if any(map(str.isalnum, token.token.strip("Ġ▁Ċ")))), content[0])
    return tuple((top.token, float(top.logprob)) for top in first.top_logprobs or [first])
