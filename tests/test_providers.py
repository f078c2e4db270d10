"""Models behind the real litellm, against a server on this machine: prices, replies, failures."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from elsewhere import close_clients
from loopback import Loopback, Reply, chat, failure, serve

from promptopt.errors import (
    CallRefused,
    CallTimedOut,
    ConfigError,
    ConnectionLost,
    ContentRefused,
    ContextTooLong,
    PromptoptError,
    RateLimited,
    RunRefused,
    ServerFailed,
    TransientError,
)
from promptopt.providers import LitellmTransport, ModelSpec, find_model, load_litellm, wire_name
from promptopt.types import Message, Request, Response, Role, Usage

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENROUTER_API_KEY")
ASKED = (Message("system", "Name the colour."), Message("user", "item 1"))


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, "sk-secret")


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serve(lambda body: chat()) as loopback:
        yield loopback


def ask(
    server: Loopback,
    reply: Reply,
    *,
    model: str = "my-model",
    spec: ModelSpec | None = None,
    timeout_s: float = 10,
    **settings: Any,
) -> Response:
    """Send one request through litellm; it must reach the server exactly once."""
    server.answer = lambda body: reply
    before = len(server.bodies)
    request = Request(model, ASKED, 64, api_base=server.url, **settings)
    transport = LitellmTransport((replace(spec, api_base=server.url),) if spec else ())

    async def main() -> Response:
        async with asyncio.timeout(20):
            try:
                return await transport.send(request, timeout_s)
            finally:
                await close_clients()

    try:
        return asyncio.run(main())
    finally:
        assert len(server.bodies) == before + 1


# Finding models ----------------------------------------------------------------------------------


def test_known_model_has_its_listed_price(key: None) -> None:
    spec = find_model("openai/gpt-4o-mini", "task")
    assert (spec.price_in, spec.price_out) == (Decimal("1.5e-7"), Decimal("6e-7"))
    assert (spec.max_tokens, spec.temperature, spec.facts.is_reasoning, spec.is_noisy) == (1024, 0.0, False, False)


def test_unknown_name_is_refused_with_the_nearest(key: None) -> None:
    with pytest.raises(ConfigError, match=r"gpt-4o-minni.*did you mean 'gpt-4o-mini'.*--api-base"):
        find_model("gpt-4o-minni", "task")
    with pytest.raises(ConfigError, match="did you mean 'sim'"):
        find_model("simm", "task")


@pytest.mark.parametrize(
    ("name", "variable"),
    [("openai/gpt-4o-mini", "OPENAI_API_KEY"), ("anthropic/claude-sonnet-4-5", "ANTHROPIC_API_KEY")],
)
def test_missing_key_is_named(name: str, variable: str) -> None:
    with pytest.raises(ConfigError, match=f"set {variable} in the environment"):
        find_model(name, "task")


@pytest.mark.parametrize(
    ("name", "there", "says"),
    [
        ("vertex_ai/gemini-2.5-pro", "", "VERTEXAI_PROJECT and VERTEXAI_LOCATION"),
        ("vertex_ai/gemini-2.5-pro", "VERTEXAI_PROJECT", "VERTEXAI_LOCATION"),
        ("azure/mine", "AZURE_API_KEY AZURE_API_BASE", "AZURE_API_VERSION"),
        ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("gemini/gemini-2.5-pro", "", "GOOGLE_API_KEY or GEMINI_API_KEY"),
    ],
)
def test_only_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str, there: str, says: str) -> None:
    for variable in [v for v in os.environ if v.startswith(("AWS_", "AZURE_", "VERTEXAI_"))]:
        monkeypatch.delenv(variable)
    for variable in there.split():
        monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigError, match=f"needs (a key|settings): set {says} in the environment"):
        find_model(name, "task")


@pytest.mark.parametrize(
    ("name", "role", "says"),
    [
        ("openai/text-embedding-3-small", "task", "is none that chats; name one .litellm lists it as embedding"),
        ("text-embedding-3-small", "judge", "is none that chats"),
        ("openai/whisper-1", "optimizer", "lists it as audio_transcription"),
        ("openai/gpt-4o-mini", "embedding", "gives no word vectors; name an embedding model"),
    ],
)
def test_model_of_another_kind_is_refused(key: None, name: str, role: Role, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find_model(name, role)
    assert find_model(name, role, api_base="http://127.0.0.1:1/v1").name == name


def test_model_of_the_right_kind_is_taken(key: None) -> None:
    pytest.importorskip("mcp")
    assert find_model("openai/text-embedding-3-small", "embedding").is_embedding
    assert find_model("openai/o3-pro", "task").facts.is_reasoning  # listed as responses


def test_own_server_needs_neither_a_key_nor_a_known_name() -> None:
    spec = find_model("my-model", "task", api_base="http://127.0.0.1:1/v1")
    assert (spec.price_in, spec.price_out) == (None, None)
    assert (spec.temperature, spec.max_tokens) == (0.0, 1024)


@pytest.mark.parametrize("name", ["openai/gpt-5-mini", "openai/gpt-5", "o3-mini"])
def test_reasoning_model_takes_no_temperature(key: None, name: str) -> None:
    spec = find_model(name, "task")
    assert (spec.temperature, spec.is_noisy, spec.facts.is_reasoning) == (None, True, True)
    assert spec.max_tokens == 8192
    assert spec.request(ASKED, "place").sample == "place"


def test_longest_answers_by_role(key: None) -> None:
    name = "openai/gpt-4o-mini"
    assert [find_model(name, "task").max_tokens, find_model(name, "judge").max_tokens] == [1024, 1024]
    writer = find_model(name, "optimizer")
    assert (writer.max_tokens, writer.temperature, writer.is_noisy) == (8192, 1.0, True)
    assert find_model(name, "optimizer", max_tokens=77).max_tokens == 77
    assert find_model("sim", "task").max_tokens == 1024


@pytest.mark.parametrize(
    "name",
    [
        "anthropic/claude-sonnet-4-20250514",
        "gemini/gemini-3-pro-preview",
        "openrouter/openai/gpt-5-mini",
        "openrouter/google/gemini-2.5-flash-lite",
    ],
)
def test_price_of_a_mere_family_is_unknown_and_not_zero(key: None, name: str) -> None:
    litellm = load_litellm()
    spec = find_model(name, "task")
    is_listed = litellm.get_model_info(name)["key"] in litellm.model_cost
    assert (spec.price_in is None) == (not is_listed)
    assert spec.price_in != 0
    assert find_model(name, "task", prices=(Decimal(1), Decimal(2))).price_out == 2


def test_price_options_win(key: None) -> None:
    spec = find_model("openai/gpt-4o-mini", "task", prices=(Decimal("0.001"), Decimal("0.002")))
    assert (spec.price_in, spec.price_out) == (Decimal("0.001"), Decimal("0.002"))
    assert spec.price(10, 5) == Decimal("0.02")


def test_worst_case_bounds_any_tokenizer() -> None:
    spec = ModelSpec("m", max_tokens=100, price_in=Decimal("0.01"), price_out=Decimal("0.1"))
    request = spec.request((Message("system", "é" * 50), Message("user", "🙂")))
    worst = spec.worst_case(request)
    assert worst.calls == 1
    assert worst.tokens >= 104 + 100
    assert worst.usd == spec.price(worst.tokens - 100, 100)
    assert ModelSpec("m").worst_case(request).usd == 0


def test_wire_name() -> None:
    assert wire_name("my-model", "http://x") == wire_name("openai/my-model", "http://x") == "openai/my-model"
    assert wire_name("anthropic/claude", None) == "anthropic/claude"


# Answers -----------------------------------------------------------------------------------------


def test_text_usage_and_body(server: Loopback) -> None:
    response = ask(server, chat(" red\n", usage=(12, 3)))
    assert (response.text, response.usage, response.finish_reason) == (" red\n", Usage(12, 3), "stop")
    assert response.latency_s > 0
    assert server.bodies[-1] == {
        "model": "my-model",
        "messages": [{"role": "system", "content": ASKED[0].content}, {"role": "user", "content": "item 1"}],
        "max_tokens": 64,
        "temperature": 0.0,
    }


def test_body_without_temperature(server: Loopback) -> None:
    ask(server, chat(), temperature=None)
    assert sorted(server.bodies[-1]) == ["max_tokens", "messages", "model"]


def test_sample_stays_with_us(server: Loopback) -> None:
    ask(server, chat(), temperature=1.0, sample="0/0/1")
    assert sorted(server.bodies[-1]) == ["max_tokens", "messages", "model", "temperature"]


def test_length_stop_is_told(server: Loopback) -> None:
    assert ask(server, chat("re", finish_reason="length")).finish_reason == "length"


def test_cached_and_reasoning_tokens(server: Loopback) -> None:
    usage = {
        **{"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 40},
    }
    assert ask(server, chat(usage=usage)).usage == Usage(100, 50, 64, 40)


def test_cost_by_the_users_prices(server: Loopback) -> None:
    spec = ModelSpec("gpt-4o-mini", price_in=Decimal("0.001"), price_out=Decimal("0.002"))
    response = ask(server, chat(usage=(10, 5), model="gpt-4o"), model="gpt-4o-mini", spec=spec)
    assert response.cost_usd == Decimal("0.02")


def test_free_by_the_users_prices_is_zero_and_known(server: Loopback) -> None:
    spec = ModelSpec("my-model", price_in=Decimal(0), price_out=Decimal(0))
    assert ask(server, chat(), spec=spec).cost_usd == 0


def test_cost_by_the_list_is_that_of_the_requested_model(server: Loopback) -> None:
    response = ask(server, chat(usage=(1000, 100), model="gpt-4o-2024-08-06"), model="gpt-4o-mini")
    assert response.cost_usd == pytest.approx(1000 * Decimal("1.5e-7") + 100 * Decimal("6e-7"))


def test_own_model_that_calls_itself_a_priced_one_stays_without_a_price(server: Loopback) -> None:
    response = ask(server, chat(usage=(1000, 100), model="gpt-4o-mini"))
    assert response.usage == Usage(1000, 100)
    assert response.cost_usd is None


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}])
def test_missing_usage_leaves_usage_and_cost_unknown(server: Loopback, usage: Any) -> None:
    spec = ModelSpec("my-model", price_in=Decimal(1), price_out=Decimal(1))
    response = ask(server, chat(usage=usage), spec=spec)
    assert (response.text, response.usage, response.cost_usd) == ("red", None, None)


def test_null_content_is_an_empty_answer(server: Loopback) -> None:
    response = ask(server, chat(None))
    assert (response.text, response.usage) == ("", Usage(10, 5))


def test_refusal_is_shown_and_marked(server: Loopback) -> None:
    response = ask(server, chat(None, message={"refusal": "I cannot help with that."}))
    assert (response.text, response.finish_reason) == ("I cannot help with that.", "content_filter")


def test_filtered_answer_is_marked(server: Loopback) -> None:
    assert ask(server, chat(None, finish_reason="content_filter")).finish_reason == "content_filter"


def test_log_probabilities_of_the_first_answer_token(server: Loopback) -> None:
    def token(text: str, logprob: float, *tops: tuple[str, float]) -> dict[str, Any]:
        rows = [{"token": t, "logprob": p, "bytes": None} for t, p in tops]
        return {"token": text, "logprob": logprob, "bytes": None, "top_logprobs": rows}

    content = [token("\n", -0.5), token("red", -0.1, ("red", -0.1), ("blue", -2.5)), token("!", -0.2)]
    response = ask(server, chat(logprobs={"content": content}), top_logprobs=2)
    assert response.logprobs == (("red", -0.1), ("blue", -2.5))
    assert (server.bodies[-1]["logprobs"], server.bodies[-1]["top_logprobs"]) == (True, 2)
    assert ask(server, chat(), top_logprobs=2).logprobs is None


def test_half_a_surrogate_pair_arrives_as_litellm_reads_it(server: Loopback) -> None:
    assert ask(server, chat("half \ud83d pair")).text.startswith("half ")


@pytest.mark.parametrize(
    "row",
    [
        {"index": float("inf"), "embedding": [0.5]},
        {"index": 0, "embedding": [10**400]},
        {"index": 0, "embedding": ["x"]},
        {"index": 0},
    ],
    ids=["index", "number", "text", "none"],
)
def test_vectors_that_cannot_be_read_are_a_failed_server(server: Loopback, row: dict[str, Any]) -> None:
    with pytest.raises(ServerFailed):
        ask(server, Reply({"object": "list", "data": [row], "model": "my-model"}), is_embedding=True)


# Failures ----------------------------------------------------------------------------------------

CONTEXT = "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens."
POLICY = "Your request was rejected as a result of our safety system."
RATE = (
    "Rate limit reached for gpt-4o-mini on requests per min (RPM): Limit 3. Please try again in 20s. You can add "
    "a payment method at https://platform.openai.com/account/billing to raise it."
)
QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (failure(401, "Incorrect API key provided"), RunRefused),
        (failure(403, "Your account may not use this"), RunRefused),
        (failure(402, "Payment required"), RunRefused),
        (failure(404, "The model `x` does not exist", "model_not_found"), RunRefused),
        (failure(400, "bad request"), CallRefused),
        (failure(422, "unprocessable"), CallRefused),
        (failure(400, CONTEXT, "context_length_exceeded"), ContextTooLong),
        (failure(400, POLICY, "content_policy_violation"), ContentRefused),
        (failure(429, RATE, "rate_limit_exceeded"), RateLimited),
        (failure(429, QUOTA, "insufficient_quota"), RunRefused),
        (failure(429, QUOTA + " Please retry in 37.9s.", "429"), RateLimited),
        (failure(500, "oops"), ServerFailed),
        (failure(502, "bad gateway"), ServerFailed),
        (failure(503, "overloaded"), ServerFailed),
        (failure(529, "overloaded"), ServerFailed),
        (Reply("<html>a proxy's page</html>"), ServerFailed),
        (Reply("<html>not here</html>", 503), ServerFailed),
        (Reply({"error": {"message": "half way", "type": "server_error", "code": "x"}}), ServerFailed),
        (Reply({**chat().body, "choices": []}), ServerFailed),
        (Reply({**chat().body, "choices": None}), ServerFailed),
    ],
    ids=[
        *("401", "403", "402", "404", "400", "422", "context", "policy", "429", "quota", "passing quota"),
        *("500", "502", "503", "529"),
        *("html 200", "html 503", "error in 200", "no choices", "null choices"),
    ],
)
def test_failure_is_classified_and_not_retried(
    server: Loopback, capfd: pytest.CaptureFixture[str], reply: Reply, kind: type[PromptoptError]
) -> None:
    with pytest.raises(PromptoptError) as caught:
        ask(server, reply)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_silence_times_out(server: Loopback, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CallTimedOut):
        ask(server, replace(chat(), hangs_s=2), timeout_s=0.05)
    assert capfd.readouterr() == ("", "")


def test_dropped_connection_may_be_tried_again(server: Loopback, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TransientError):
        ask(server, Reply(drops=True))
    assert capfd.readouterr() == ("", "")


def test_no_server_at_all_may_be_tried_again() -> None:
    with serve(lambda body: chat()) as gone:
        url = gone.url
    with pytest.raises((ConnectionLost, ServerFailed)):
        asyncio.run(LitellmTransport(()).send(Request("my-model", ASKED, 64, api_base=url), 5))


def test_key_of_the_environment_is_used_and_never_shown(server: Loopback, key: None) -> None:
    with pytest.raises(RunRefused) as caught:
        ask(server, failure(401, "Incorrect API key provided"))
    assert "sk-secret" not in str(caught.value)


def test_litellm_is_loaded_quietly() -> None:
    litellm = load_litellm()
    assert litellm.suppress_debug_info
    assert not logging.getLogger("LiteLLM Proxy").isEnabledFor(logging.ERROR)  # it tells of odd usage there
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


def test_loading_and_looking_up_reach_no_network_and_read_no_dotenv(tmp_path: Path) -> None:
    """Run apart, since litellm is loaded once a process: every connection and look-up of a host is refused."""
    (tmp_path / ".env").write_text("PROMPTOPT_STRAY=1\n")
    program = """
