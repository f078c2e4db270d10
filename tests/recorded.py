"""Recorded exchanges with real providers, and what each must come to, worked out from the raw reply alone.

Nothing of promptopt or of litellm's parsing is used here; of litellm only the rows of its price list.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

# Beside the repository, or where the variable says.
FOLDER = Path(os.environ.get("PROMPTOPT_RECORDINGS", Path(__file__).parents[2] / "shared" / "recordings"))
Json = Mapping[str, Any]

# Exchanges that cannot be had through our gateway, and why.
UNREACHABLE = {
    ("deepseek", "responses"): "litellm speaks DeepSeek's chat API only",
    ("bedrock", "anthropic.claude-v2"): "litellm's code for this retired model fails before it sends anything",
}

ENDS = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "STOP", "COMPLETE", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "MAX_TOKENS", "pause_turn", "max_output_tokens"), "length"),
    **dict.fromkeys(("model_context_window_exceeded",), "length"),
    **dict.fromkeys(("tool_calls", "tool_use", "TOOL_CALL"), "tool_calls"),
    **dict.fromkeys(
        ("content_filter", "guardrail_intervened", "refusal", "SAFETY", "RECITATION"), "content_filter"
    ),
    **dict.fromkeys(("PROHIBITED_CONTENT", "BLOCKLIST", "SPII"), "content_filter"),
}


@dataclass(frozen=True)
class Answer:
    """What a reply says: input and output tokens are all of them; None = the reply does not say."""

    text: str
    end: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    written_5m: int = 0
    written_1h: int = 0
    reasoning_tokens: int | None = None
    billed: tuple[int, int] | None = None
    own_usd: Decimal | None = None
    tier: str = ""


@dataclass(frozen=True)
class Exchange:
    """One file of the folder."""

    name: str
    provider: str
    model: str
    api: str
    status: int
    body: Any
    headers: Json
    url: str

    @property
    def unreachable(self) -> str | None:
        """Why it cannot be had through our gateway; None = it can."""
        return UNREACHABLE.get((self.provider, self.api)) or UNREACHABLE.get((self.provider, self.model))

    @property
    def model_name(self) -> str:
        """The name that a user would give for this model and API."""
        if self.api == "responses":
            return f"{self.provider}/responses/{self.model}"
        if self.provider == "bedrock":
            return f"bedrock/{self.api}/{self.model}"
        if self.provider == "cohere":
            return f"cohere_chat/{'v1/' if '/v1/' in self.url else ''}{self.model}"
        if self.provider == "ollama":
            return f"{'ollama_chat' if self.api == 'chat' else 'openai'}/{self.model}"
        if self.provider == "huggingface":
            return f"huggingface/together/{self.model}"
        return f"{ {'vertex': 'vertex_ai'}.get(self.provider, self.provider) }/{self.model}"

    def address(self, root: str) -> dict[str, Any]:
        """Return the arguments that send litellm to `root`, in each provider's manner, instead of the provider."""
        if self.provider == "bedrock":
            return {"aws_bedrock_runtime_endpoint": root}
        if self.provider == "azure":
            return {"api_base": root, "api_version": "2024-12-01-preview"}
        if self.provider == "vertex":
            return {"api_base": root, "vertex_project": "example-project", "vertex_location": "us-central1"}
        if self.provider in ("anthropic", "gemini") or self.api == "chat":
            path = re.sub(r"https?://[^/]+", "", self.url) if self.provider == "cohere" else ""
            return {"api_base": root + path}
        return {"api_base": f"{root}/v1" + ("/chat/completions" if self.provider == "huggingface" else "")}


def exchanges() -> list[Exchange]:
    """Return all of the folder, in order of their names; none where there is no folder."""
    found = []
    for path in sorted(FOLDER.glob("*/*.json")):
        raw = json.loads(path.read_text(encoding="utf-8"))
        known = {key: raw[key] for key in ("provider", "model", "api", "status", "url")}
        name = f"{path.parent.name}/{path.stem}"
        found.append(Exchange(name, body=raw["response_body"], headers=raw["response_headers"] or {}, **known))
    return found


def answer(exchange: Exchange) -> Answer | None:
    """Return what a reply says; None if it holds no answer."""
    body = exchange.body
    if "choices" in body:
        return _of_chat(body)
    if body.get("object") == "response":
        return _of_responses(body)
    if "promptFeedback" in body or "candidates" in body:
        return _of_gemini(body)
    if "output" in body:
        return _of_converse(body)
    if exchange.provider == "cohere":
        return _of_cohere(body)
    return _of_ollama(body) if "done_reason" in body else _of_messages(body)


def _of_chat(body: Json) -> Answer:
    choice, usage = body["choices"][0], body.get("usage") or {}
    message = choice["message"]
    text = message.get("content") or message.get("refusal") or ""
    if isinstance(text, list):
        text = "".join(part["text"] for part in text if part["type"] == "text")
    if "</think>" in text:
        text = text.split("</think>", 1)[1].lstrip()
    details_in, details_out = (
        usage.get("prompt_tokens_details") or {},
        usage.get("completion_tokens_details") or {},
    )
    own = _decimal(usage.get("cost")) or _decimal((usage.get("cost_details") or {}).get("upstream_inference_cost"))
    return Answer(
        text,
        "content_filter" if message.get("refusal") else ENDS[choice["finish_reason"]],
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        details_in.get("cached_tokens") or 0,
        details_in.get("cache_write_tokens") or 0,
        reasoning_tokens=details_out.get("reasoning_tokens"),
        own_usd=own,
        tier=body.get("service_tier") or "",
    )


