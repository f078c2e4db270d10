"""Kill a run with SIGKILL at random moments: it goes on, ends identically, and pays twice for what was in flight.

The short form runs here; `make soak` kills a hundred times and more, through the command line and litellm.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import crash_program
import pytest
from commandline import SUPPORT
from counting import Counting, counted
from crash_program import CONCURRENCY, support
from served import COMMAND

from promptopt import registry
from promptopt.testing import outcome
from promptopt.types import Example

STRATEGIES = sorted(registry.BUILT_IN)
LONG_KILLS = 13  # of each strategy
_PATIENCE_S = 120.0


def examples() -> tuple[Example, ...]:
    task = support()
    return (*task.train, *task.dev, *task.test)


def n_calls(name: str) -> int:
    """Return a budget that affords a strategy some steps, and a proof."""
    return registry.make_optimizer(name, {})[1].minimum_calls() + 120


def program(folder: Path, service: Counting, name: str) -> list[str]:
    """Return the command of a run whose calls go straight to the server."""
    place = Path(crash_program.__file__)
    return [sys.executable, str(place), str(folder), service.address, name, str(n_calls(name))]


def command(folder: Path, service: Counting, name: str) -> list[str]:
    """Return the command that a user types; its calls go through litellm."""
    words = ["--data", "support", "--model", "openai/sim", "--api-base", service.address, "--optimizer", name]
    budget = ["--budget-calls", n_calls(name), "--proof-examples", 10, "--concurrency", CONCURRENCY]
    return [str(word) for word in (COMMAND, "optimize", SUPPORT, *words, *budget, "--out", folder, "--quiet")]


@dataclass(frozen=True)
class Ended:
    """A run that ended, after `n_kills` kills.

    Args:
        asked: how often the endpoint got each request.
    """

    folder: Path
    asked: Counter[str]
    n_kills: int


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    env = {**os.environ, "OPENAI_API_KEY": "none"}
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


def run_killed(words: Sequence[str], folder: Path, service: Counting, moments: Sequence[int]) -> Ended:
    """Run to the end, killed as soon as the endpoint has got so many requests, for each number in `moments`."""
    service.asked = Counter()
    n_kills = 0
    for moment in (*moments, None):
        process, deadline = start(words), time.monotonic() + _PATIENCE_S
        try:
            while process.poll() is None and (moment is None or service.n_asked < moment):
                assert time.monotonic() < deadline, f"{words} does not end"
                time.sleep(0.001)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                n_kills += 1
        finally:
            process.kill()
            said = process.communicate(timeout=20)[1]
        if process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(f"status {process.returncode}: {said[-2000:]}")
        if process.returncode == 0:
            break
    return Ended(folder, service.asked, n_kills)


def check_killed(whole: Ended, killed: Ended) -> None:
    """Assert that a killed run ended as the uninterrupted one, and paid twice for calls in flight alone."""
    assert outcome(killed.folder) == outcome(whole.folder)
    assert (killed.folder / "best.md").read_bytes() == (whole.folder / "best.md").read_bytes()
    assert whole.asked - killed.asked == Counter(), "every request was made"
    n_twice = (killed.asked - whole.asked).total()
    lost = json.loads((killed.folder / "result.json").read_text())["spend"]["lost_in_flight"]
    assert n_twice <= lost <= CONCURRENCY * killed.n_kills


def moments_of(seed: str, n_asked: int, n: int) -> list[int]:
    """Return at how many requests to kill, drawn by seed, in order."""
    return sorted(random.Random(seed).sample(range(1, n_asked), n))


@pytest.mark.parametrize("name", STRATEGIES)
def test_killed_at_random_it_ends_identically(tmp_path: Path, name: str) -> None:
    with counted(examples()) as service:
        asyncio.run(crash_program.execute(tmp_path / "whole", service.address, name, n_calls(name)))
        whole = Ended(tmp_path / "whole", service.asked, 0)
        folder = tmp_path / "killed"
        n_kills = 1 if name == "claps" else 2  # whose own work takes seconds
        killed = run_killed(
            program(folder, service, name), folder, service, moments_of(name, service.n_asked, n_kills)
        )
    assert killed.n_kills == n_kills
    check_killed(whole, killed)


def test_the_command_killed_ends_identically(tmp_path: Path) -> None:
    check_command(tmp_path, "reflect", 1)


@pytest.mark.soak
@pytest.mark.parametrize("name", STRATEGIES)
def test_killed_again_and_again_the_command_ends_identically(tmp_path: Path, name: str) -> None:
    check_command(tmp_path, name, LONG_KILLS)


def check_command(folder: Path, name: str, n_kills: int) -> None:
    """Assert that the command line, killed so often, ends as if it had not been."""
    with counted(examples()) as service:
        whole = run_killed(command(folder / "whole", service, name), folder / "whole", service, ())
        moments = moments_of(f"long {name}", whole.asked.total(), n_kills)
        killed = run_killed(command(folder / "killed", service, name), folder / "killed", service, moments)
    assert killed.n_kills == n_kills
    check_killed(whole, killed)
