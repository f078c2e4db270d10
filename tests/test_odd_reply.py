"""Replies with odd types and absurd numbers, through the real litellm: the text that was paid for is kept."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from elsewhere import ask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import Loopback, Reply, chat, serve

from promptopt.errors import CallRefused, ProviderError
from promptopt.journal import Journal
from promptopt.reply import Sent
from promptopt.types import Usage

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # as load_litellm does

USAGE = {
    **{"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": 0.5},
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
TOKEN = {"token": "red", "logprob": -0.1, "bytes": None, "top_logprobs": []}
CHAT = chat(usage=USAGE, logprobs={"content": [TOKEN]}).body
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": "red"}], "role": "model"}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "cachedContentTokenCount": 1},
}
ANTHROPIC = {
    **{"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"},
    "content": [{"type": "text", "text": "red"}],
    "usage": {"input_tokens": 10, "output_tokens": 5, "cache_creation": {"ephemeral_5m_input_tokens": 3}},
}
COHERE = {
    **{"id": "1", "finish_reason": "COMPLETE"},
    "message": {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    "usage": {"billed_units": {"input_tokens": 1, "output_tokens": 9}, "tokens": {"input_tokens": 4}},
}
# By model: a good reply, and where its text is.
GOOD: dict[str, tuple[Any, tuple[str | int, ...]]] = {
    "openai/gpt-4o-mini": (CHAT, ("choices", 0, "message")),
    "groq/openai/gpt-oss-120b": (CHAT, ("choices", 0, "message")),
    "anthropic/claude-sonnet-4-5": (ANTHROPIC, ("content",)),
    "gemini/gemini-2.5-flash": (GEMINI, ("candidates", 0, "content")),
    "cohere_chat/command-r7b-12-2024": (COHERE, ("message",)),
}
NUMBERS = [0, -5, 7, 1.5, 1e20, 1e308, 10**30, 10**400, float("nan"), float("inf")]
ODD = [None, True, *NUMBERS, "many", "", "\ud800", [], [1], ["x"], [None], {}, {"a": 1}, {"self": 1}, [{}]]
NAMES = ["self", "get", "cost", "service_tier", "reasoning_tokens", "refusal", "reasoning_content", "tool_calls"]


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serve(lambda body: chat()) as loopback:
        yield loopback


@pytest.mark.parametrize(
    "odd",
    [
        *({"prompt_tokens": n} for n in (1.5, -5, 10**30, 10**400, "many", [1])),
        *({"prompt_tokens_details": {"cached_tokens": n}} for n in (-1, 10**25, "x")),
        *({"completion_tokens_details": {"reasoning_tokens": n}} for n in (10**25, [1])),
        {"reasoning_tokens": "x", "completion_tokens_details": {"text_tokens": 3}},
    ],
    ids=lambda odd: str(odd)[:70],
)
@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "groq/openai/gpt-oss-120b"])
def test_absurd_usage_is_unknown(server: Loopback, model: str, odd: dict[str, Any]) -> None:
    response = ask(server, model, Reply(CHAT | {"usage": USAGE | odd}))
    assert (response.text, response.usage, response.cost_usd) == ("red", None, None)


@pytest.mark.parametrize("usage", [(0, 5), (10, 0), (0, 0)])
def test_tokens_of_nothing_for_an_answer_are_unknown_so_that_it_is_not_free(
    server: Loopback, usage: tuple[int, int]
) -> None:
    response = ask(server, "openai/gpt-4o-mini", chat(usage=usage))
    assert (response.text, response.usage, response.cost_usd) == ("red", None, None)


def test_empty_answer_may_take_no_tokens(server: Loopback) -> None:
    response = ask(server, "openai/gpt-4o-mini", chat("", usage=(10, 0)))
    assert (response.text, response.usage) == ("", Usage(10, 0))


@pytest.mark.parametrize("usage", ["many", [1], 7])
def test_usage_that_is_none_is_unknown(server: Loopback, usage: Any) -> None:
    assert ask(server, "openai/gpt-4o-mini", chat(usage=usage)).usage is None


@pytest.mark.parametrize(
    "usage", [None, 7, {"tokens": [1]}, {"tokens": {"input_tokens": 10**400}}, {"billed_units": 1, "tokens": "x"}]
)
def test_coheres_answer_with_odd_usage_is_not_lost(server: Loopback, usage: Any) -> None:
    response = ask(server, "cohere_chat/command-r7b-12-2024", Reply(COHERE | {"usage": usage}))
    assert (response.text, response.usage, response.cost_usd) == ("red", None, None)


@pytest.mark.parametrize("n", [10**30, 10**400], ids=["1e30", "1e400"])
def test_detail_that_cannot_be_priced_leaves_the_cost_unknown(server: Loopback, n: int) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": n}}
    response = ask(server, "anthropic/claude-sonnet-4-5", Reply(ANTHROPIC | {"usage": usage}))
    assert (response.text, response.usage, response.cost_usd) == ("red", Usage(10, 5), None)


@pytest.mark.parametrize(
    "content",
    [
        *("red", {"a": 1}, [1], [None], [{}], [{"logprob": -1}]),
        *([TOKEN | {"logprob": p}] for p in (None, "x", 10**400)),
        [TOKEN | {"token": None}],
    ],
    ids=lambda odd: str(odd)[:70],
)
def test_odd_log_probabilities_are_not_given(server: Loopback, content: Any) -> None:
    response = ask(server, "openai/gpt-4o-mini", chat(usage=USAGE, logprobs={"content": content}))
    assert (response.text, response.usage, response.logprobs) == ("red", Usage(10, 5, 2, 1), None)


def test_no_probability_is_above_one(server: Loopback) -> None:
    reply = chat(logprobs={"content": [TOKEN | {"logprob": 1e308}]})
    assert ask(server, "openai/gpt-4o-mini", reply).logprobs == (("red", 0.0),)


def test_odd_reason_to_stop_does_not_lose_the_answer(server: Loopback) -> None:
    response = ask(server, "openai/gpt-4o-mini", chat(finish_reason=["stop"]))
    assert (response.text, response.usage) == ("red", Usage(10, 5))


@pytest.mark.parametrize("content", [7, 0, {"a": 1}, {}, True])
def test_content_that_is_no_text_is_not_paid_for_again(server: Loopback, content: Any) -> None:
    with pytest.raises(CallRefused, match="not sent again"):
        ask(server, "openai/gpt-4o-mini", chat(content))


def test_refusal_that_litellm_failed_to_read_is_one_all_the_same(server: Loopback) -> None:
    response = ask(server, "groq/openai/gpt-oss-120b", chat(None, message={"refusal": "No."}))
    assert (response.text, response.finish_reason) == ("No.", "content_filter")


def test_json_of_endless_depth_is_nothing() -> None:
    sent = Sent()
    sent.note({"original_response": '{"a":' + "[" * 10**5 + "]" * 10**5 + "}"})
    assert sent.body == {}


def spots(node: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to every part of a JSON value."""
    yield at
    rows = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in rows:
        yield from spots(value, (*at, key))


