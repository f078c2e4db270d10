"""What the rules of a race spend and lose, on simulated score tables and on those of runs: docs/racing.md.

    python benchmarks/races.py                # all tables; a quarter of an hour on one core
    python benchmarks/races.py --tables 50    # the same with fewer tables

Simulated tables: the score of arm k on item i is 1 with probability 1 / (1 + e^-(s_k - d_i + v_ki)), skill
s_k as the field says, difficulty d_i ~ N(0, 2.5), interaction v_ki ~ N(0, 1): all arms find the same items hard.
Graded: the mean of five such draws. `ahead G`: one arm whose expected score is G points above that of all others,
which are equal. Tables of runs: every prompt that a strategy tried on a frozen landscape, scored on all of dev.

Lost: the race keeps an arm that is more than two points worse on the whole table than the best one. Several arms
wanted: the r-th best of those kept is that much worse than the r-th best of all, for any r.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from landscapes import NAMES
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from search import make_task
from worlds import WORLDS

from promptopt.config import Settings
from promptopt.journal import Journal
from promptopt.plan import make_plan
from promptopt.providers import SimulatorTransport, find_model
from promptopt.run import Run
from promptopt.stats import Betting, Halving, PairedT, Predictive, Rule, simulate_race, wilson_interval
from promptopt.types import Budget

Table = NDArray[np.float64]
POINTS = 0.02  # a loss that counts
DIFFICULTY, INTERACTION = 2.5, 1.0
SIZES = ((5, 60), (10, 100), (20, 200), (64, 500))
FIELDS = ("spread", "close", "equal", "ahead 2", "ahead 5", "ahead 10", "ahead 20", "graded")
ONE: dict[str, Rule] = {
    "Predictive()": Predictive(),
    "Predictive(.1)": Predictive(0.1),
    "Betting()": Betting(),
    "Betting(.4)": Betting(0.4),
    "PairedT(.02)": PairedT(0.02),
    "PairedT(.05)": PairedT(0.05),
    "PairedT()": PairedT(),
    "Halving()": Halving(),
}
MANY: dict[str, Rule] = {
    "Predictive()": Predictive(),
    "Predictive(.2)": Predictive(0.2),
    "Predictive(.2, .03)": Predictive(0.2, 0.03),
    "Betting()": Betting(),
    "Betting(.2, .03, each)": Betting(0.2, 0.03, protect="each"),
    "PairedT()": PairedT(),
    "Halving()": Halving(),
}


def table(field: str, seed: int, n_arms: int, n_items: int) -> Table:
    """Return float[n_arms, n_items], scores in [0, 1]."""
    rng = np.random.default_rng([1, seed, n_arms, n_items])
    kind, _, points = field.partition(" ")
    if points:
        skills = np.zeros((n_arms, 1))
        skills[rng.integers(n_arms)] = skill_ahead(int(points))
    else:
        skills = rng.normal(0, {"spread": 0.6, "graded": 0.6, "close": 0.2, "equal": 0.0}[kind], (n_arms, 1))
    logits = skills - rng.normal(0, DIFFICULTY, (1, n_items)) + rng.normal(0, INTERACTION, (n_arms, n_items))
    draws = rng.random((5 if kind == "graded" else 1, n_arms, n_items)) < expit(logits)
    return np.asarray(draws.mean(axis=0), dtype=np.float64)


@cache
def skill_ahead(points: int) -> float:
    """Return the skill whose expected score is so many points above that of skill 0."""
    noise = np.random.default_rng(0).normal(0, np.hypot(DIFFICULTY, INTERACTION), 200_000)
    return float(brentq(lambda skill: expit(noise + skill).mean() - expit(noise).mean() - points / 100, 0, 10))


def run_table(landscape: str, optimizer: str, seed: int, n_calls: int = 600) -> Table:
    """Return the scores on dev of all prompts that a search on a landscape tried."""
    world = WORLDS[landscape]
    task = make_task(world.kinds[seed % len(world.kinds)], seed, n_test=20)
    simulator, spec = world.simulator(task, seed), find_model("sim", "task")
    folder = Path(tempfile.mkdtemp(prefix="promptopt-bench-"))
    settings = Settings(
        model="sim", optimizer=optimizer, budget=Budget(calls=n_calls), proof_examples=0, seed=seed, out=folder
    )
    asyncio.run(Run(make_plan(task, settings), transports={"sim": SimulatorTransport(simulator, spec)}).execute())
    with Journal(folder / "journal.db") as journal:
        prompts = [candidate.prompt for candidate in journal.candidates()]
    shutil.rmtree(folder)
    return np.array(
        [
            [
                task.metric.score(simulator.complete(spec.request(task.render(p, e))).text, e).value
                for e in task.dev
            ]
            for p in prompts
        ]
    )


def measure(tables: Iterable[Table], rules: dict[str, Rule], keep: int = 1) -> dict[str, NDArray[np.float64]]:
    """Return for each rule float[tables, 3]: share of the cells, whether it lost, mean score given up."""
    rows: dict[str, list[tuple[float, bool, float]]] = {name: [] for name in rules}
    for scores in tables:
        for name, found in simulate_race(scores, rules, keep=keep).items():
            rows[name].append((found.share, found.worst_regret > POINTS + 1e-9, found.regret))
    return {name: np.array(found, dtype=float) for name, found in rows.items()}


def show(title: str, found: dict[str, NDArray[np.float64]]) -> None:
    """Print a line of a table: share / lost / given up by rule."""
    cells = [
        f"{row[:, 0].mean():.2f} / {100 * row[:, 1].mean():.1f}% / {row[:, 2].mean():.4f}"
        for row in found.values()
    ]
    print(f"| {title} ({len(next(iter(found.values())))}) | {' | '.join(cells)} |", flush=True)


def head(rules: dict[str, Rule]) -> None:
    print(f"\n| tables (number) | {' | '.join(rules)} |")
    print("|---" * (len(rules) + 1) + "|")


def total(found: list[dict[str, NDArray[np.float64]]]) -> None:
    """Print, by rule, the mean share and what share of all races lost, with its 95% interval."""
    rows = {name: np.vstack([row[name] for row in found]) for name in found[0]}
    show("**all**", rows)
    for name, row in rows.items():
        low, high = wilson_interval(row[:, 1].sum(), len(row))
        worst = max(100 * one[name][:, 1].mean() for one in found)
        lost = f"{100 * row[:, 1].mean():.1f}% ({100 * low:.1f} to {100 * high:.1f}) of {len(row)} races lost"
        print(f"{name}: {lost}; {worst:.1f}% in the worst row")


def simulated(n: int) -> Iterator[tuple[str, list[Table]]]:
    for n_arms, n_items in SIZES:
        for field in FIELDS:
            some = max(20, n // 4) if n_arms == 64 else n
            yield f"{field}, {n_arms} x {n_items}", [table(field, seed, n_arms, n_items) for seed in range(some)]


def of_runs(n: int) -> Iterator[tuple[str, list[Table]]]:
    for landscape in NAMES:
        for optimizer in ("capo", "promptagent"):
            tables = [run_table(landscape, optimizer, seed) for seed in range(max(2, n // 40))]
            sizes = sorted(len(scores) for scores in tables)
            yield f"{optimizer} on {landscape}, {sizes[0]} to {sizes[-1]} prompts", tables


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tables", type=int, default=400, help="simulated tables a row")
    n = parser.parse_args().tables
    print("share of the cells evaluated / races that lost more than 2 points / mean score given up")
    for groups in (simulated(n), of_runs(n)):
        head(ONE)
        found = []
        for title, tables in groups:
            found.append(measure(tables, ONE))
            show(title, found[-1])
        total(found)
    head(MANY)
    found = []
    for field in ("spread", "close", "ahead 5", "graded"):
        found.append(measure((table(field, seed, 20, 200) for seed in range(n)), MANY, keep=5))
        show(f"5 of 20 on 200, {field}", found[-1])
    total(found)


if __name__ == "__main__":
    main()
