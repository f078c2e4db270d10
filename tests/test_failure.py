"""What failures of providers other than OpenAI are called, and how long they ask to wait."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from elsewhere import ask
from loopback import Loopback, Reply, chat, failure, serve

from promptopt.errors import (
    CallRefused,
    ConnectionLost,
    PromptoptError,
    RateLimited,
    RunRefused,
    ServerFailed,
    TransientError,
)
from promptopt.failure import classify
from promptopt.providers import load_litellm

NATIVE = ["anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash", "cohere_chat/command-r7b-12-2024"]
MODELS = ["openai/gpt-4o-mini", "groq/openai/gpt-oss-120b", *NATIVE]


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serve(lambda body: chat()) as loopback:
        yield loopback


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, CallRefused),
        (401, RunRefused),
        (404, RunRefused),
        (429, RateLimited),
        (500, ServerFailed),
        (503, ServerFailed),
        (529, ServerFailed),
    ],
)
def test_status_decides_the_kind_with_one_hit(
    server: Loopback, capfd: pytest.CaptureFixture[str], model: str, status: int, kind: type[PromptoptError]
) -> None:
    with pytest.raises(kind):
        ask(server, model, failure(status, "no such luck"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_refusal_of_all_calls_is_one_whatever_its_error_object_says(server: Loopback, status: int) -> None:
    body = {"error": {"message": "no such luck", "type": "invalid_request_error", "param": None, "code": None}}
    with pytest.raises(RunRefused):
        ask(server, MODELS[0], Reply(body, status))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "reply", [Reply("<html>a proxy's page</html>"), Reply(drops=True), Reply({})], ids=["page", "drop", "empty"]
)
def test_reply_of_a_broken_server_may_be_tried_again(server: Loopback, model: str, reply: Reply) -> None:
    with pytest.raises(TransientError):
        ask(server, model, reply)


@pytest.mark.parametrize("model", MODELS)
def test_seconds_to_wait_are_passed_on(server: Loopback, model: str) -> None:
    with pytest.raises(RateLimited) as caught:
        ask(server, model, failure(429, "slow down", retry_after="17"))
    assert caught.value.retry_after_s == 17


@pytest.mark.parametrize(("ahead_s", "least", "most"), [(90, 60, 90), (-90, 0, 0)])
def test_date_to_wait_for_is_turned_into_seconds(
    server: Loopback, ahead_s: int, least: float, most: float
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)
    with pytest.raises(RateLimited) as caught:
        ask(server, MODELS[0], failure(429, "slow down", retry_after=date))
    assert caught.value.retry_after_s is not None
    assert least <= caught.value.retry_after_s <= most


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached: Limit 3. Please try again in 20s. Visit us.", 20),
        ("Please try again in 250ms.", 0.25),
        ("Please try again in 1m2.5s.", 62.5),
        ("You exceeded your current quota. Please retry in 37.9s.", 37.9),
        ('details: [{"retryDelay": "37s"}]', 37),
        ("slow down", None),
        ("try again in a while", None),
    ],
)
def test_words_to_wait_are_understood(server: Loopback, message: str, seconds: float | None) -> None:
    for headers in ({}, {"retry_after": "soon"}):
        with pytest.raises(RateLimited) as caught:
            ask(server, MODELS[0], failure(429, message, **headers))
        assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize(
    "date", ["Mon, 01 Jan 2024 00:00:00 +99999999999999999", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"]
)
def test_absurd_date_to_wait_for_is_none(server: Loopback, date: str) -> None:
    with pytest.raises(RateLimited) as caught:
        ask(server, MODELS[0], failure(429, "slow down", retry_after=date))
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize("n_digits", [10, 400, 5000])
@pytest.mark.parametrize("unit", ["m1s", "s", "ms"])
def test_absurd_words_to_wait_are_none(server: Loopback, n_digits: int, unit: str) -> None:
    with pytest.raises(RateLimited) as caught:
        ask(server, MODELS[0], failure(429, f"try again in {'9' * n_digits}{unit}"))
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize(
    ("behind", "kind"),
    [
        (KeyError("usage"), CallRefused),
        (AttributeError("no attribute"), CallRefused),
        (ConnectionResetError("reset"), ConnectionLost),
        (None, ConnectionLost),
    ],
)
def test_fault_of_litellm_is_no_lost_connection(behind: Exception | None, kind: type[PromptoptError]) -> None:
    litellm = load_litellm()
    error = litellm.APIConnectionError(message="x", llm_provider="p", model="m")
    error.__context__ = behind
    assert type(classify(litellm, error)) is kind
    assert type(classify(litellm, error, is_answered=True)) is CallRefused
    assert isinstance(classify(litellm, error, is_answered=False), TransientError)


@pytest.mark.parametrize("model", MODELS)
def test_messages_are_without_names_of_litellms_classes(server: Loopback, model: str) -> None:
    for status in (400, 404, 500):
        with pytest.raises(PromptoptError) as caught:
            ask(server, model, failure(status, "no such luck"))
        assert "no such luck" in str(caught.value)
        assert not re.search(r"litellm\.|^\w+(Error|Exception)\b", str(caught.value)), caught.value


def test_traceback_is_not_shown() -> None:
    litellm = load_litellm()
    text = "'usage'\nTraceback (most recent call last):\n  File x\nKeyError: 'usage'"
    error = litellm.APIConnectionError(message=text, llm_provider="p", model="m")
    assert "Traceback" not in str(classify(litellm, error))


def test_values_of_keys_are_struck_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-12345678")
    litellm = load_litellm()
    error = litellm.APIError(400, "key sk-12345678 is wrong", llm_provider="p", model="m")
    assert "key <SOME_API_KEY> is wrong" in str(classify(litellm, error))
