"""The same seed gives the same run wherever a budget of calls ends; tests/test_contract.py has other limits."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, make_run, model

from promptopt.config import Settings
from promptopt.testing import outcome
from promptopt.types import Budget, Request, Usage


def run(folder: Path, *, concurrency: int, latency_seed: int | None, budget: Budget) -> dict[str, Any]:
    transport = Scripted(model, latency_seed=latency_seed)
    settings = Settings(model="sim", budget=budget, concurrency=concurrency, optimizer="capo", seed=7)
    asyncio.run(make_run(folder, transport, settings=settings).execute())
    return outcome(folder)


@pytest.mark.parametrize("calls", range(150, 190, 3))
def test_budget_of_calls_ends_anywhere_with_one_winner(tmp_path: Path, calls: int) -> None:
    budget = Budget(calls=calls)
    expected = run(tmp_path / "alone", concurrency=1, latency_seed=None, budget=budget)
    got = run(tmp_path / "many", concurrency=64, latency_seed=calls, budget=budget)
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
