"""What a provider's reply says: text, tokens, why it ended, what it cost.

litellm reads replies; what it leaves out, hides or gets wrong is read from the reply as it was sent.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import ModuleType
from typing import Any

from promptopt.errors import ServerFailed
from promptopt.types import Usage

Json = Mapping[str, Any]

# Reasons to stop that litellm calls `stop`: an answer cut off, an answer that failed half way.
_CUT_OFF = ("pause_turn", "model_context_window_exceeded")
_FAILED = ("error", "ERROR", "network_error", "MALFORMED_RESPONSE")
_ANSWER_KEYS = ("choices", "content", "output", "candidates", "message", "promptFeedback")
# More than any call takes; what is above is a fault of the endpoint, and too much for the journal's columns.
_MOST_TOKENS, _MOST_USD = 10**12, 10**9
# What litellm raises where a part of a reply has another type than it should.
_MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_API = re.compile(r"\A([\w-]+/)(?:responses|v1|v2)/")
OLLAMA = ("ollama/", "ollama_chat/")
_THINKING = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>\s*", re.DOTALL)


class Sent:
    """The reply to one call as the provider sent it, as far as litellm shows it.

    Args:
        is_logged: whether litellm is to make a log record of the call, for those who listen to it.
    """

    def __init__(self, *, is_logged: bool = True) -> None:
        self._text = ""
        self._is_logged = is_logged

    def note(self, details: dict[str, Any]) -> None:
        """Keep what litellm's logging shows; given to it as `logger_fn`, and called before and after the call."""
        if not self._is_logged:
            details["has_logged_async_success"] = True
        text = details.get("original_response")
        if isinstance(text, str):
            self._text = text

    @functools.cached_property
    def body(self) -> Json:
        """The reply's JSON object; empty if there is none, or litellm did not show it."""
        try:
            body = json.loads(self._text)
        except (ValueError, RecursionError):
            return {}
        return body if isinstance(body, dict) else {}

    @property
    def is_answer(self) -> bool | None:
        """Whether an answer arrived, whatever litellm then made of it; None = not shown."""
        if not self._text.lstrip().startswith("{"):
            return None
        parts = [self.body.get(key) for key in _ANSWER_KEYS]
        return not self.body.get("error") and any(part and isinstance(part, dict | list) for part in parts)

    def rescued(self, litellm: ModuleType) -> Any:
        """Return an answer that litellm failed to read although it was there; None if there is none.

        Seen with Groq's replies without a service tier, content in parts, and Bedrock's without output tokens.
        Usage and log-probabilities that no record of litellm's can hold are unknown then.
        """
        if not self.is_answer:
            return None
        chat = _first(self.body, "choices")
        said = _part(chat, "message")
        message = said or self._other_message
        text = _joined(message)
        if said and text is None:
            text = ""  # it refused, or wants to call a tool
        if not isinstance(text, str) or not (text or said):
            return None
        thinking = message.get("reasoning_content")
        told = {
            "content": text,
            "reasoning_content": thinking if isinstance(thinking, str) else None,
            "provider_specific_fields": {"refusal": message.get("refusal")},
        }
        choice = {"message": told, "finish_reason": self.stop_word}
        whole = _built(litellm.Choices, choice | {"logprobs": chat.get("logprobs")})
        reply = litellm.ModelResponse(choices=[whole or choice])
        reply.usage = _built(litellm.Usage, _part(self.body, "usage"))  # given above, it would be built once more
        return reply

    @property
    def _other_message(self) -> Json:
        """The message of a reply in another form than OpenAI's: Bedrock's, Cohere's, Gemini's, Anthropic's."""
        output = _part(self.body, "output")
        return _part(output, "message") or _part(self.body, "message") or self._first_candidate or self.body

    @property
    def _first_candidate(self) -> Json:
        """Gemini's first answer, its parts without thinking as `content`; empty for others."""
        first = _first(self.body, "candidates")
        parts = _part(first, "content").get("parts")
        if not isinstance(parts, list):
            return {}
        return dict(first) | {
            "content": [part for part in parts if isinstance(part, dict) and not part.get("thought")]
        }

    @property
    def stop_word(self) -> str | None:
        """The provider's own word for why the answer ended; None = not shown."""
        chat, gemini = _first(self.body, "choices"), _first(self.body, "candidates")
        said = [self.body.get("stop_reason"), self.body.get("stopReason")]
        said += [chat.get("finish_reason"), gemini.get("finishReason")]
        return next((word for word in said if isinstance(word, str)), None)

    @property
    def cohere_usage(self) -> Json:
        """Cohere's `tokens`, `cached_tokens` and `billed_units`, in its old and its new API; empty for others."""
        usage = _part(self.body, "usage") or _part(self.body, "meta")
        return usage if "billed_units" in usage else {}

    @property
    def tier(self) -> str | None:
        """`flex` or `priority` if the reply says that it was served, and is charged, at such prices."""
        usage, meta = _part(self.body, "usage"), _part(self.body, "usageMetadata")
        said = [self.body.get("service_tier"), _part(self.body, "serviceTier").get("type")]
        said += [usage.get("service_tier"), meta.get("serviceTier"), meta.get("trafficType")]
        words = " ".join(word.lower() for word in said if isinstance(word, str))
        return next((tier for tier in ("flex", "priority") if tier in words), None)


