"""Root studies of runs whose models a test chooses, and the same run started anew from its journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from scripted import LABELS, Scripted, make_study

from promptopt.asking import RunState
from promptopt.gateway import Gateway, RetryPolicy
from promptopt.ledger import Lease, limit_of
from promptopt.providers import ModelSpec
from promptopt.study import SearchSize, Study
from promptopt.task import Task
from promptopt.types import Candidate, Prompt, Request, Response, Role

TASK = ModelSpec("sim", top_logprobs=20)
JUDGE = ModelSpec("sim", temperature=0.3)
Tokens = list[tuple[str, float]] | None


@dataclass
class Reporting(Scripted):
    """A transport that also reports the tokens of an answer, where it is asked for them."""

    tokens: Callable[[Request], Tokens] = lambda request: None

    def respond(self, request: Request) -> Response:
        found = self.tokens(request) if request.top_logprobs else None
        return replace(super().respond(request), logprobs=None if found is None else tuple(found))


def drive(*works: Awaitable[Any]) -> Any:
    """Return the result of `works`, one after the other in one event loop; of several, a list."""

    async def run() -> list[Any]:
        async with asyncio.timeout(20):
            return [await work for work in works]

    results = asyncio.run(run())
    return results if len(works) > 1 else results[0]


def start(
    transport: Scripted,
    *,
    task: Task | None = None,
    n_calls: int = 10**6,
    model: ModelSpec = TASK,
    **models: ModelSpec,
) -> tuple[Study, RunState]:
    """Return a root study with `model` as task model, an optimizer model and the named others, and its state."""
    study, state = make_study(transport, n_calls=n_calls)
    state.task = task or state.task
    state.models = {"task": model, "optimizer": state.models["optimizer"], **models}  # type: ignore[dict-item]
    state.gateway = gateway_of(state, transport)
    return study, state


def again(state: RunState, transport: Scripted) -> Study:
    """Return the root study of the same run started anew, with its journal in hand."""
    fixed = {name: getattr(state, name) for name in ("task", "models", "journal", "gate", "seed", "limits")}
    anew = RunState(gateway=gateway_of(state, transport), **fixed)
    return Study(anew, Lease(limit_of(None, 10**6, None)), SearchSize(10**6))


def gateway_of(state: RunState, transport: Scripted) -> Gateway:
    """Return a gateway that tries every call once."""
    return Gateway(state.journal, {"sim": transport}, retry=RetryPolicy(n_attempts=1))


def calls_of(state: RunState, role: Role) -> int:
    """Return the answers that the search has used of a role."""
    tally = state.tallies.get((role, "search"))
    return tally.calls if tally else 0


def colours(n: int) -> list[Candidate]:
    """Return prompts that a model tells apart."""
    return [Candidate(Prompt(f"Name the colour {i}.")) for i in range(n)]


def number(request: Request) -> int:
    """Return the number of the item that is asked about."""
    return int(request.messages[-1].content.split()[-1])


def right(request: Request) -> str:
    """Answer right."""
    return LABELS[number(request) % 3]