import os, sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        os.write(2, f"{event} {args}\\n".encode())
        os._exit(3)
sys.addaudithook(refuse)
from promptopt.providers import ModelSpec, find_model
from promptopt.types import Message
os.environ["OPENAI_API_KEY"] = "x"
for name in ("openai/gpt-4o-mini", "ollama_chat/llama3", "ollama/llama3"):
    spec = find_model(name, "task")
    spec.worst_case(spec.request((Message("user", "hello"),)))
spec = ModelSpec("together_ai/meta-llama/Llama-3-8b-chat-hf")
spec.worst_case(spec.request((Message("user", "hello"),)))
print("PROMPTOPT_STRAY" in os.environ)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("openai/gpt-5-pro", "mcp", "responses"),
        ("openai/responses/gpt-4.1", "mcp", "responses"),
        ("vertex_ai/gemini-2.5-flash", "google.auth", "vertex"),
    ],
)
def test_missing_package_is_told_before_anything_is_spent(
    key: None, monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("VERTEXAI_PROJECT", "p")
    monkeypatch.setenv("VERTEXAI_LOCATION", "l")
    with pytest.raises(ConfigError, match=rf"{name}.*package {module}.*promptopt-suite\[{extra}\]"):
        find_model(name, "task")
    find_model("openai/gpt-4o-mini", "task")


def test_model_behind_the_responses_api_has_its_listed_price(key: None) -> None:
    pytest.importorskip("mcp")
    assert find_model("openai/responses/gpt-4.1", "task").prices == find_model("openai/gpt-4.1", "task").prices


def test_a_call_cut_before_it_is_sent_leaves_no_warning() -> None:
    """litellm makes a coroutine in a thread, which nobody awaits if the call has been cancelled meanwhile."""
    program = (
        "from promptopt.providers import load_litellm\n"
        "load_litellm()\n"
        "class OpenAIChatCompletion:\n"
        "    async def acompletion(self): ...\n"
        "OpenAIChatCompletion().acompletion()\n"
        "async def ours(): ...\n"
        "ours()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert "acompletion" not in done.stderr
    assert "coroutine 'ours' was never awaited" in done.stderr
