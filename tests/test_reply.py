"""What providers' replies are read as, through the real litellm, where litellm alone would mislead."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from elsewhere import ask
from loopback import Loopback, Reply, chat, serve

from promptopt.errors import CallRefused, ServerFailed
from promptopt.providers import load_litellm
from promptopt.reply import Sent, list_prices, listed_name, own_sum
from promptopt.types import Usage

SONNET = "anthropic/claude-sonnet-4-5"


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serve(lambda body: chat()) as loopback:
        yield loopback


def message(text: str = "red", *, stop: str = "end_turn", **usage: Any) -> Reply:
    """Return a reply of Anthropic's API."""
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": stop}
    content = [{"type": "text", "text": text}]
    return Reply(body | {"content": content, "usage": {"input_tokens": 10, "output_tokens": 5} | usage})


# Text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>Let me see.\n\nYes.</think>\n\nred", "red"),
        ("<think>\n</think>\n\nred \n", "red \n"),
        ("\nred", "\nred"),
        ("say <think>so</think>", "say <think>so</think>"),
        ("<think>never ended", "<think>never ended"),
    ],
)
@pytest.mark.parametrize("model", ["openai/my-model", "groq/qwen/qwen3-32b"])
def test_thinking_before_the_answer_is_no_part_of_it(
    server: Loopback, model: str, content: str, text: str
) -> None:
    if model.startswith("openai") and content.startswith("<think>never"):
        pytest.skip("litellm's own reading of it differs by version")
    assert ask(server, model, chat(content)).text == text


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_content_in_parts_is_joined_and_not_asked_for_again(server: Loopback) -> None:
    parts = [{"type": "text", "text": "re"}, {"type": "image"}, {"type": "text", "text": "d"}]
    response = ask(server, "openai/gpt-4o-mini", chat(parts, usage=(1000, 100)))  # type: ignore[arg-type]
    assert (response.text, response.usage) == ("red", Usage(1000, 100))
    assert response.cost_usd == pytest.approx(1000 * Decimal("1.5e-7") + 100 * Decimal("6e-7"))


def test_groqs_reply_without_a_service_tier_is_not_lost(server: Loopback) -> None:
    response = ask(server, "groq/openai/gpt-oss-120b", chat("red", usage=(1000, 100)))
    assert (response.text, response.finish_reason, response.usage) == ("red", "stop", Usage(1000, 100))
    assert response.cost_usd is not None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [{"message": None}]},
        {"choices": ["x"]},
        {"content": {"a": 1}},
        {"error": {"message": "no"}, "choices": [{"message": {"content": "x"}}]},
    ],
    ids=str,
)
def test_nothing_is_rescued_from_a_reply_without_an_answer(body: dict[str, Any]) -> None:
    sent = Sent()
    sent.body = body
    assert sent.rescued(load_litellm()) is None


@pytest.mark.parametrize("text", ["", "<html>", "[1]", "null", "1" * 5000, '{"a":'])
def test_replies_that_are_no_json_object_are_nothing(text: str) -> None:
    sent = Sent()
    sent.note({"original_response": text})
    sent.note({"original_response": None})
    assert (sent.body, bool(sent.is_answer), sent.stop_word, sent.tier) == ({}, False, None, None)


# Why it ended -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("pause_turn", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
def test_cut_off_answers_do_not_look_whole(server: Loopback, stop: str, reason: str) -> None:
    assert ask(server, SONNET, message(stop=stop)).finish_reason == reason


def test_answer_that_ended_in_thinking_is_empty_cut_off_and_charged(server: Loopback) -> None:
    response = ask(server, "openai/gpt-4o-mini", chat("", usage=(10, 64), finish_reason="length"))
    assert (response.text, response.finish_reason) == ("", "length")
    assert response.cost_usd == 10 * Decimal("1.5e-7") + 64 * Decimal("6e-7")


def test_no_reason_is_not_taken_for_the_end(server: Loopback) -> None:
    assert ask(server, "openai/my-model", chat(finish_reason="")).finish_reason == "unknown"


@pytest.mark.parametrize("word", ["error", "network_error"])
def test_answer_that_failed_half_way_is_a_failure(server: Loopback, word: str) -> None:
    with pytest.raises(ServerFailed, match=f"failed while it wrote the answer .{word}"):
        ask(server, "openrouter/openai/gpt-4o", chat("half an ans", finish_reason=word))


def test_prompt_that_gemini_blocks_is_filtered(server: Loopback) -> None:
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}
    response = ask(server, "gemini/gemini-2.5-flash", Reply(body))
    assert (response.text, response.finish_reason) == ("", "content_filter")


# Cost ---------------------------------------------------------------------------------------------


def test_cached_input_is_charged_as_such(server: Loopback) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 800}}
    response = ask(server, "openai/gpt-4o-mini", chat(usage=usage))
    expected = 200 * Decimal("1.5e-7") + 800 * Decimal("7.5e-8") + 100 * Decimal("6e-7")
    assert response.cost_usd == pytest.approx(expected)


