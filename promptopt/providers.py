"""Models behind litellm: what they cost and take, how they are called.

litellm costs three seconds to import, hence it is imported at the first need. Its own retries, price
download, `.env` loading and printing are switched off before.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from decimal import Decimal
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from promptopt import image
from promptopt.errors import ProviderError, ServerFailed
from promptopt.facts import Facts, check_callable, check_kind, look_up, wire_name
from promptopt.failure import classify
from promptopt.ledger import Amount
from promptopt.reply import (
    Sent,
    finish_reason,
    first_token,
    list_cost,
    list_prices,
    own_sum,
    text_of,
    usage_of,
)
from promptopt.secret import Secrets, guard_loggers
from promptopt.types import Message, Request, Response, Role, Usage

if TYPE_CHECKING:
    from promptopt.simulator import Simulator

MAX_TOKENS_TASK = 1024
MAX_TOKENS_WRITER = 8192
T = TypeVar("T")
_NO_FACTS = Facts()
# Whether the call that is being made is priced by us alone; a program around us may use litellm as well.
_is_priced_here: ContextVar[bool] = ContextVar("is_priced_here", default=False)
# Tokens that chat formats add; generous, since a reservation must be a true bound.
_TOKENS_PER_MESSAGE = 16


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
        timeout_s: seconds that one call may take.
        top_logprobs: log-probabilities of the first answer token to ask for; 0 = none.
        is_embedding: whether the model gives vectors of texts instead of replies.
        options: further settings of the provider by name, sorted; values as JSON.
        facts: what is known of the model as such.
        question: identity of what was asked of litellm's tables; "" = made by hand.
        is_remembered: whether the facts come from a former session, so that a key may be missing now.
    """

    name: str
    max_tokens: int = MAX_TOKENS_TASK
    temperature: float | None = 0.0
    api_base: str | None = None
    price_in: Decimal | None = None
    price_out: Decimal | None = None
    timeout_s: float = 120.0
    top_logprobs: int = 0
    is_embedding: bool = False
    options: tuple[tuple[str, str], ...] = ()
    facts: Facts = _NO_FACTS
    question: str = ""
    is_remembered: bool = False

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

    @property
    def is_free(self) -> bool:
        """Whether both prices are known to be 0."""
        return self.price_in == 0 and self.price_out == 0

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
    facts: Facts | None = None,
) -> ModelSpec:
    """Return the model's settings for a role, from litellm's tables; nothing is sent.

    Args:
        max_tokens: None = 1,024 for task and judge, 8,192 for the optimizer and for reasoning models.
        prices: dollars per input and output token, which win over litellm's list; None = the list.
        facts: what litellm's tables say, where it is known; None = it is looked up.

    Raises:
        ConfigError: the name is unknown to litellm, or its key is missing in the environment.
    """
    if is_simulator(name):
        from promptopt.simulator import PRICE_IN, PRICE_OUT

        facts = Facts(PRICE_IN, PRICE_OUT, takes_logprobs=True)
    elif facts is None:
        litellm = load_litellm()
        if api_base is None:  # behind an address, a name means what its server says
            check_kind(litellm, name, role == "embedding")
        facts = look_up(litellm, name, _temperature(role), api_base)
    default = MAX_TOKENS_WRITER if role == "optimizer" or facts.is_reasoning else MAX_TOKENS_TASK
    is_embedding = role == "embedding"
    return ModelSpec(
        name=name,
        max_tokens=0 if is_embedding else max_tokens or default,
        is_embedding=is_embedding,
        temperature=_temperature(role) if facts.takes_temperature or is_embedding else None,
        api_base=api_base,
        price_in=facts.price_in if prices is None else prices[0],
        price_out=facts.price_out if prices is None else prices[1],
        timeout_s=600.0 if facts.is_reasoning or role == "optimizer" else 120.0,
        facts=facts,
    )


def _temperature(role: Role) -> float:
    """Return a role's temperature; the judge's is SPO's (arXiv 2502.06855): at 0, votes would be copies."""
    return {"optimizer": 1.0, "judge": 0.3}.get(role, 0.0)


