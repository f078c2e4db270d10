"""Timing changes nothing: for each strategy and budget, one outcome and one set of requests.

Budgets of calls, tokens and dollars end anywhere: where the search starts, within a generation, a race or a map,
and in the proof, with and without a hold-out before it. `make test` has a part of it. The whole is marked soak:
each strategy and kind of budget at 200 timings and up to 128 calls in flight, 25 of them at each of eight budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from nested import NESTED
from timing import ORDERS, Ordered

from promptopt.errors import ConfigError
from promptopt.plan import N_FINALISTS, Plan
from promptopt.registry import BUILT_IN
from promptopt.simulator import Simulator
from promptopt.testing import difference, outcome
from promptopt.testing.spending import check_limits
from promptopt.testing.subject import Subject
from promptopt.testing.trial import Trial
from promptopt.types import Budget

NAMES = (*sorted(BUILT_IN), *(f"nested-{i}" for i in range(6)))
SIZES = {"capo": 170, "random": 130, "reflect": 170, "nested": 150}  # others: as the contract has them
CONCURRENCIES = (1, 2, 3, 5, 8, 13, 21, 32, 48, 64, 96, 128)
KINDS = ("calls", "tokens", "usd")
PLACES = (0.0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # of the way from the least budget to all that a run takes
# Dollars are charged as tokens are; of the built-in strategies, they are left to the soak and to the contract.
QUICK = [(name, kind) for name in NAMES[:-4] for kind in KINDS if kind != "usd" or name.startswith("nested")]
N_SEEDS, N_QUICK, N_HELD = 200, 3, 4
N_HERE = N_SEEDS // len(PLACES)  # timings at each place
# Short texts, so that worst cases are near to what is used and budgets end in many places.
SHORT: dict[str, Any] = {
    "model_options": {"optimizer": {"max_tokens": 400}},
    "max_tokens": 40,
    "max_prompt_tokens": 250,
}


class Timed:
    """Runs one strategy with one budget at many timings.

    Args:
        name: a strategy, or `nested-TREE`.
        n_held: dev examples that are held out.
        refuses: share of requests that are refused for good.
    """

    def __init__(self, name: str, folder: Path, *, n_held: int = 0, refuses: float = 0.0) -> None:
        self.name, self.subject, self.folder = name, subject_of(name), folder
        self.n_held, self.refuses = n_held, refuses
        self.task = self.subject.make_task()

    def run(self, budget: Budget, seed: int, concurrency: int) -> Trial:
        plan = self.plan(budget, concurrency)
        double = Ordered(self.task, seed=seed, refuses=self.refuses)
        trial = self.subject.execute(plan.with_holdout(self.n_held), self.folder / f"{seed}-{concurrency}", double)
        if not self.refuses:  # else requests are sent that no answer counts
            check_limits(trial, budget)
        return trial

    def plan(self, budget: Budget, concurrency: int) -> Plan:
        """Return the plan of a run; a proof of all test examples ends where tokens or dollars do."""
        given = SHORT if budget.calls is not None else {**SHORT, "proof_examples": len(self.task.test)}
        return self.subject.plan(self.task, budget=budget, concurrency=concurrency, **given)

    def check(self, budget: Budget, seeds: Iterable[int]) -> Trial:
        """Require the same of all timings; return the run to which they were compared: one call at a time."""
        alone = self.run(budget, ORDERS.index(ORDERS[-1]), 1)
        expected, digests = outcome(alone.folder), alone.digests
        for seed in seeds:
            concurrency = CONCURRENCIES[(seed * 7 + 5) % len(CONCURRENCIES)]
            found = self.run(budget, seed, concurrency)
            where = f"with {budget}, timing {seed}, concurrency {concurrency}"
            gap = difference(expected, outcome(found.folder))
            assert not gap, f"{where}: {gap}"
            assert found.digests == digests, f"{where}: other requests"
        return alone

    def budget(self, kind: str, place: float) -> Budget:
        """Return the budget of a kind at a place between the least one and all that a usual run takes."""
        subject = self.subject
        if kind == "calls":
            # else a hold-out comes with large budgets only
            least = subject.least_calls + (N_FINALISTS + 1) * self.n_held
            return Budget(calls=round(least + place * (subject.calls - least)))
        used = usual(self.name)[kind]
        least = next(factor for factor in factors() if self.is_accepted(one_of(kind, used * factor)))
        most = max(Decimal("1.1"), least * 2)
        return one_of(kind, used * (least + (most - least) * Decimal(str(place))))

    def is_accepted(self, budget: Budget) -> bool:
        try:
            self.plan(budget, 1)
        except ConfigError:
            return False
        return True


def subject_of(name: str) -> Subject:
    kind, _, tree = name.partition("-")
    subject = Subject()
    subject.optimizer = NESTED if tree else kind
    subject.options = {"tree": tree} if tree else {}
    subject.budget_calls = SIZES.get(kind)
    return subject


@cache
def usual(name: str) -> dict[str, Decimal]:
    """Return the tokens and dollars that a usual run of a strategy takes."""
    with TemporaryDirectory() as folder:
        timed = Timed(name, Path(folder))
        spend = timed.run(Budget(calls=timed.subject.calls), 0, 16).result.spend
    assert spend.cost_usd is not None
    return {"tokens": Decimal(spend.input_tokens + spend.output_tokens), "usd": spend.cost_usd}


def factors() -> Iterator[Decimal]:
    return (Decimal(n) / 10 for n in range(2, 400))


def one_of(kind: str, amount: Decimal) -> Budget:
    return Budget(tokens=int(amount)) if kind == "tokens" else Budget(usd=amount)


def some_place(*words: str) -> float:
    """Return one of the first five places, another for each strategy and kind of budget."""
    return PLACES[sum(map(ord, "".join(words))) % 5]


@pytest.mark.parametrize(("name", "kind"), QUICK)
def test_one_winner_whatever_the_timing(name: str, kind: str, tmp_path: Path) -> None:
    place = some_place(name, kind)
    timed = Timed(name, tmp_path, n_held=N_HELD if PLACES.index(place) % 2 else 0)
    timed.check(timed.budget(kind, place), range(2 if name == "claps" else N_QUICK))  # it takes some seconds


def test_refusals_leave_one_winner_too(tmp_path: Path) -> None:
    timed = Timed("nested-5", tmp_path, refuses=0.04)
    timed.check(timed.budget("calls", 0.7), range(2 * N_QUICK))


@pytest.mark.soak
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_one_winner_at_two_hundred_timings(name: str, kind: str, place: float, tmp_path: Path) -> None:
    which = PLACES.index(place)
    timed = Timed(name, tmp_path, n_held=N_HELD if which % 2 else 0)
    timed.check(timed.budget(kind, place), range(which * N_HERE, (which + 1) * N_HERE))


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_refusals_leave_one_winner_at_many_timings(name: str, kind: str, tmp_path: Path) -> None:
    timed = Timed(name, tmp_path, refuses=0.04)
    timed.check(timed.budget(kind, some_place(kind, name)), range(N_HERE))


# That the proof can fail -------------------------------------------------------------------------------


def test_budgets_end_in_the_search_and_in_the_proof(tmp_path: Path) -> None:
    ends = set()
    for kind in KINDS:
        for place in PLACES[::3]:
            timed = Timed("reflect", tmp_path / f"{kind}{place}")
            found = timed.run(timed.budget(kind, place), 1, 16)
            n_searched = len(found.searched())
            ends.add((n_searched, len(found.digests) - n_searched))
    assert len({n_searched for n_searched, _ in ends}) > 6
    assert len({n_proved for _, n_proved in ends}) > 2


def test_orders_of_arrival_differ(tmp_path: Path) -> None:
    arrived = []
    for seed in range(len(ORDERS) + 1):
        trial = Timed("random", tmp_path).run(Budget(calls=100), seed, 64)
        arrived.append(tuple(request.digest for request, _ in trial.double.answers))
        assert sorted(arrived[0]) == sorted(arrived[-1])
    assert len(set(arrived)) == len(arrived)


def test_a_model_that_heeds_the_order_of_calls_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, said = Simulator.complete, list[str]()

    def complete(self: Simulator, request: Any) -> Any:
        said.append(request.digest)
        return replace(honest(self, request), text="billing" if len(said) % 3 else "no idea")

    monkeypatch.setattr(Simulator, "complete", complete)
    with pytest.raises(AssertionError):
        Timed("random", tmp_path).check(Budget(calls=100), range(N_QUICK))
