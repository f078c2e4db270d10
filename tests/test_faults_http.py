"""Every kind of fault over HTTP and through litellm: what a call becomes, and what a command makes of it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing as at_end
from pathlib import Path
from typing import Any

import pytest
from commandline import SUPPORT, Runner
from faults import LASTING, PASSING, WHOLE
from faulty_server import Scheduled, serving

from promptopt.config import load_examples
from promptopt.errors import CallTimedOut, RateLimited
from promptopt.fault import FAULTS
from promptopt.gateway import Call, Gateway, RetryPolicy
from promptopt.journal import Journal
from promptopt.providers import LitellmTransport, closing
from promptopt.types import Message, Request, Response

ODD = {"null-content": "stop", "content-filter": "content_filter"}  # why they end; both are paid
SLOW = ("hang", "endless-drip")
N = 60


@pytest.fixture(scope="module")
def service() -> Scheduled:
    return Scheduled(examples=load_examples("support"))


@pytest.fixture(scope="module")
def address(service: Scheduled) -> Iterator[str]:
    with serving(service) as at:
        ask(at)  # litellm is imported, and its first call takes long
        yield at


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(address: str, timeout_s: float = 60, text: str = "hi") -> Response:
    """Return what the gateway makes of one attempt."""

    async def main() -> Response:
        request = Request("openai/sim", (Message("user", text),), 200, api_base=address)
        with Journal(None) as journal:
            gateway = Gateway(journal, {"": LitellmTransport(())}, retry=RetryPolicy(1))
            call = Call(request, bytes.fromhex(request.digest), "task", "search", timeout_s)
            return await gateway.answer(call)

    return asyncio.run(closing(main()))


# One call ------------------------------------------------------------------------------------------


def test_every_kind_of_fault_is_tried_here() -> None:
    assert set(FAULTS) == {*PASSING, *LASTING, *WHOLE, *ODD}


@pytest.mark.parametrize("kind", [*PASSING, *LASTING])
def test_what_a_fault_becomes(service: Scheduled, address: str, kind: str) -> None:
    service.schedule = lambda n: kind
    started, before = time.monotonic(), service.n_asked
    with pytest.raises((*PASSING.values(), *LASTING.values())) as caught:
        ask(address, timeout_s=1.0 if kind in SLOW else 60)
    assert type(caught.value) is {**PASSING, **LASTING}[kind]
    assert service.n_asked == before + 1
    if isinstance(caught.value, CallTimedOut):
        assert 1 <= time.monotonic() - started < 10


@pytest.mark.parametrize(("kind", "asked_s"), [("429", 1.0), ("429-bare", None)])
def test_the_wait_that_a_refusal_asks_for(
    service: Scheduled, address: str, kind: str, asked_s: float | None
) -> None:
    service.schedule = lambda n: kind
    request = Request("openai/sim", (Message("user", "hi"),), 200, api_base=address)
    with pytest.raises(RateLimited) as caught:
        asyncio.run(closing(LitellmTransport(()).send(request, 60)))
    assert caught.value.retry_after_s == asked_s


@pytest.mark.parametrize("kind", [*WHOLE, *ODD])
def test_what_an_odd_reply_becomes(service: Scheduled, address: str, kind: str) -> None:
    service.schedule = lambda n: None
    plain = ask(address)
    service.schedule = lambda n: kind
    response = ask(address)
    assert response.finish_reason == ODD.get(kind, "stop")
    assert (response.usage is None) == (kind == "no-usage")
    assert (response.text == "") == (kind in ODD)
    if kind in ("drip", "wrong-type"):
        assert (response.text, response.usage) == (plain.text, plain.usage)


# The command ---------------------------------------------------------------------------------------


def evaluate(run: Runner, address: str, folder: str, *more: object) -> tuple[int, dict[str, Any], str]:
    """Return the status of `promptopt evaluate`, what it found, and what it said."""
    words = ["evaluate", SUPPORT, "--data", "support", "--model", "openai/sim", "--api-base", address]
    words += ["--set-model", "task.timeout_s=6", "--examples", N, "--split", "all", "--seed", 3]
    done = run(*words, "--out", folder, "--json", *more)
    found = json.loads(done.out)
    for key in ("duration_s", "out", "paid_calls", "reason"):
        del found[key]
    return done.status, found, done.err


def attempts(folder: str) -> Counter[str]:
    with at_end(sqlite3.connect(Path(folder) / "journal.db")) as db:
        return Counter(outcome for (outcome,) in db.execute("SELECT outcome FROM attempts"))


def test_a_command_gets_through_every_fault_that_passes(run: Runner, service: Scheduled, address: str) -> None:
    service.schedule = lambda n: None
    status, expected, _ = evaluate(run, address, "plain")
    assert status == 0
    kinds, start = [*PASSING, "drip", "wrong-type"], service.n_asked
    service.schedule = lambda n: kinds[n - start - 1] if n - start <= len(kinds) else None
    status, found, said = evaluate(run, address, "faulty")
    assert (status, found) == (0, expected)
    assert "Traceback" not in said
    assert attempts("faulty") == Counter(kind.__name__ for kind in PASSING.values()) + Counter(ok=N)
    assert service.n_asked - start == N + len(PASSING)


@pytest.mark.parametrize("kind", LASTING)
def test_a_command_ends_early_where_no_call_can_succeed_and_goes_on_once_mended(
    run: Runner, service: Scheduled, address: str, kind: str
) -> None:
    service.schedule, start = lambda n: kind, service.n_asked
    status, found, said = evaluate(run, address, "run")
    assert (status, found["status"]) == (1, "failed")
    assert "Traceback" not in said
    assert (
        service.n_asked - start <= 36
    )  # 16 are in flight; it takes 20 refusals to tell that no prompt is to blame
    service.schedule, n_failed = lambda n: None, service.n_asked - start
    mended = evaluate(run, address, "run")[1]
    assert service.n_asked - start == n_failed + N
    assert mended == evaluate(run, address, "plain")[1]


@pytest.mark.parametrize("kind", [*ODD, "no-usage"])
def test_a_command_neither_repeats_nor_loses_an_odd_reply(
    run: Runner, service: Scheduled, address: str, kind: str
) -> None:
    start = service.n_asked
    service.schedule = lambda n: kind if (n - start) % 5 == 0 else None
    status, found, _ = evaluate(run, address, "run")
    assert status == 0
    assert service.n_asked - start == N == found["spend"]["calls"]
    assert found["missing"] == 0
    assert found["unparsed"] >= N // 5
    assert evaluate(run, address, "run")[1] == found
    assert service.n_asked - start == N
