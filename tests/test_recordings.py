"""Replies that real providers gave, served from this machine and called through the gateway.

What must come out is worked out by `recorded.py` from the raw reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from elsewhere import Elsewhere, close_clients
from loopback import Loopback, Reply, chat, serve
from recorded import FOLDER, Exchange, answer, cost, exchanges

from promptopt.errors import CallRefused, ProviderError, RateLimited, RunRefused, ServerFailed
from promptopt.gateway import Call, Gateway, RetryPolicy
from promptopt.journal import Journal
from promptopt.providers import load_litellm
from promptopt.types import Message, Request, Response

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no recorded replies beside the repository"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydantic"),  # litellm builds models of odd replies
]

ALL = exchanges()
REACHABLE = [exchange for exchange in ALL if exchange.unreachable is None]
ERRORS = {400: CallRefused, 401: RunRefused, 403: RunRefused, 404: RunRefused, 429: RateLimited}
KEYS = (
    "OPENAI",
    "ANTHROPIC",
    "GEMINI",
    "OPENROUTER",
    "AZURE",
    "COHERE",
    "GROQ",
    "MISTRAL",
    "DEEPSEEK",
    "CEREBRAS",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serve(lambda body: chat()) as loopback:
        yield loopback


@pytest.fixture(autouse=True)
def dummy_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEYS, "CEREBRAS", "HUGGINGFACE"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example-secret")
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    load_litellm()
    from litellm.llms.vertex_ai.vertex_llm_base import VertexBase

    async def token(*_: Any, **__: Any) -> tuple[str, str]:
        return "token", "example-project"

    monkeypatch.setattr(VertexBase, "_ensure_access_token_async", token)  # a real one comes from Google's server


def ask(server: Loopback, exchange: Exchange, path: Path) -> Response:
    """Call the gateway for an exchange; the server must be hit exactly once."""
    headers = {name: value for name, value in exchange.headers.items() if name.lower() == "retry-after"}
    server.answer = lambda body: Reply(exchange.body, exchange.status, tuple(headers.items()))
    before = n_calls(server)
    request = Request(exchange.model_name, (Message("user", "hello"),), 64, temperature=None)
    call = Call(request, bytes.fromhex(request.digest), "task", "search", 15)

    async def main() -> Response:
        with Journal(path) as journal:
            transport = Elsewhere(exchange.address(server.url.removesuffix("/v1")))
            gateway = Gateway(journal, {"": transport}, retry=RetryPolicy(n_attempts=1))
            try:
                response = await gateway.answer(call)
                assert await gateway.answer(call) == response
                return response
            finally:
                await close_clients()

    try:
        return asyncio.run(main())
    finally:
        assert n_calls(server) == before + 1


def n_calls(server: Loopback) -> int:
    """Return how often the server was asked; litellm looks a local model's size up besides."""
    return sum(not path.endswith("/api/show") for path in server.paths)


def test_list_of_what_cannot_be_reached() -> None:
    missing = [exchange.name for exchange in ALL if exchange.unreachable is not None]
    assert len(missing) == 3, missing


@pytest.mark.parametrize("exchange", REACHABLE, ids=lambda exchange: str(exchange.name))
def test_recorded_exchange(
    server: Loopback, exchange: Exchange, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if exchange.api == "responses":
        pytest.importorskip("mcp")
    said = answer(exchange) if exchange.status == 200 else None
    if said is None:
        expected = ERRORS.get(exchange.status, ServerFailed) if exchange.status != 200 else CallRefused
        with pytest.raises(ProviderError) as caught:
            ask(server, exchange, tmp_path / "journal.db")
        assert isinstance(caught.value, expected), caught.value
    else:
        response = ask(server, exchange, tmp_path / "journal.db")
        assert response.text == said.text
        assert response.finish_reason in (said.end, "stop" if said.end == "tool_calls" else said.end)
        if said.input_tokens is None:
            assert response.usage is None
        else:
            assert response.usage is not None
            tokens = (response.usage.input_tokens, response.usage.output_tokens, response.usage.cached_tokens)
            assert tokens == (said.input_tokens, said.output_tokens, said.cached_tokens)
            if said.reasoning_tokens is not None:
                assert response.usage.reasoning_tokens == said.reasoning_tokens
        dollars = cost(load_litellm(), exchange, said)
        if dollars is None:
            assert response.cost_usd is None
        else:
            assert dollars > 0
            assert response.cost_usd == pytest.approx(dollars, rel=Decimal("1e-9"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("provider", sorted({exchange.provider for exchange in ALL}))
def test_some_costs_are_known(provider: str) -> None:
    """Guard against an expectation of None everywhere; of some providers the list prices no recorded model."""
    whole = [(one, answer(one)) for one in REACHABLE if one.provider == provider and one.status == 200]
    known = [one.name for one, said in whole if said is not None and cost(load_litellm(), one, said) is not None]
    assert known or provider in ("huggingface", "ollama")