def test_written_cache_is_charged_by_its_lifetime(server: Loopback) -> None:
    row = load_litellm().model_cost["claude-sonnet-4-5"]
    lives = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200}
    reply = message(cache_creation_input_tokens=300, cache_read_input_tokens=400, cache_creation=lives)
    response = ask(server, SONNET, reply)
    expected = (
        10 * row["input_cost_per_token"]
        + 400 * row["cache_read_input_token_cost"]
        + 100 * row["cache_creation_input_token_cost"]
        + 200 * row["cache_creation_input_token_cost_above_1hr"]
        + 5 * row["output_cost_per_token"]
    )
    assert response.usage == Usage(710, 5, 400)
    assert float(response.cost_usd or 0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tier", "suffix"), [("flex", "_flex"), ("priority", "_priority"), ("default", ""), ("on_demand", "")]
)
def test_tier_of_the_reply_decides_the_price(server: Loopback, tier: str, suffix: str) -> None:
    row = load_litellm().model_cost["gpt-5-mini"]
    reply = chat(usage=(1000, 100))
    response = ask(server, "openai/gpt-5-mini", Reply(reply.body | {"service_tier": tier}))
    expected = 1000 * row[f"input_cost_per_token{suffix}"] + 100 * row[f"output_cost_per_token{suffix}"]
    assert float(response.cost_usd or 0) == pytest.approx(expected)


def test_cohere_charges_billed_units_only(server: Loopback) -> None:
    usage = {
        "billed_units": {"input_tokens": 1, "output_tokens": 9},
        "tokens": {"input_tokens": 496, "output_tokens": 11},
        "cached_tokens": 448,
    }
    content = [{"type": "text", "text": "red"}]
    body = {"id": "1", "finish_reason": "COMPLETE", "usage": usage}
    response = ask(
        server,
        "cohere_chat/command-r7b-12-2024",
        Reply(body | {"message": {"role": "assistant", "content": content}}),
    )
    row = load_litellm().model_cost["command-r7b-12-2024"]
    assert response.usage == Usage(496, 11, 448)
    expected = row["input_cost_per_token"] + 9 * row["output_cost_per_token"]
    assert float(response.cost_usd or 0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("said", "dollars"),
    [
        ({"cost": 0.25}, "0.25"),
        ({"cost": 0.25, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.25}}, "0.25"),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}}, "0.5"),
        ({"cost": 0.025, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}}, "0.525"),
        ({"cost": 0}, None),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": None}}, None),
        ({"cost": -1}, None),
        ({"cost": "free"}, None),
        ({"cost": None, "cost_details": None}, None),
        ({"cost": float("nan")}, None),
        ({"cost": 1e20}, None),
        ({"cost": 10**400}, None),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 1e308}}, None),
        ({}, None),
    ],
)
def test_providers_own_sum(said: dict[str, Any], dollars: str | None) -> None:
    usage = load_litellm().Usage(prompt_tokens=10, completion_tokens=5, total_tokens=15, **said)
    assert own_sum(usage) == (None if dollars is None else Decimal(dollars))


def test_own_key_behind_a_router_is_not_free(server: Loopback) -> None:
    usage = {"prompt_tokens": 14, "completion_tokens": 7, "total_tokens": 21, "cost": 0, "is_byok": True}
    usage |= {"cost_details": {"upstream_inference_cost": 6.3e-06}}
    assert ask(server, "openrouter/openai/gpt-4o-mini", chat(usage=usage)).cost_usd == Decimal("6.3e-06")


@pytest.mark.parametrize("is_off_peak", [True, False])
def test_deepseeks_price_is_the_same_at_every_hour(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, is_off_peak: bool
) -> None:
    litellm = load_litellm()
    monkeypatch.setattr("litellm.litellm_core_utils.llm_cost_calc.utils._is_off_peak", lambda *_: is_off_peak)
    row = litellm.model_cost["deepseek/deepseek-v4-flash"]
    response = ask(server, "deepseek/deepseek-v4-flash", chat(usage=(1000, 100)))
    expected = 1000 * row["input_cost_per_token"] + 100 * row["output_cost_per_token"]
    assert float(response.cost_usd or 0) == pytest.approx(expected)


def test_list_price_of_nothing_is_unknown() -> None:
    litellm = load_litellm()
    rows = litellm.model_cost.items()
    free = [name for name, row in rows if row.get("input_cost_per_token") == row.get("output_cost_per_token") == 0]
    assert len(free) > 10
    for name in free:
        assert list_prices(litellm, name) == (None, None)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("openai/responses/gpt-5", "openai/gpt-5"),
        ("cohere_chat/v1/command-r", "cohere_chat/command-r"),
        ("openai/gpt-5", "openai/gpt-5"),
        ("gpt-5", "gpt-5"),
        ("openrouter/openai/responses/x", "openrouter/openai/responses/x"),
    ],
)
def test_listed_name(name: str, listed: str) -> None:
    assert listed_name(name) == listed


# Replies that nobody can read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (SONNET, {"content": [{"type": "text", "text": "red"}], "stop_reason": "max_tokens"}),
        (
            "gemini/gemini-2.5-flash",
            {
                "candidates": [
                    {
                        "content": {"parts": [{"text": "hm", "thought": True}, {"text": "red"}]},
                        "finishReason": "MAX_TOKENS",
                    }
                ]
            },
        ),
    ],
    ids=["anthropic", "gemini"],
)
def test_answer_without_usage_is_not_lost(server: Loopback, model: str, body: Any) -> None:
    response = ask(server, model, Reply(body))
    assert (response.text, response.finish_reason) == ("red", "length")
    assert (response.usage, response.cost_usd) == (None, None)


def test_answer_that_cannot_be_read_is_not_paid_for_again(server: Loopback) -> None:
    body = {"message": {"role": "assistant", "content": [{"type": "text"}]}, "usage": {"tokens": 5}}
    with pytest.raises(CallRefused, match="not sent again"):
        ask(server, "cohere_chat/command-r7b-12-2024", Reply(body))
