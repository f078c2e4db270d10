"""Runs of every strategy against models of which a seeded share of the calls fails, in no time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clock import run as run_on_a_jumping_clock

from promptopt import errors, registry
from promptopt.config import Settings
from promptopt.plan import Plan, make_plan
from promptopt.result import Result
from promptopt.run import Run
from promptopt.simulator import LANDSCAPES, Simulator
from promptopt.testing.material import label_task
from promptopt.testing.trial import time_limit
from promptopt.types import Budget, Request, Response, digest

SHARE = 0.2
MOST_ATTEMPTS = 1.3  # attempts for each answer; 1 / (1 - SHARE) is 1.25
TASK = label_task()
STRATEGIES = registry.optimizer_names()
# What promptopt's own transport raises for each kind of fault that passes; shown by tests/test_faults_http.py.
PASSING: Mapping[str, type[errors.TransientError]] = {
    **dict.fromkeys(
        ("500", "503", "drop", "bad-json", "html", "empty-choices", "error-in-200"), errors.ServerFailed
    ),
    **{"429": errors.RateLimited, "429-bare": errors.RateLimited},
    **{"hang": errors.CallTimedOut, "endless-drip": errors.CallTimedOut},
}
# Replies that are answers all the same, or become so.
WHOLE = ("drip", "wrong-type", "no-usage")
# What ends a run, and what is said of each call.
LASTING: Mapping[str, type[errors.ProviderError]] = {
    **dict.fromkeys(("401", "403", "404", "quota"), errors.RunRefused),
    **{"400": errors.CallRefused, "too-long": errors.ContextTooLong},
    "content-filter-400": errors.ContentRefused,
}


def error_of(kind: str) -> Exception:
    """Return what the transport raises for a kind of fault."""
    if kind in ("429", "429-bare"):
        return errors.RateLimited("simulated fault", 1.0 if kind == "429" else None)
    return {**PASSING, **LASTING, "refused": errors.ConnectionLost}[kind]("simulated fault")


@dataclass
class Faulty:
    """The simulator in every role; of each ten attempts a seeded choice fails, so that the share is exact.

    Args:
        kinds: of failure, equally likely; () = none.
        n_good: attempts before the first that may fail.
        odd: what becomes of a share of the answers, by the request alone.
        n_sent: attempts that arrived here.
    """

    kinds: tuple[str, ...] = ()
    share: float = SHARE
    n_good: int = 0
    odd: Callable[[Response], Response] = lambda response: response
    n_sent: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._simulator = Simulator(LANDSCAPES["default"])
        self._simulator.learn((*TASK.train, *TASK.dev, *TASK.test))

    async def send(self, request: Request, timeout_s: float) -> Response:
        self.n_sent += 1
        self.attempts[request.digest] += 1
        ten, place = divmod(self.n_sent, 10)
        failing = random.Random(digest(str(ten), *self.kinds)).sample(range(10), round(10 * self.share))
        if self.kinds and self.n_sent > self.n_good and place in failing:
            kind = random.Random(digest(request.digest, str(self.attempts[request.digest]))).choice(self.kinds)
            self.failed[kind] += 1
            await self._fail(kind)
        await asyncio.sleep(0)
        answer = self._simulator.complete(request)
        return self.odd(answer) if random.Random(request.digest).random() < SHARE else answer

    async def _fail(self, kind: str) -> None:
        if kind in ("hang", "endless-drip"):
            await asyncio.Event().wait()
        if kind == "drip":
            await asyncio.sleep(1)
        elif kind not in WHOLE:
            raise error_of(kind)


def plan_of(optimizer: str, folder: Path, calls: int) -> Plan:
    """Return the plan of a run whose models stand behind one address, and so are paced."""
    options = {"n_rounds": "none"} if optimizer == "spo" else {}  # else it ends after a hundred calls
    settings = Settings("sim", optimizer=optimizer, options=options, budget=Budget(calls=calls), out=folder)
    plan = make_plan(TASK, replace(settings, max_tokens=256, proof_examples=8))
    paced = {
        role: replace(spec, name=f"m:{role}", api_base="http://127.0.0.1:1/v1", timeout_s=5.0)
        for role, spec in plan.models.items()
    }
    return replace(plan, models=paced)


def execute(plan: Plan, transport: Any, within_s: float = 60) -> Result:
    """Run a plan on a clock that jumps over all waiting."""
    run = Run(plan, transports={"": transport})
    with time_limit(within_s):
        result: Result = run_on_a_jumping_clock(run.execute())
    return result
