"""Small comparisons for tests: tasks by name, a scripted model, and strategies that fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from scripted import Scripted, make_task, model

from promptopt.api import ReadTask
from promptopt.comparing import Comparing
from promptopt.comparison import CompareResult
from promptopt.comparison import lasting as lasting_comparison
from promptopt.config import Settings
from promptopt.gateway import RetryPolicy
from promptopt.grid import Asked
from promptopt.study import Study
from promptopt.task import Task
from promptopt.types import Budget, Candidate, Role

BROKEN = f"{__file__}:Broken"
SETTINGS = Settings("sim", budget=Budget(calls=170))
TASKS: Mapping[str, Task] = {
    "colours": make_task(),
    "shades": replace(make_task(n_dev=16, n_test=24), name="shades"),
}


@dataclass(frozen=True)
class Broken:
    """Asks a few answers, then has a fault."""

    source: ClassVar[str] = "tests"
    requires: ClassVar[frozenset[str]] = frozenset()
    when: ClassVar[str] = "never"
    usual_calls: ClassVar[str] = "few"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType({})

    def minimum_calls(self) -> int:
        """Return a number that any budget affords."""
        return 1

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role."""
        return {"task": 3}

    async def optimize(self, study: Study) -> Candidate:
        """Raise after three answers."""
        await study.evaluate([study.initial], study.task.dev[:3])
        raise ZeroDivisionError("division by zero\x1b[31m")


def read(source: str, seed: int, needs_labels: bool | None) -> ReadTask:
    """Return a task of `TASKS`, or one without labels if its name ends in `-bare`."""
    name = source.removesuffix("-bare")
    task = replace(TASKS[name], name=source)
    return ReadTask(task.without_targets() if name != source else task, (), "", {})


def comparing(
    folder: Path | None,
    transport: Scripted,
    optimizers: Sequence[str] = ("capo", "random"),
    data: Sequence[str] = ("colours",),
    seeds: Sequence[int] = (0, 1),
    settings: Settings = SETTINGS,
    **asked: Any,
) -> Comparing:
    """Return a comparison whose calls all go to `transport`."""
    grid = Asked(tuple(data), tuple(optimizers), tuple(seeds), settings, **asked)
    return Comparing(grid, read, out=folder, transports={"": transport}, retry=RetryPolicy(1, 0, 0))


def execute(folder: Path | None, transport: Scripted | None = None, *args: Any, **kwargs: Any) -> CompareResult:
    """Run a comparison to its end."""
    return asyncio.run(comparing(folder, transport or Scripted(model), *args, **kwargs).execute())


def lasting(folder: Path) -> dict[str, Any]:
    """Return what compare.json must hold again, whatever session wrote it."""
    return lasting_comparison(json.loads((folder / "compare.json").read_text(encoding="utf-8")))


def asked_of(transport: Scripted) -> list[str]:
    """Return the digests of all requests that were sent."""
    return [request.digest for request in transport.requests]
