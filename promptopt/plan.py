"""The plan of a run: models, shares of the budget, size of the search, forecast. Nothing is spent here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_DOWN, Decimal
from typing import Any

import numpy as np

from promptopt import registry
from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.gate import prompt_tokens
from promptopt.ledger import Amount, limit_of
from promptopt.providers import ModelSpec, find_model
from promptopt.stats import smallest_provable_gain
from promptopt.task import Task
from promptopt.types import Budget, Candidate, Example, Message, Role, digest

PROOF_SHARE = Decimal("0.3")
HOLDOUT_SHARE = 0.2
GATE_SHARE = Decimal("0.1")
MIN_DEV_FOR_HOLDOUT = 100
MIN_CALLS_FOR_HOLDOUT = 1000
N_FINALISTS = 3
# What an answer usually takes, for forecasts only: tokens that demonstrations add, and output tokens.
_EXPECTED_DEMO_TOKENS = 200
_EXPECTED_OUTPUT = {False: 150, True: 1200}
_EXPECTED_SECONDS = 2.0


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take, and the most that it can; dollars None = a price is unknown."""

    calls: int
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    worst_tokens: int | None
    smallest_provable: float | None
    n_proof: int


@dataclass(frozen=True)
class Plan:
    """All that a run does, decided before it spends anything.

    Args:
        task: with its test split cut to the examples of the proof, dev without the hold-out.
        holdout: examples that choose among finalists; empty where that costs more than it gives.
        limit: the whole budget.
        proof_reserve: the part of it that the search never gets.
        gate_reserve: the part that choosing among finalists on the hold-out may take.
        search_calls: answers that the search is expected to afford.
        concurrency: calls in flight at most, lowered where reservations allow fewer.
        notes: sentences for the screen.
    """

    task: Task
    settings: Settings
    optimizer_name: str
    optimizer: registry.Optimizer
    models: Mapping[Role, ModelSpec]
    holdout: tuple[Example, ...]
    limit: Amount
    proof_reserve: Amount
    gate_reserve: Amount
    search_calls: int
    max_prompt_tokens: int
    forecast: Forecast
    concurrency: int
    notes: tuple[str, ...]

    @property
    def is_simulated(self) -> bool:
        """Whether any role is played by the simulator."""
        return any(spec.is_simulated for spec in self.models.values())

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to be resumed; the budget may be raised."""
        task = self.task
        rows = [
            [(e.id, dict(e.inputs), e.target) for e in split]
            for split in (task.train, task.dev, task.test, self.holdout)
        ]
        models = {role: _model_identity(spec) for role, spec in self.models.items()}
        budget = self.settings.budget
        return {
            "optimizer": self.optimizer_name,
            "options": {key: str(value) for key, value in registry.options_of(self.optimizer).items()},
            "models": models,
            "task": task.name,
            "prompt": task.initial.id,
            "data": digest(rows),
            "metric": task.metric.name,
            "description": task.description,
            "input": task.input_column,
            "seed": self.settings.seed,
            "proof_examples": self.settings.proof_examples,
            "max_prompt_tokens": self.max_prompt_tokens,
            "budget": {key: None if value is None else str(value) for key, value in asdict(budget).items()},
        }


def make_plan(task: Task, settings: Settings, notes: tuple[str, ...] = ()) -> Plan:
    """Return the plan of a run.

    Raises:
        ConfigError: a model, key, price, option or limit does not allow the run; nothing was spent.
    """
    said = list(notes)
    if settings.budget == Budget():
        settings = settings.with_default_budget()
        said.append("no budget given: at most 1,000 calls (set --budget-usd or --budget-calls)")
    name, optimizer = registry.make_optimizer(settings.optimizer, settings.options)
    if settings.optimizer == "auto":
        said.append(f"optimizer {name}, picked by auto: the task has labels")
    _check_needs(name, optimizer, task)
    models = _models(settings)
    limit = limit_of(_usd(settings.budget), settings.budget.calls, settings.budget.tokens)
    max_prompt_tokens = settings.max_prompt_tokens or max(2000, 4 * prompt_tokens(task.initial))
    if (n := prompt_tokens(task.initial)) > max_prompt_tokens:
        raise ConfigError(f"the prompt has about {n} tokens; raise --max-prompt-tokens above that")
    worst = _worst_task_call(task, models["task"], max_prompt_tokens)
    task, n_proof = _cut_test(task, settings, limit, worst, said)
    proof_reserve = _times(worst, 2 * n_proof)
    search_limit = limit.minus(proof_reserve)
    search_calls = _affordable_calls(task, models, search_limit, settings)
    task, holdout, gate_reserve = _hold_out(task, settings, search_limit, worst, search_calls, said)
    search_calls -= gate_reserve.calls
    _check_minimum(name, optimizer, search_calls, n_proof)
    if models["task"].is_noisy:
        said.append(f"{models['task'].name} takes no temperature 0: its answers count as noisy")
    forecast = _forecast(task, models, optimizer, search_calls, n_proof, limit)
    concurrency = _concurrency(settings.concurrency, search_limit, worst)
    return Plan(
        task=task,
        settings=settings,
        optimizer_name=name,
        optimizer=optimizer,
        models=models,
        holdout=holdout,
        limit=limit,
        proof_reserve=proof_reserve,
        gate_reserve=gate_reserve,
        search_calls=search_calls,
        max_prompt_tokens=max_prompt_tokens,
        forecast=forecast,
        concurrency=concurrency,
        notes=tuple(said),
    )


def expected_amount(spec: ModelSpec, input_tokens: int) -> tuple[int, Decimal | None]:
    """Return the tokens and dollars that a call with that input usually takes; an estimate."""
    output = min(spec.max_tokens, _EXPECTED_OUTPUT[spec.is_reasoning])
    return input_tokens + output, spec.price(input_tokens, output)


def _models(settings: Settings) -> dict[Role, ModelSpec]:
    names: dict[Role, str] = {
        "task": settings.model,
        "optimizer": settings.optimizer_model or settings.model,
        "judge": settings.judge_model or settings.model,
    }
    models: dict[Role, ModelSpec] = {}
    for role, name in names.items():
        is_own = not name.startswith("sim:") and name != "sim"
        spec = find_model(
            name,
            role,
            api_base=settings.api_base if is_own else None,
            max_tokens=settings.max_tokens if role == "task" else None,
            prices=settings.prices if name == settings.model else None,
        )
        if spec.price_in is None and settings.prices is not None:
            spec = find_model(name, role, api_base=spec.api_base, prices=settings.prices)
        if spec.price_in is None and settings.budget.usd is not None:
            raise ConfigError(
                f"no known price for model {name!r}, so --budget-usd cannot hold; give --price-in and --price-out"
                " (dollars per million tokens), or limit --budget-calls or --budget-tokens instead"
            )
        models[role] = spec
    return models


def _model_identity(spec: ModelSpec) -> dict[str, Any]:
    return {
        **{"name": spec.name, "max_tokens": spec.max_tokens, "temperature": spec.temperature},
        **{"api_base": spec.api_base},
    }


def _check_needs(name: str, optimizer: registry.Optimizer, task: Task) -> None:
    if "labels" in optimizer.requires and not task.has_labels:
        raise ConfigError(f"optimizer {name!r} needs labels, and rows of the data have no target")


def _check_minimum(name: str, optimizer: registry.Optimizer, search_calls: int, n_proof: int) -> None:
    least = optimizer.minimum_calls()
    if search_calls < least:
        raise ConfigError(
            f"the budget allows about {max(0, search_calls)} calls for the search, besides a proof on {n_proof} "
            f"examples; {name} needs at least {least}: raise the budget or lower --proof-examples"
        )


def _usd(budget: Budget) -> Decimal | None:
    return None if budget.usd is None else Decimal(str(budget.usd))


def _times(amount: Amount, n: int) -> Amount:
    return Amount(amount.calls * n, amount.tokens * n, amount.usd * n)


def _worst_task_call(task: Task, spec: ModelSpec, max_prompt_tokens: int) -> Amount:
    """Return the most that one answer of the task model can take, at the prompt's length limit."""
    longest = max(
        sum(len(text.encode("utf-8", "replace")) for text in example.inputs.values())
        for example in (*task.train, *task.dev, *task.test)
    )
    n_slots = 2 * max(1, len(task.placeholders))  # a prompt may show a column more than once
    text = "x" * (4 * max_prompt_tokens + n_slots * longest)
    return spec.worst_case(spec.request((Message("system", text), Message("user", ""))))