def text_of(choice: Any) -> str:
    """Return the answer without the thinking that models write before it; a refusal's words if it is one."""
    message = choice.message
    text = str(message.content or _extra(message).get("refusal") or "")
    if getattr(message, "reasoning_content", None):
        text = text.lstrip("\n")  # what stood between the thinking and the answer
    return _THINKING.sub("", text)


def finish_reason(choice: Any, sent: Sent) -> str:
    """Return why an answer ended: stop, length, content_filter, or the provider's word; "unknown" = not said.

    Raises:
        ServerFailed: the provider says that it failed half way.
    """
    word = sent.stop_word
    if word in _FAILED:
        raise ServerFailed(f"the provider failed while it wrote the answer ({word})")
    if _extra(choice.message).get("refusal"):
        return "content_filter"
    if word in _CUT_OFF:
        return "length"
    return "unknown" if word == "" else str(choice.finish_reason or "unknown")


def usage_of(raw: Any, sent: Sent, text: str = "") -> Usage | None:
    """Return the reported usage; None where it is absurd, or there is none (litellm then says 0 and 0).

    Args:
        text: the answer; tokens of 0 for it are absurd, and would make it free.
    """
    n_in, n_out = getattr(raw, "prompt_tokens", 0) or 0, getattr(raw, "completion_tokens", 0) or 0
    details_in = getattr(raw, "prompt_tokens_details", None)
    details_out = getattr(raw, "completion_tokens_details", None)
    cached = getattr(details_in, "cached_tokens", 0) or 0
    reasoning = getattr(details_out, "reasoning_tokens", 0) or 0
    if sent.cohere_usage:  # litellm takes tokens of one API, billed units of the other, and cached ones of none
        n_in, n_out = _in_and_out(_part(sent.cohere_usage, "tokens"))
        cached = int(_number(sent.cohere_usage.get("cached_tokens")))
    counts = (n_in, n_out, cached, reasoning)
    if not (n_in and (n_out or not text)) or not all(
        isinstance(n, int) and 0 <= n <= _MOST_TOKENS for n in counts
    ):
        return None
    return Usage(*counts)


def own_sum(raw: Any) -> Decimal | None:
    """Return the dollars that the provider itself states, as OpenRouter does; None = it states none.

    With the user's own key at the provider behind it, `cost` is the router's fee only. A stated 0 is
    taken for unknown: it may be free, or charged elsewhere. So is a sum that no call can cost.
    """
    stated = _number(getattr(raw, "cost", None))
    details = getattr(raw, "cost_details", None)
    details = details if isinstance(details, dict) else getattr(details, "__dict__", {})
    if getattr(raw, "is_byok", False) or not stated:
        stated += _number(details.get("upstream_inference_cost"))
    return stated if 0 < stated <= _MOST_USD else None


