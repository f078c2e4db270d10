"""Runs one strategy of ours on a world within a budget, and measures the prompt that its search returns."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
from worlds import WORLDS, RoughTransport

from promptopt import registry
from promptopt.config import Settings
from promptopt.demonstration import demonstrate, plain_output
from promptopt.plan import make_plan
from promptopt.promptfile import parse
from promptopt.providers import ModelSpec, SimulatorTransport, find_model
from promptopt.run import Run
from promptopt.simulator import Simulator
from promptopt.task import Task
from promptopt.tasks import synthetic
from promptopt.tasks.metrics import load
from promptopt.types import Budget, Prompt

UNSEARCHED = ("initial", "random-demos", "reachable")
N_SHOTS = 4
_TASK_MODEL = find_model("sim", "task")
_WRITER = "sim:reasoning"  # a second name, so that the optimizer model can have a transport of its own


@dataclass(frozen=True)
class Cell:
    """One run of one strategy, its options behind an @: `spo@n_votes=2,n_gate=0`.

    Args:
        landscape: name of a world.
        budget: answers of all roles, or of the task model.
    """

    landscape: str
    seed: int
    budget: int
    optimizer: str


class Usage(NamedTuple):
    """What a model's answers took: their number, and tokens."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Measured:
    """What a run of a strategy found and took.

    Args:
        score: mean test score of the prompt that the search returned.
        seconds: of the search; answers on test are counted nowhere.
        usage: by role.
    """

    cell: Cell
    score: float
    seconds: float
    usage: Mapping[str, Usage]

    @property
    def task_calls(self) -> int:
        """Answers of the task model."""
        return self.usage.get("task", Usage()).calls


def make_task(kind: str, seed: int, n_test: int = 500) -> Task:
    """Return a synthetic task of 100 train, 100 dev and `n_test` test examples."""
    train, dev, test = synthetic.synthetic_task(kind, seed=seed, n_test=n_test)
    metric = load(kind, [example.target for example in (*train, *dev, *test)])
    return Task(
        f"{kind}-{seed}",
        metric,
        train,
        dev,
        test,
        initial=Prompt(synthetic.INITIAL_PROMPTS[kind]),
        description=synthetic.DESCRIPTIONS[kind],
    )


def with_random_demos(task: Task, seed: int) -> Prompt:
    """Return the initial prompt with four random train examples and their targets."""
    rows = random.Random(seed).sample(task.train, N_SHOTS)
    demos = (demonstrate(task, e, plain_output(task.initial.instruction, e)) for e in rows)
    return replace(task.initial, demos=tuple(demos))


def variant(name: str) -> tuple[str, dict[str, str]]:
    """Return the strategy and the options of a name such as `spo@n_votes=2,n_gate=0`."""
    optimizer, _, given = name.partition("@")
    return optimizer, dict(pair.split("=", 1) for pair in given.split(",") if pair)


def score(simulator: Simulator, spec: ModelSpec, task: Task, prompt: Prompt) -> float:
    """Return the mean test score of a prompt, asked outside any budget."""
    replies = (simulator.complete(spec.request(task.render(prompt, example))).text for example in task.test)
    scores = [task.metric.score(reply, e).value for reply, e in zip(replies, task.test, strict=True)]
    return mean(scores)


@dataclass(frozen=True)
class _Found:
    """What a search returned, and took; its prompt is not scored yet."""

    simulator: Simulator
    task: Task
    prompt: Prompt
    seconds: float = 0.0
    usage: Mapping[str, Usage] = field(default_factory=dict)

    def measured(self, cell: Cell) -> Measured:
        """Return the row of `cell`, with the prompt's test score."""
        return Measured(cell, score(self.simulator, _TASK_MODEL, self.task, self.prompt), self.seconds, self.usage)