def _cut_test(task: Task, settings: Settings, limit: Amount, worst: Amount, said: list[str]) -> tuple[Task, int]:
    """Return the task with the test examples of the proof, and their number."""
    n_test = len(task.test)
    wanted = settings.proof_examples
    if wanted == 0 or n_test == 0:
        said.append("no proof: the gain on unseen data will not be known")
        return replace(task, test=()), 0
    share = limit if wanted is not None else _share(limit, PROOF_SHARE)
    affordable = min(share.calls // 2, share.tokens // (2 * worst.tokens))
    if limit.usd.is_finite() and worst.usd > 0:
        affordable = min(affordable, int(share.usd / (2 * worst.usd)))
    n_proof = min(n_test, affordable, wanted if wanted is not None else n_test)
    if n_proof == 0:
        said.append("no proof: its share of the budget affords not one test example")
    elif n_proof < n_test:
        reason = "as asked" if n_proof == wanted else "30% of the budget affords no more"
        said.append(
            f"the proof takes {n_proof} of {n_test} test examples, drawn by seed {settings.seed} ({reason})"
        )
    order = np.random.default_rng([settings.seed, 1]).permutation(n_test)[:n_proof]
    return replace(task, test=tuple(task.test[i] for i in sorted(order))), n_proof


def _hold_out(
    task: Task, settings: Settings, search: Amount, worst: Amount, search_calls: int, said: list[str]
) -> tuple[Task, tuple[Example, ...], Amount]:
    """Split the hold-out off dev where the search is large enough for it to pay."""
    if len(task.dev) < MIN_DEV_FOR_HOLDOUT or search_calls < MIN_CALLS_FOR_HOLDOUT:
        return task, (), Amount()
    n_prompts = N_FINALISTS + 1
    share = _share(search, GATE_SHARE)
    n_held = int(HOLDOUT_SHARE * len(task.dev))
    n_held = min(n_held, share.calls // n_prompts, share.tokens // (n_prompts * worst.tokens))
    if search.usd.is_finite() and worst.usd > 0:
        n_held = min(n_held, int(share.usd / (n_prompts * worst.usd)))
    if n_held < 10:
        return task, (), Amount()
    order = np.random.default_rng([settings.seed, 2]).permutation(len(task.dev))
    held = set(order[:n_held].tolist())
    said.append(f"{n_held} dev examples are held out; they choose among the finalists")
    dev = tuple(example for i, example in enumerate(task.dev) if i not in held)
    holdout = tuple(example for i, example in enumerate(task.dev) if i in held)
    return replace(task, dev=dev), holdout, _times(worst, n_prompts * n_held)


def _share(limit: Amount, share: Decimal) -> Amount:
    usd = limit.usd if limit.usd.is_infinite() else (limit.usd * share).quantize(Decimal("1e-9"), ROUND_DOWN)
    return Amount(int(limit.calls * share), int(limit.tokens * share), usd)


def _input_tokens(task: Task) -> int:
    """Return the usual input tokens of a task call: the prompt, some demonstrations, an example."""
    sizes = [sum(len(m.content) for m in task.render(task.initial, example)) // 4 for example in task.dev[:50]]
    return max(1, sum(sizes) // len(sizes)) + _EXPECTED_DEMO_TOKENS


def _affordable_calls(task: Task, models: Mapping[Role, ModelSpec], limit: Amount, settings: Settings) -> int:
    """Return how many answers the search can be expected to afford; the smallest of all limits."""
    tokens, usd = expected_amount(models["task"], _input_tokens(task))
    n = min(limit.calls, limit.tokens // tokens)
    if limit.usd.is_finite() and usd:
        n = min(n, int(limit.usd / usd))
    if settings.budget.seconds is not None:
        n_by_time = settings.budget.seconds * float(1 - PROOF_SHARE) * settings.concurrency / _EXPECTED_SECONDS
        n = min(n, max(1, math.floor(n_by_time)))
    return min(n, 10**7)


def _forecast(
    task: Task,
    models: Mapping[Role, ModelSpec],
    optimizer: registry.Optimizer,
    search_calls: int,
    n_proof: int,
    limit: Amount,
) -> Forecast:
    by_role = dict(optimizer.forecast(search_calls))
    by_role["task"] = by_role.get("task", 0) + 2 * n_proof
    expected: Decimal | None = Decimal(0)
    worst: Decimal | None = Decimal(0)
    worst_tokens = 0
    for role, n in by_role.items():
        n_in = _input_tokens(task) * (2 if role == "optimizer" else 1)
        usd = expected_amount(models[role], n_in)[1]
        most = models[role].price(4 * n_in, models[role].max_tokens)
        worst_tokens += n * (4 * n_in + models[role].max_tokens)
        expected = None if expected is None or usd is None else expected + n * usd
        worst = None if worst is None or most is None else worst + n * most
    if limit.usd.is_finite():
        worst = limit.usd if worst is None else min(worst, limit.usd)
        expected = expected if expected is None else min(expected, limit.usd)
    calls = sum(by_role.values())
    return Forecast(
        calls, expected, worst, min(worst_tokens, limit.tokens), smallest_provable_gain(n_proof), n_proof
    )


def _concurrency(wanted: int, search: Amount, worst: Amount) -> int:
    """Return how many calls can be in flight at once: each holds its worst case."""
    n = min(wanted, search.calls, search.tokens // worst.tokens)
    if search.usd.is_finite() and worst.usd > 0:
        n = min(n, int(search.usd / worst.usd))
    return max(1, n)


def finalists(proposals: list[Candidate], best: Candidate) -> list[Candidate]:
    """Return the candidates that the hold-out chooses among: the best, and the proposals before it."""
    latest = {candidate.id: candidate for candidate in [best, *reversed(proposals)]}
    return list(latest.values())[:N_FINALISTS]