def list_cost(litellm: ModuleType, name: str, raw: Any, sent: Sent) -> Decimal | None:
    """Return usage times the list price of the model that was asked for; None = unknown, or of no such usage."""
    if list_prices(litellm, name)[0] is None:
        return None
    if sent.cohere_usage:  # Cohere adds tokens of its own to a prompt, and does not charge them
        n_in, n_out = _in_and_out(_part(sent.cohere_usage, "billed_units"))
        raw = litellm.Usage(prompt_tokens=n_in, completion_tokens=n_out, total_tokens=n_in + n_out)
    try:
        parts = litellm.cost_per_token(model=listed_name(name), usage_object=raw, service_tier=sent.tier)
        cost = Decimal(str(parts[0])) + Decimal(str(parts[1]))
        return cost if 0 < cost <= _MOST_USD else None
    except _MISFITS:  # some detail of the usage is absurd
        return None


@functools.cache
def model_info(litellm: ModuleType, name: str) -> dict[str, Any] | None:
    """Return litellm's row for a model; None if it has none or only a family's rule, which has price 0.

    Models of a local Ollama are not looked up: litellm would ask the server.
    """
    if name.startswith(OLLAMA):
        return None
    try:
        info: dict[str, Any] = dict(litellm.get_model_info(listed_name(name)))
    except Exception:  # noqa: BLE001  # litellm raises bare exceptions for names that it does not map
        return None
    return info if info.get("key") in litellm.model_cost else None


def list_prices(litellm: ModuleType, name: str) -> tuple[Decimal, Decimal] | tuple[None, None]:
    """Return dollars per input and per output token; None = unknown, also where the list says 0 for both."""
    info = model_info(litellm, name)
    row = {} if info is None else litellm.model_cost[info["key"]]
    price_in, price_out = row.get("input_cost_per_token"), row.get("output_cost_per_token")
    if price_in is None or price_out is None or not (price_in or price_out):
        return (None, None)
    return (Decimal(str(price_in)), Decimal(str(price_out)))


def listed_name(name: str) -> str:
    """Return a model's name in price lists: without a part that only chooses the API (provider/responses/name)."""
    return _API.sub(r"\1", name)


def first_token(raw: Any) -> tuple[tuple[str, float], ...] | None:
    """Return (token, natural log-probability) at the first token of the answer; None = not given."""
    content = getattr(raw, "content", None)
    if not content:
        return None
    # Marks such as ** before the answer tell nothing; they are asked for by no label.
    first = next((token for token in content if any(map(str.isalnum, token.token.strip("Ġ▁Ċ")))), content[0])
    return tuple((top.token, min(float(top.logprob), 0.0)) for top in first.top_logprobs or [first])


def _extra(message: Any) -> Json:
    return getattr(message, "provider_specific_fields", None) or {}


def _built(make: Callable[..., Any], fields: Json) -> Any:
    """Return litellm's record of a part of a reply; None if it cannot hold what was sent."""
    try:
        return make(**fields)
    except _MISFITS:
        return None


def _joined(message: Json) -> Any:
    """Return a message's content, as text where it came in parts."""
    content = message.get("content")
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _first(body: Json, key: str) -> Json:
    """Return the first record of a list; empty if there is none."""
    rows = body.get(key)
    return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}


def _part(body: Json, key: str) -> Json:
    part = body.get(key)
    return part if isinstance(part, dict) else {}


def _in_and_out(units: Json) -> tuple[int, int]:
    return int(_number(units.get("input_tokens"))), int(_number(units.get("output_tokens")))


def _number(value: Any) -> Decimal:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    return Decimal(str(value)) if is_number else Decimal(0)