def measure(cell: Cell, options: Mapping[str, Mapping[str, str]], kinds: Sequence[str] | None = None) -> Measured:
    """Run one strategy, with its options, within a budget of calls of all roles.

    Args:
        kinds: of data, in turn by seed; None = the world's.
    """
    task, simulator = _field(cell, kinds)
    if cell.optimizer not in UNSEARCHED:
        return _search(cell, options, task, simulator).measured(cell)
    if cell.optimizer == "reachable":
        return Measured(cell, simulator.best_reachable(task.test), 0.0, {})
    prompt = task.initial if cell.optimizer == "initial" else with_random_demos(task, cell.seed)
    return _Found(simulator, task, prompt).measured(cell)


def _field(cell: Cell, kinds: Sequence[str] | None = None) -> tuple[Task, Simulator]:
    world = WORLDS[cell.landscape]
    kinds = kinds or world.kinds
    task = make_task(kinds[cell.seed % len(kinds)], cell.seed)
    return task, world.simulator(task, cell.seed)


def _search(cell: Cell, options: Mapping[str, Mapping[str, str]], task: Task, simulator: Simulator) -> _Found:
    folder = Path(tempfile.mkdtemp(prefix="promptopt-bench-"))
    optimizer, given = variant(cell.optimizer)
    settings = Settings(
        model="sim",
        optimizer_model=_WRITER if WORLDS[cell.landscape].is_rough else None,
        optimizer=optimizer,
        options={**options.get(optimizer, {}), **given},
        budget=Budget(calls=cell.budget),
        proof_examples=0,
        seed=cell.seed,
        out=folder,
    )
    transports = {
        "sim": SimulatorTransport(simulator, _TASK_MODEL),
        _WRITER: RoughTransport(simulator, _TASK_MODEL),
    }
    run = Run(make_plan(task, settings), transports=transports)
    started = time.perf_counter()
    result = asyncio.run(run.execute())
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    assert result.spend.calls <= cell.budget
    usage = {
        role: Usage(spent.calls, spent.input_tokens, spent.output_tokens)
        for role, spent in result.spend.by_role.items()
    }
    return _Found(simulator, task, parse(result.best.prompt).prompt, seconds, usage)


def measure_at(cell: Cell, options: Mapping[str, Mapping[str, str]]) -> Measured:
    """Run one strategy within `cell.budget` answers of the task model; those of other roles are not limited.

    A run's budget counts all roles. So it is sought by a few trial runs such that the task model gives at most the
    answers wanted, and at least 97 of 100 of them where the strategy uses what it is given.
    """
    optimizer, given = variant(cell.optimizer)
    strategy = registry.make_optimizer(optimizer, {**options.get(optimizer, {}), **given})[1]
    n_calls = max(strategy.minimum_calls(), _calls_for(strategy, cell.budget))
    task, simulator = _field(cell)  # its replies hang on requests alone, so that all trials can share it
    found, most, least = None, 0, 0
    for _ in range(6):
        trial = _search(replace(cell, budget=n_calls), options, task, simulator)
        n_task = trial.usage.get("task", Usage()).calls
        if n_task <= cell.budget and (found is None or n_task > most):
            found, most = trial, n_task
        if not n_task or 0.97 * cell.budget <= n_task <= cell.budget:
            break
        n_used = sum(used.calls for used in trial.usage.values())
        if n_task <= cell.budget and n_used < 0.95 * n_calls:  # it ended by itself
            break
        least = max(least, n_calls if n_task <= cell.budget else 0)
        n_calls = max(least + 1, round(n_calls * 0.985 * cell.budget / n_task))
    if found is None:
        raise ValueError(f"{cell}: no budget of all roles brings the task model to at most {cell.budget} answers")
    return found.measured(cell)


def _calls_for(strategy: registry.Optimizer, n_answers: int) -> int:
    """Return the calls of all roles of which the strategy expects the task model to give so many."""
    n_calls = n_answers
    for _ in range(20):
        share = strategy.forecast(n_calls).get("task", 0) / n_calls
        n_calls = round(n_answers / max(0.1, share))
    return n_calls


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95% interval of paired differences (normal approximation over all pairs)."""
    d = np.asarray(differences)
    half = 1.96 * d.std(ddof=1) / np.sqrt(len(d))
    return float(d.mean()), float(d.mean() - half), float(d.mean() + half)