def _of_responses(body: Json) -> Answer | None:
    messages = [item for item in body["output"] if item["type"] == "message"]
    if body["status"] not in ("completed", "incomplete"):
        return None
    usage = body["usage"]
    return Answer(
        "".join(part.get("text", part.get("refusal", "")) for item in messages for part in item["content"]),
        "stop" if body["status"] == "completed" else ENDS[body["incomplete_details"]["reason"]],
        usage["input_tokens"],
        usage["output_tokens"],
        usage["input_tokens_details"]["cached_tokens"],
        usage["input_tokens_details"].get("cache_write_tokens") or 0,
        reasoning_tokens=usage["output_tokens_details"]["reasoning_tokens"],
        own_usd=_decimal(usage.get("cost")),
        tier=body.get("service_tier") or "",
    )


def _of_messages(body: Json) -> Answer:
    usage = body["usage"]
    read, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    long = (usage.get("cache_creation") or {}).get("ephemeral_1h_input_tokens") or 0
    return Answer(
        "".join(part["text"] for part in body["content"] if part["type"] == "text"),
        ENDS[body["stop_reason"]],
        usage["input_tokens"] + read + written,
        usage["output_tokens"],
        read,
        written - long,
        long,
        tier=usage.get("service_tier") or "",
    )


def _of_converse(body: Json) -> Answer:
    usage = body["usage"]
    read, written = usage.get("cacheReadInputTokens") or 0, usage.get("cacheWriteInputTokens") or 0
    is_whole = "outputTokens" in usage
    return Answer(
        "".join(part.get("text", "") for part in body["output"]["message"]["content"]),
        ENDS[body["stopReason"]],
        usage["inputTokens"] + read + written if is_whole else None,
        usage["outputTokens"] if is_whole else None,
        read,
        written,
        tier=(body.get("serviceTier") or {}).get("type", ""),
    )


def _of_gemini(body: Json) -> Answer:
    usage = body["usageMetadata"]
    if not body.get("candidates"):
        return Answer("", "content_filter")
    first = body["candidates"][0]
    parts = (first.get("content") or {}).get("parts") or []
    thoughts = usage.get("thoughtsTokenCount")
    return Answer(
        "".join(part.get("text", "") for part in parts if not part.get("thought")),
        ENDS[first["finishReason"]],
        usage.get("promptTokenCount", 0) + usage.get("toolUsePromptTokenCount", 0),
        usage.get("candidatesTokenCount", 0) + (thoughts or 0),
        usage.get("cachedContentTokenCount", 0),
        reasoning_tokens=thoughts,
        tier=usage.get("trafficType", "").removeprefix("ON_DEMAND_").lower(),
    )


def _of_cohere(body: Json) -> Answer:
    usage = body.get("usage") or body["meta"]
    if "text" in body:
        text = body["text"]
    else:
        text = "".join(part["text"] for part in body["message"].get("content") or () if part["type"] == "text")
    billed = usage["billed_units"]
    return Answer(
        text,
        ENDS[body["finish_reason"]],
        usage["tokens"]["input_tokens"],
        usage["tokens"]["output_tokens"],
        usage.get("cached_tokens") or 0,
        billed=(billed["input_tokens"], billed["output_tokens"]),
    )


def _of_ollama(body: Json) -> Answer:
    return Answer(
        body["message"]["content"], ENDS[body["done_reason"]], body["prompt_eval_count"], body["eval_count"]
    )


def cost(litellm: ModuleType, exchange: Exchange, said: Answer) -> Decimal | None:
    """Return the provider's own sum, or usage times list price; None = there is neither."""
    if said.own_usd:
        return said.own_usd
    row = _row(litellm, exchange)
    if said.input_tokens is None or said.output_tokens is None or not row.get("input_cost_per_token"):
        return None
    if said.billed is not None:
        return said.billed[0] * _price(row, "input_cost_per_token", said) + said.billed[1] * _price(
            row, "output_cost_per_token", said
        )
    plain = said.input_tokens - said.cached_tokens - said.written_5m - said.written_1h
    price_in = _price(row, "input_cost_per_token", said)
    price_5m = _price(row, "cache_creation_input_token_cost", said, price_in)
    return (
        plain * price_in
        + said.cached_tokens * _price(row, "cache_read_input_token_cost", said, price_in)
        + said.written_5m * price_5m
        + said.written_1h * _price(row, "cache_creation_input_token_cost_above_1hr", said, price_5m)
        + said.output_tokens * _price(row, "output_cost_per_token", said)
    )


def _row(litellm: ModuleType, exchange: Exchange) -> Json:
    """Return the price list's row of a model, {} if it has none; names as the list writes them."""
    provider = {"vertex": "vertex_ai", "cohere": "cohere_chat"}.get(exchange.provider, exchange.provider)
    model = exchange.model.rsplit("/", 1)[-1] if exchange.model.startswith("arn:") else exchange.model
    bare = model.removeprefix("us.") if provider == "bedrock" else model
    for key in (f"{provider}/{model}", f"{exchange.provider}/{model}", model, f"{provider}/{bare}", bare):
        row: Json = litellm.model_cost.get(key, {})
        if row.get("litellm_provider", "").startswith((provider, exchange.provider)):
            return row
    return {}


def _price(row: Json, key: str, said: Answer, default: Decimal | None = None) -> Decimal:
    """Return a price of the row at the reply's tier and length of input."""
    names = [key]
    if said.tier in ("flex", "priority"):
        names.insert(0, f"{key}_{said.tier}")
    for limit in (128, 200, 272):
        if (said.input_tokens or 0) > limit * 1000:
            names.insert(0, f"{key}_above_{limit}k_tokens")
    price = next((row[name] for name in names if row.get(name) is not None), None)
    if price is None:
        assert default is not None, f"the row has no {key}"
        return default
    return Decimal(str(price))


def _decimal(value: Any) -> Decimal | None:
    return Decimal(str(value)) if value else None
