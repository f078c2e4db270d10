"""Golden trajectories: a change of behaviour becomes a change of these lines, to be explained in its commit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted import Scripted, make_run, model

from promptopt.config import Settings
from promptopt.promptfile import parse
from promptopt.types import Budget

GOLDEN = {
    ("capo", 1, 200): ("b543a190", 7, 186),
    ("capo", 2, 400): ("59af4c3d", 19, 400),
    ("random", 1, 200): ("1f8d90ce", 6, 188),
    ("random", 2, 400): ("79fb02af", 16, 398),
}


@pytest.mark.parametrize(("name", "seed", "calls"), list(GOLDEN))
def test_trajectory(tmp_path: Path, name: str, seed: int, calls: int) -> None:
    settings = Settings(model="sim", optimizer=name, seed=seed, budget=Budget(calls=calls))
    result = asyncio.run(make_run(tmp_path, Scripted(model), settings=settings).execute())
    found = (parse(result.best.prompt).prompt.id[:8], result.proposals["tried"], result.spend.calls)
    assert found == GOLDEN[name, seed, calls]
