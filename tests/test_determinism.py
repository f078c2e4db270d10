"""The same seed gives the same run: at any concurrency, latency, and wherever the budget ends."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, make_run, model

from promptopt.config import Settings
from promptopt.types import Budget, Request, Usage


def outcome(folder: Path) -> dict[str, Any]:
    """Return a result without what may differ between sessions: times, and what was live or not."""
    result = json.loads((folder / "result.json").read_text())
    for key in ("duration_s",):
        del result[key]
    for key in ("attempts", "lost_in_flight"):
        del result["spend"][key]
    del result["evaluations"]["cached"]
    return result


def run(folder: Path, *, concurrency: int, latency_seed: int | None, budget: Budget, name: str) -> dict[str, Any]:
    transport = Scripted(model, latency_seed=latency_seed)
    settings = Settings(model="sim", budget=budget, concurrency=concurrency, optimizer=name, seed=7)
    asyncio.run(make_run(folder, transport, settings=settings).execute())
    return outcome(folder)


@pytest.mark.parametrize("name", ["capo", "random"])
@pytest.mark.parametrize(
    "budget",
    [
        Budget(calls=150),
        Budget(calls=163),
        Budget(calls=211),
        Budget(tokens=320_000),
        Budget(usd=Decimal("0.41")),
        Budget(usd=Decimal("0.55"), calls=170),
    ],
    ids=["150 calls", "163 calls", "211 calls", "tokens", "usd", "usd and calls"],
)
def test_same_result_at_any_concurrency_and_latency(tmp_path: Path, name: str, budget: Budget) -> None:
    expected = run(tmp_path / "alone", concurrency=1, latency_seed=None, budget=budget, name=name)
    assert expected["status"] in ("budget_exhausted", "completed")
    for i, concurrency in enumerate((64, 2, 64, 16)):
        got = run(tmp_path / str(i), concurrency=concurrency, latency_seed=i, budget=budget, name=name)
        assert got == expected


@pytest.mark.parametrize("calls", range(150, 190, 3))
def test_budget_of_calls_ends_anywhere_with_one_winner(tmp_path: Path, calls: int) -> None:
    budget = Budget(calls=calls)
    expected = run(tmp_path / "alone", concurrency=1, latency_seed=None, budget=budget, name="capo")
    got = run(tmp_path / "many", concurrency=64, latency_seed=calls, budget=budget, name="capo")
    assert got == expected
    assert got["spend"]["calls"] <= calls


def varied_usage(request: Request) -> Usage:
    return Usage(10 + int(request.digest[:2], 16), 1 + int(request.digest[2:4], 16))


@pytest.mark.parametrize("latency_seed", range(6))
def test_varied_costs_never_exceed_any_limit(tmp_path: Path, latency_seed: int) -> None:
    class Varied(Scripted):
        async def send(self, request: Request, timeout_s: float) -> Any:
            response = await super().send(request, timeout_s)
            usage = varied_usage(request)
            cost = Decimal(usage.output_tokens) * Decimal("0.000002")
            return type(response)(response.text, usage, cost)

    limits = Budget(usd=Decimal("0.3"), tokens=400_000, calls=400)
    settings = Settings(model="sim", budget=limits, concurrency=32, optimizer="capo")
    transport = Varied(model, latency_seed=latency_seed)
    result = asyncio.run(make_run(tmp_path, transport, settings=settings).execute())
    assert result.spend.cost_usd is not None
    assert result.spend.cost_usd <= Decimal("0.3")
    assert result.spend.input_tokens + result.spend.output_tokens <= 400_000
    assert result.spend.calls <= 400
    assert len(transport.requests) == result.spend.calls
