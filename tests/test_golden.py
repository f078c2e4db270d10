"""Golden trajectories: a change of behaviour becomes a change of these lines, to be explained in its commit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted import Scripted, make_run, model

from promptopt.config import Settings
from promptopt.plan import make_plan
from promptopt.promptfile import parse
from promptopt.run import Run
from promptopt.task import Task
from promptopt.tasks import synthetic
from promptopt.tasks.metrics import load
from promptopt.types import Budget, Prompt

GOLDEN = {
    ("capo", 1, 200): ("a05860c9", 7, 200),
    ("capo", 2, 400): ("7c4ff8e9", 19, 400),
    ("random", 1, 200): ("1f8d90ce", 6, 188),
    ("random", 2, 400): ("79fb02af", 16, 398),
}
# With the simulator, for what scripted replies cannot play. No clusters: k-means may round otherwise elsewhere.
SIMULATED = {
    "reflect": ({}, ("2abc849b", 14, 495)),
    "promptagent": ({}, ("dd5dff31", 18, 469)),
    "spo": ({}, ("ecd4b810", 9, 96)),
    "promptquine": ({}, ("24a533b0", 16, 467)),
    "tapruning": ({}, ("309cd5e0", 16, 477)),
    "claps": ({"clusters": "false"}, ("ecd4b810", 3, 496)),
}


@pytest.mark.parametrize(("name", "seed", "calls"), list(GOLDEN))
def test_trajectory(tmp_path: Path, name: str, seed: int, calls: int) -> None:
    settings = Settings(model="sim", optimizer=name, seed=seed, budget=Budget(calls=calls))
    result = asyncio.run(make_run(tmp_path, Scripted(model), settings=settings).execute())
    found = (parse(result.best.prompt).prompt.id[:8], result.proposals["tried"], result.spend.calls)
    assert found == GOLDEN[name, seed, calls]


@pytest.mark.parametrize("name", list(SIMULATED))
def test_simulated_trajectory(tmp_path: Path, name: str) -> None:
    options, golden = SIMULATED[name]
    train, dev, test = synthetic.synthetic_task("label", seed=1, n_test=20)
    metric = load("label", [example.target for example in (*train, *dev)])
    task = Task("label", metric, train, dev, test, initial=Prompt(synthetic.INITIAL_PROMPTS["label"]))
    budget = Budget(calls=500)
    settings = Settings(
        model="sim", optimizer=name, options=options, seed=1, budget=budget, proof_examples=0, out=tmp_path
    )
    result = asyncio.run(Run(make_plan(task, settings)).execute())
    found = (parse(result.best.prompt).prompt.id[:8], result.proposals["tried"], result.spend.calls)
    assert found == golden