@functools.cache
def load_litellm() -> ModuleType:
    """Import litellm with its network access, `.env` loading and printing switched off."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)  # of replies in odd forms
    # A call that is cut before it is sent leaves one behind.
    warnings.filterwarnings("ignore", r"coroutine '\w+\.acompletion' was never awaited", RuntimeWarning)
    warnings.filterwarnings("ignore", r"Items? .* on TypedDict class ", UserWarning)  # of some providers' records
    with warnings.catch_warnings():
        # Its records are built at first use and warn then; where warnings are errors, every call would fail.
        warnings.simplefilter("ignore")
        litellm = importlib.import_module("litellm")
        litellm.ModelResponse()
        _show_cohere(litellm)
        _price_once(litellm)
    litellm.suppress_debug_info = True  # type: ignore[attr-defined]  # it prints to stdout otherwise
    litellm.telemetry = False  # type: ignore[attr-defined]
    for name in ("LiteLLM", "LiteLLM Proxy"):  # what it reports as errors, it raises as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for row in litellm.model_cost.values():
        row.pop("off_peak_pricing", None)  # else the same reply would cost another sum at another hour
    return litellm


def endpoint(name: str, api_base: str | None) -> str:
    """Return what limits of calls a minute belong to: the address, else the provider of the model."""
    if api_base is not None:
        return api_base
    litellm = load_litellm()
    try:
        return str(litellm.get_llm_provider(name)[1])
    except litellm.BadRequestError:
        return name


def _show_cohere(litellm: ModuleType) -> None:
    """Make litellm's Cohere code show replies as the other providers' does: only there stand the billed units."""

    def shown(read: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(read)
        def show_and_read(*args: Any, **named: Any) -> Any:
            named["logging_obj"].post_call(original_response=named["raw_response"].text)
            return read(*args, **named)

        return show_and_read

    for config in (litellm.CohereChatConfig, litellm.CohereV2ChatConfig):
        config.transform_response = shown(config.transform_response)


def _price_once(litellm: Any) -> None:
    """Keep litellm from pricing our replies too, which takes it long, where nobody listens to it."""
    price = litellm.response_cost_calculator

    @functools.wraps(price)
    def priced(*args: Any, **named: Any) -> float | None:
        return None if _is_priced_here.get() else price(*args, **named)

    litellm.response_cost_calculator = priced


async def closing(work: Awaitable[T]) -> T:
    """Return the result of `work`, and close the connections that litellm keeps for this event loop.

    For the whole work of an event loop that is ours: they would stay open, and warn when they are collected.
    """
    try:
        return await work
    finally:
        await _close_connections()


async def _close_connections() -> None:
    litellm: Any = sys.modules.get("litellm")
    if litellm is None:
        return
    clients = litellm.in_memory_llm_clients_cache.cache_dict
    ending = f"-{id(asyncio.get_running_loop())}"
    for key in [key for key in clients if str(key).endswith(ending)]:
        kept = clients.pop(key)
        inner = getattr(kept, "_client", None) or getattr(kept, "client", None) or kept
        if (close := getattr(inner, "aclose", None)) is not None:
            await close()
    await asyncio.sleep(0)  # transports close in the next turn of the loop


class LitellmTransport:
    """Calls any provider through litellm.

    Args:
        specs: the run's models, for prices that the user gave.
    """

    def __init__(self, specs: tuple[ModelSpec, ...]) -> None:
        self._specs = {(spec.name, spec.api_base): spec for spec in specs}
        addresses = [spec.api_base for spec in specs if spec.api_base is not None]
        self._secrets = Secrets.known(addresses)
        guard_loggers(addresses)
        self._unchecked = {called for called, spec in self._specs.items() if spec.is_remembered}

    async def send(self, request: Request, timeout_s: float) -> Response:
        """Return the answer to `request`; see Transport."""
        litellm = load_litellm()
        self._check(litellm, request)
        ask, read = litellm.acompletion, self._response
        if request.is_embedding:
            ask, read = litellm.aembedding, self._vectors
        is_heard = any((litellm.callbacks, litellm.success_callback, litellm._async_success_callback))
        sent, arguments = Sent(is_logged=is_heard), self._arguments(request)
        if not request.is_embedding:
            arguments["logger_fn"] = sent.note
        failure: ProviderError | None = None
        started, token = time.monotonic(), _is_priced_here.set(not is_heard)
        try:
            reply = await ask(**arguments, timeout=timeout_s, max_retries=0)
        except Exception as error:  # noqa: BLE001  # litellm's tree has no root; each is drawn anew below
            reply = sent.rescued(litellm)
            if reply is None:
                failure = classify(litellm, error, is_answered=sent.is_answer, secrets=self._secrets)
        finally:
            _is_priced_here.reset(token)
        if failure is not None:  # raised here, or its context would hold the reply, which may repeat the key
            raise failure
        return self._struck(read(litellm, request, reply, sent, time.monotonic() - started))

    def _struck(self, response: Response) -> Response:
        """Return a response without the keys that a server may repeat in it."""
        strike = self._secrets.strike
        tokens = response.logprobs
        return replace(
            response,
            text=strike(response.text),
            finish_reason=strike(response.finish_reason),
            logprobs=None if tokens is None else tuple((strike(token), value) for token, value in tokens),
        )

    def _check(self, litellm: ModuleType, request: Request) -> None:
        """Raise ConfigError at the first call of a remembered model if it cannot be called any more."""
        called = (request.model, request.api_base)
        if called in self._unchecked:
            check_callable(litellm, *called)
            self._unchecked.remove(called)

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

    def _response(
        self, litellm: ModuleType, request: Request, reply: Any, sent: Sent, latency_s: float
    ) -> Response:
        if not reply.choices:
            raise ServerFailed(f"{request.model} sent a reply without choices")
        choice = reply.choices[0]
        raw = getattr(reply, "usage", None)
        text = text_of(choice)
        usage = usage_of(raw, sent, text)
        if not text and usage is None and sent.is_answer is False:
            raise ServerFailed(f"{request.model} sent a reply without an answer")
        return Response(
            text=text,
            usage=usage,
            cost_usd=self._cost(litellm, request, raw, usage, sent),
            latency_s=latency_s,
            finish_reason=finish_reason(choice, sent),
            logprobs=first_token(getattr(choice, "logprobs", None)),
        )

    def _vectors(
        self, litellm: ModuleType, request: Request, reply: Any, sent: Sent, latency_s: float
    ) -> Response:
        """Return the vectors as a JSON list, in the order of the texts."""
        try:
            rows = sorted(reply.data, key=lambda row: int(row["index"]))
            vectors = [[float(value) for value in row["embedding"]] for row in rows]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ServerFailed(f"{request.model} sent vectors that cannot be read: {error!r}") from error
        is_complete = len(vectors) == len(request.messages) and len({len(vector) for vector in vectors}) == 1
        if not is_complete or not all(math.isfinite(value) for vector in vectors for value in vector):
            raise ServerFailed(f"{request.model} sent {len(vectors)} vectors for {len(request.messages)} texts")
        raw = getattr(reply, "usage", None)
        usage = usage_of(raw, sent)
        return Response(json.dumps(vectors), usage, self._cost(litellm, request, raw, usage, sent), latency_s)

    def _cost(
        self, litellm: ModuleType, request: Request, raw: Any, usage: Usage | None, sent: Sent
    ) -> Decimal | None:
        """Return the dollars: by the user's prices, else the provider's own sum, else the list; None = unknown."""
        if usage is None:
            return None
        spec = self._specs.get((request.model, request.api_base))
        if spec is not None and spec.prices != list_prices(litellm, request.model):
            return spec.price(usage.input_tokens, usage.output_tokens)
        own = own_sum(raw)
        return list_cost(litellm, request.model, raw, sent) if own is None else own


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
