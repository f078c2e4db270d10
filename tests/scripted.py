"""A transport whose replies a test writes, and small tasks for it; see also promptopt.testing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from promptopt.asking import RunState
from promptopt.config import Settings
from promptopt.journal import Journal
from promptopt.ledger import Lease, limit_of
from promptopt.plan import Plan, make_plan
from promptopt.run import Run
from promptopt.study import SearchSize, Study
from promptopt.task import Task
from promptopt.tasks.metrics import load
from promptopt.testing import Recorder
from promptopt.types import Budget, Example, Prompt, Request, Response, Usage, digest

LABELS = ("red", "green", "blue")
STRATEGIES = Path(__file__).parent.parent / "docs" / "strategies.md"


@dataclass
class Scripted(Recorder):
    """A transport that answers by a function of the request."""

    reply: Callable[[Request], str]
    usage: Usage | None = field(default_factory=lambda: Usage(10, 5))
    cost_usd: Decimal | None = Decimal("0.001")

    def respond(self, request: Request) -> Response:
        return Response(self.reply(request), self.usage, self.cost_usd)


def noise(*parts: object) -> float:
    """Return a number in [0, 1) that depends on `parts` only."""
    return int(digest(*map(str, parts))[:8], 16) / 2**32


def model(request: Request) -> str:
    """Answer like a model whose accuracy depends on the prompt; write prompts if asked to."""
    system = "".join(m.content for m in request.messages[:-1])
    last = request.messages[-1].content
    if "</prompt>" in last:
        return f"<prompt>Name the colour, variant {request.sample and noise(request.sample):.6f}.</prompt>"
    right = LABELS[int(last.split()[-1]) % 3]
    skill = 0.35 + 0.5 * noise("skill", system)
    return right if noise("cell", system, last) < skill else "no idea"


def make_task(n_train: int = 12, n_dev: int = 20, n_test: int = 20) -> Task:
    """Return a task of colours: item i has the label i modulo 3."""

    def rows(split: str, n: int, start: int) -> tuple[Example, ...]:
        return tuple(
            Example(f"{split}-{i}", {"input": f"item number {i}"}, LABELS[i % 3]) for i in range(start, start + n)
        )

    splits = (rows("train", n_train, 0), rows("dev", n_dev, 100), rows("test", n_test, 200))
    return Task("colours", load("label", LABELS), *splits, initial=Prompt("Name the colour."))


def make_run(
    folder: Path | None, transport: Scripted, *, task: Task | None = None, settings: Settings | None = None
) -> Run:
    """Return a run of the simulator's name whose calls go to `transport`."""
    settings = settings or Settings(model="sim")
    plan: Plan = make_plan(task or make_task(), settings_in(settings, folder))
    return Run(plan, transports={"sim": transport})


def settings_in(settings: Settings, folder: Path | None) -> Settings:
    return replace(settings, out=folder)


def make_study(
    transport: Scripted, *, task: Task | None = None, n_calls: int = 10**6, seed: int = 0
) -> tuple[Study, RunState]:
    """Return the root study of a run that journals in memory, and its state."""
    settings = Settings(model="sim", budget=Budget(calls=10**6), proof_examples=0, seed=seed)
    plan = make_plan(task or make_task(), settings)
    state = Run(plan, transports={"sim": transport})._make_state(Journal(None))
    return Study(state, Lease(limit_of(None, n_calls, None)), SearchSize(n_calls)), state


def documented_strategy() -> str:
    """Return the source of the strategy that docs/strategies.md shows, `Climb`."""
    text = STRATEGIES.read_text(encoding="utf-8")
    found = re.search(r"## A whole strategy\n+```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found.group(1)