def with_odd(node: Any, at: tuple[str | int, ...], odd: Any) -> Any:
    """Return a JSON value with another one at a spot of it, which may be new."""
    if not at:
        return odd
    if isinstance(node, dict):
        return node | {at[0]: with_odd(node.get(at[0]), at[1:], odd)}
    return [with_odd(value, at[1:], odd) if i == at[0] else value for i, value in enumerate(node)]


@st.composite
def odd_replies(draw: st.DrawFn) -> tuple[str, Any, bool]:
    """Draw a model, its reply with up to three odd values, and whether the answer's text was left alone."""
    model = draw(st.sampled_from(sorted(GOOD)))
    body, place = GOOD[model]
    is_whole = True
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from([at for at in spots(body) if at]))
        part = functools.reduce(lambda node, key: node[key], at, body)
        if isinstance(part, dict) and draw(st.booleans()):
            at = (*at, draw(st.sampled_from(NAMES)))
        body = with_odd(body, at, draw(st.sampled_from(ODD)))
        n = min(len(at), len(place))
        is_whole &= at[:n] != place[:n]
    return model, body, is_whole


@settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd_replies())
def test_whatever_a_reply_holds_it_is_an_answer_or_a_failure_of_the_provider(
    server: Loopback, drawn: tuple[str, Any, bool]
) -> None:
    model, body, is_whole = drawn
    try:
        response = ask(server, model, Reply(body))
    except ProviderError:
        assert not is_whole, "a text that is there was lost"
        return
    assert response.text == "red" or not is_whole
    assert response.cost_usd is None or 0 < response.cost_usd < 10**9
    with Journal(None) as journal:
        journal.add_answer(b"key", model, response, None)
