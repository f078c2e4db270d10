"""The main job, end to end: a plain OpenAI-compatible server, through litellm."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback, Reply, chat, failure, serve
from scripted import make_task, model

from promptopt.config import Settings
from promptopt.gateway import RetryPolicy
from promptopt.plan import make_plan
from promptopt.providers import closing
from promptopt.result import Result
from promptopt.run import Run
from promptopt.testing import outcome
from promptopt.types import Budget, Message, Request

N_CALLS = 120


def reply_to(body: dict[str, Any]) -> Reply:
    """Answer as the scripted model does; usage follows from the text alone."""
    messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
    text = model(Request(body["model"], messages, body["max_tokens"], sample=messages[-1].content))
    n_in = sum(len(m.content) for m in messages) // 4 + 1
    return chat(text, usage=(n_in, len(text) // 4 + 1), model="gpt-4o-mini")


def optimize(folder: Path, answer: Callable[[dict[str, Any]], Reply]) -> tuple[Result, Loopback]:
    with serve(answer) as server:
        settings = Settings(
            model="my-model",
            api_base=server.url,
            price_in=1,
            price_out=2,
            budget=Budget(calls=N_CALLS),
            optimizer="random",
            out=folder,
        )
        run = Run(make_plan(make_task(), settings), retry=RetryPolicy(12, 0.001, 0.004))

        async def main() -> Result:
            async with asyncio.timeout(60):
                return await run.execute()

        return asyncio.run(closing(main())), server


@pytest.fixture(scope="module")
def no_key() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield


@pytest.fixture(scope="module")
def flawless(tmp_path_factory: pytest.TempPathFactory, no_key: None) -> tuple[Result, dict[str, Any], Loopback]:
    folder = tmp_path_factory.mktemp("flawless")
    result, server = optimize(folder, reply_to)
    return result, outcome(folder), server


def test_plain_server_gets_a_better_prompt_with_a_proof(flawless: Any) -> None:
    result, stored, _ = flawless
    assert result.status in ("completed", "budget_exhausted")
    assert result.improvement is not None
    assert result.improvement.verdict in ("proven", "not_proven", "worse")
    assert result.initial.test is not None
    assert result.best.test is not None
    assert 0 < result.initial.test.n == result.best.test.n <= stored["task"]["test"]
    assert (Path(result.out or "") / "best.md").read_text() == result.best.prompt


def test_spend_is_what_the_server_counted(flawless: Any) -> None:
    result, _, server = flawless
    spend = result.spend
    usages = [reply_to(body).body["usage"] for body in server.bodies]
    n_in = sum(usage["prompt_tokens"] for usage in usages)
    n_out = sum(usage["completion_tokens"] for usage in usages)
    assert spend.calls == spend.attempts == len(server.bodies) <= N_CALLS
    assert (spend.input_tokens, spend.output_tokens) == (n_in, n_out)
    assert spend.cost_usd == (n_in + 2 * n_out) * Decimal("1e-6")
    assert sum(part.calls for part in spend.by_role.values()) == spend.calls
    assert sum(part.cost_usd for part in spend.by_phase.values()) == spend.cost_usd


def test_requests_hold_nothing_but_the_question(flawless: Any) -> None:
    _, _, server = flawless
    assert {tuple(sorted(body)) for body in server.bodies} == {("max_tokens", "messages", "model", "temperature")}
    assert {body["model"] for body in server.bodies} == {"my-model"}
    settings = {(body["max_tokens"], body["temperature"]) for body in server.bodies}
    assert settings == {(1024, 0.0), (8192, 1.0)}
    assert set(server.paths) == {"/v1/chat/completions"}


@pytest.mark.soak  # its pauses take half a minute; test_faults.py shows the same of every strategy
def test_server_that_fails_a_fifth_of_the_time_gives_the_same_result(tmp_path: Path, flawless: Any) -> None:
    draw, lock, n_failed = random.Random(1), threading.Lock(), 0

    def flaky(body: dict[str, Any]) -> Reply:
        nonlocal n_failed
        with lock:
            chance = draw.random()
            n_failed += chance < 0.2
        if chance < 0.1:
            return failure(429, "Rate limit reached", retry_after="0")
        return failure(500, "oops") if chance < 0.2 else reply_to(body)

    result, server = optimize(tmp_path, flaky)
    expected = flawless[1]
    stored = outcome(tmp_path)
    assert stored == expected
    assert n_failed > 10
    assert result.spend.attempts == len(server.bodies) == result.spend.calls + n_failed
