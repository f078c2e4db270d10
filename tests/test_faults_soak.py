"""Every strategy over HTTP and through litellm, while a fifth of the calls fails in every way; for `make soak`."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from faults import MOST_ATTEMPTS, PASSING, SHARE, STRATEGIES, TASK
from faulty_server import Scheduled, serving

from promptopt.config import Settings
from promptopt.plan import Plan, make_plan
from promptopt.providers import LitellmTransport, closing
from promptopt.result import Result
from promptopt.run import Run
from promptopt.testing.trial import outcome
from promptopt.types import Budget, Request, Response, digest

pytestmark = pytest.mark.soak

# Refusals at random are taken for a limit and slow a run down (docs/benchmarks.md), hence they are rare here.
LIMITS = ("429", "429-bare")
KINDS = (*LIMITS, *5 * tuple(kind for kind in (*PASSING, "drip", "wrong-type") if kind not in LIMITS))
CALLS = 1100


@dataclass
class Seeded:
    """litellm's transport that sends a sampled call's place as its seed, so that no order of arrival counts."""

    inner: LitellmTransport

    async def send(self, request: Request, timeout_s: float) -> Response:
        seed = (("seed", str(int(digest(request.sample)[:8], 16))),) if request.sample else ()
        return await self.inner.send(replace(request, options=seed), timeout_s)


def plan_of(optimizer: str, folder: Path, address: str) -> Plan:
    options = {"n_rounds": "none"} if optimizer == "spo" else {}
    settings = Settings("openai/sim", optimizer=optimizer, options=options, budget=Budget(calls=CALLS), out=folder)
    plan = make_plan(TASK, replace(settings, api_base=address, concurrency=32, proof_examples=8))
    return replace(plan, models={role: replace(spec, timeout_s=4) for role, spec in plan.models.items()})


def execute(optimizer: str, folder: Path, service: Scheduled) -> tuple[Result, float]:
    started = time.monotonic()
    with serving(service) as address:

        async def main() -> Result:
            plan = plan_of(optimizer, folder, address)
            transport = Seeded(LitellmTransport(tuple(plan.models.values())))
            async with asyncio.timeout(900):
                return await Run(plan, transports={"": transport}).execute()

        return asyncio.run(closing(main())), time.monotonic() - started


@pytest.mark.parametrize("optimizer", STRATEGIES)
def test_a_fifth_of_the_calls_that_fails_over_http_changes_no_result(tmp_path: Path, optimizer: str) -> None:
    examples = (*TASK.train, *TASK.dev, *TASK.test)
    flawless, usual_s = execute(optimizer, tmp_path / "flawless", Scheduled(examples=examples))
    draw = random.Random(optimizer)
    faulty = Scheduled(lambda n: draw.choice(KINDS) if draw.random() < SHARE else None, examples)
    result, seconds = execute(optimizer, tmp_path / "faulty", faulty)
    expected, found = outcome(tmp_path / "flawless"), outcome(tmp_path / "faulty")
    for one in (expected, found):  # the addresses differ by their port
        one.pop("models")
    ratio = result.spend.attempts / result.spend.calls
    sys.stdout.write(
        f"{optimizer}: {result.spend.calls} calls, {ratio:.3f} attempts each, {usual_s:.0f} s, {seconds:.0f} s\n"
    )
    assert found == expected
    assert flawless.spend.attempts == flawless.spend.calls
    assert result.spend.attempts == faulty.n_asked
    assert ratio <= MOST_ATTEMPTS
