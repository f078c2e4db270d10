"""Tests that a strategy keeps any budget, wherever it ends, and that timing never changes a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

from promptopt.errors import ConfigError
from promptopt.testing.double import Double
from promptopt.testing.subject import Subject
from promptopt.testing.trial import Trial, difference, outcome
from promptopt.types import Budget

_FACTORS = ("0.5", "0.7", "1", "1.4", "2", "3", "5", "8", "13", "21", "34")


class SpendingTests(Subject):
    """A strategy stays within every limit, refuses one that is too small, and depends on no timing."""

    def test_refuses_a_budget_below_its_minimum(self, tmp_path: Path) -> None:
        """Require ConfigError, and nothing sent, one call below the minimum."""
        minimum = self.strategy.minimum_calls()
        assert minimum >= 1, f"minimum_calls() is {minimum}; no search makes sense without a call"
        double = Double(self.make_task())
        try:
            self.run(tmp_path / "run", double=double, budget=Budget(calls=self.least_calls - 1))
        except ConfigError:
            assert not double.requests, "a budget below the minimum was refused only after calls had been sent"
        else:
            raise AssertionError(f"a search of {minimum - 1} calls was not refused; minimum_calls() is {minimum}")

    def test_works_with_its_minimum(self, tmp_path: Path) -> None:
        """Require that at least one candidate is tried with the smallest budget accepted."""
        when = f"with its minimum of {self.strategy.minimum_calls()} calls"
        tried = set()
        for seed in range(3):  # a single text that the gate refuses is bad luck
            trial = self.run(tmp_path / str(seed), seed=seed, budget=Budget(calls=self.least_calls))
            self.check_ended(trial, when)
            tried |= {candidate_id for candidate_id, _ in trial.state.cells} - {trial.run.plan.task.initial.id}
        assert tried, f"{when}, it tries no prompt besides the initial one; raise minimum_calls()"

    def test_keeps_every_limit(self, tmp_path: Path) -> None:
        """Require that calls, tokens and dollars stay within limits that end a search anywhere."""
        for i, budget in enumerate(self.budgets(tmp_path / "usual")):
            double = Double(self.make_task(), latency_seed=i)
            trial = self.run(tmp_path / str(i), double=double, budget=budget, concurrency=32)
            self.check_ended(trial, f"with {budget}")
            check_limits(trial, budget)

    def test_same_outcome_at_any_concurrency_and_latency(self, tmp_path: Path) -> None:
        """Require the same result and the same requests at other concurrency and latency."""
        for i, budget in enumerate(list(self.budgets(tmp_path / "usual"))[::2]):
            folder = tmp_path / str(i)
            alone = self.run(folder / "alone", budget=budget, concurrency=1)
            for latency_seed, concurrency in enumerate((64, 3)):
                double = Double(self.make_task(), latency_seed=latency_seed)
                other = folder / str(concurrency)
                found = self.run(other, double=double, budget=budget, concurrency=concurrency)
                gap = difference(outcome(alone.folder), outcome(found.folder))
                where = f"with {budget}, concurrency 1 and {concurrency}"
                assert not gap, f"{where} differ: {gap}. Use study.map for all concurrency, and study.rng"
                is_same = found.digests == alone.digests
                assert is_same, f"{where} send other requests; order by index, not by arrival"

    def budgets(self, folder: Path) -> Iterator[Budget]:
        """Yield limits of every kind, which end a search at different places."""
        calls, least = self.calls, self.least_calls
        for n in sorted({least, (least + calls) // 2, max(least, calls - 7), calls}):
            yield Budget(calls=n)
        spend = self.run(folder).result.spend
        assert spend.cost_usd is not None
        used = Decimal(spend.input_tokens + spend.output_tokens)
        tokens = int(self._affordable(used, lambda limit: Budget(tokens=int(limit))))
        usd = self._affordable(spend.cost_usd, lambda limit: Budget(usd=limit))
        yield Budget(tokens=tokens)
        yield Budget(usd=usd)
        yield Budget(calls=max(least, calls - 5), tokens=tokens * 11 // 10, usd=usd * Decimal("1.3"))

    def _affordable(self, amount: Decimal, budget_of: Callable[[Decimal], Budget]) -> Decimal:
        """Return about the least limit of a kind that a plan accepts, from a part of `amount` upwards."""
        for factor in _FACTORS:
            try:
                self.plan(budget=budget_of(amount * Decimal(factor)))
            except ConfigError:
                continue
            return amount * Decimal(factor)
        raise AssertionError(f"{budget_of(amount * Decimal(factor))} is refused; is minimum_calls() far too high?")


def check_limits(trial: Trial, budget: Budget) -> None:
    """Require that all that was sent was counted, nothing twice, and that it lies within the budget."""
    spend, answers = trial.result.spend, trial.double.answers
    n_sent = len(trial.double.requests)
    twice = n_sent - len(set(trial.digests))
    assert twice == 0, f"with {budget}, {twice} of {n_sent} requests were sent twice"
    counted = f"the result counts {spend.calls}"
    assert n_sent == spend.calls, (
        f"with {budget}, {n_sent} requests were sent, but {counted}; use the study's verbs"
    )
    usages = [response.usage for _, response in answers if response.usage is not None]
    tokens = sum(usage.input_tokens + usage.output_tokens for usage in usages)
    usd = sum((response.cost_usd or Decimal(0) for _, response in answers), Decimal(0))
    for what, used, limit in (
        ("calls", n_sent, budget.calls),
        ("tokens", tokens, budget.tokens),
        ("dollars", usd, budget.usd),
    ):
        assert limit is None or used <= limit, f"with {budget}, the run used {used} {what}"
