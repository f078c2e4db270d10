"""The plan of a run: models, shares of the budget, size of the search, forecast. Nothing is spent here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from functools import cached_property
from typing import Any

import numpy as np

from promptopt import registry
from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.gate import prompt_tokens
from promptopt.ledger import Amount, limit_of
from promptopt.providers import ModelSpec, find_model, is_simulator
from promptopt.simulator import landscape
from promptopt.stats import smallest_provable_gain
from promptopt.task import Task
from promptopt.types import Budget, Candidate, Example, Message, Role, digest

PROOF_SHARE = Decimal("0.3")
HOLDOUT_SHARE = 0.2
GATE_SHARE = Decimal("0.1")
MIN_DEV_FOR_HOLDOUT = 100
MIN_CALLS_FOR_HOLDOUT = 1000
N_FINALISTS = 3
# What a call usually takes, for forecasts only. Measured on the bundled tasks with the simulator (words
# besides the answer: 5 to 20 tokens; demonstrations: none at first, 2.5 on average from 1,500 calls on);
# real models are wordier. Forecasts are within a factor of two on these tasks (tests/test_plan.py).
_MOST_DEMOS, _CALLS_PER_DEMO = 2.5, 600
_ANSWER_WORDS = {True: 12, False: 100}
_WRITER_INPUT = 200
_WRITER_WORDS = {True: 40, False: 150}
_THINKING_TOKENS = 1000
_EXPECTED_SECONDS = {True: 0.005, False: 2.0}
_USUAL_CONCURRENCY = 16  # the estimate must not depend on the run's own: it would change the search
_MOST_CALLS = 10**7
# A strategy's own text in a request to the optimizer model, for the first such call's worst case.
_WRITER_BYTES = 4000


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take, and the most that it can.

    Args:
        calls: expected answers of all roles, proof included.
        expected_usd: an estimate; None = a price is unknown.
        worst_usd: a bound; None = a price is unknown, or no limit of calls, tokens or dollars was given.
        worst_tokens: a bound on input and output tokens; None = no limit was given.
        smallest_provable: smallest gain, in [0, 1], that the proof can show; None = none.
        n_proof: test examples that the proof is expected to afford; 0 = no proof.
        n_certain: those that its share affords even at worst.
    """

    calls: int
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    worst_tokens: int | None
    smallest_provable: float | None
    n_proof: int
    n_certain: int


@dataclass(frozen=True)
class Plan:
    """All that a run does, decided before it spends anything.

    Args:
        task: with its test split cut to the examples that the proof can afford at worst, dev without the
            hold-out.
        spare_test: further test examples, in random order, for what is left when the search has ended.
        worst_pair: the most that two prompts can take on one example.
        holdout: examples that choose among finalists; empty where that costs more than it gives.
        limit: the whole budget.
        proof_reserve: the part of it that the search never gets.
        gate_reserve: the part that choosing among finalists on the hold-out may take.
        search_calls: answers that the search is expected to afford.
        concurrency: calls in flight at most, lowered where reservations allow fewer.
        notes: sentences for the screen.
        data_digest: of all rows in their splits, before any was left out of the proof or held out.
        source: where prompt and data came from, for config.toml.
    """

    task: Task
    settings: Settings
    optimizer_name: str
    optimizer: registry.Optimizer
    models: Mapping[Role, ModelSpec]
    holdout: tuple[Example, ...]
    spare_test: tuple[Example, ...]
    worst_pair: Amount
    limit: Amount
    proof_reserve: Amount
    gate_reserve: Amount
    search_calls: int
    max_prompt_tokens: int
    forecast: Forecast
    concurrency: int
    notes: tuple[str, ...]
    data_digest: str
    source: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_simulated(self) -> bool:
        """Whether any role is played by the simulator."""
        return any(spec.is_simulated for spec in self.models.values())

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to be resumed; the budget may be raised."""
        task = self.task
        models = {role: _model_identity(spec) for role, spec in self.models.items()}
        budget = self.settings.budget
        return {
            "optimizer": self.optimizer_name,
            "optimizer file": registry.source_digest(self.optimizer_name),
            "options": {key: str(value) for key, value in registry.options_of(self.optimizer).items()},
            "models": models,
            "task": task.name,
            "prompt": task.initial.id,
            "data": self.data_digest,
            "metric": task.metric.name,
            "metric file": str(getattr(task.metric, "digest", "")),
            "description": task.description,
            "input": task.input_column,
            "seed": self.settings.seed,
            "proof_examples": self.settings.proof_examples,
            "max_prompt_tokens": self.max_prompt_tokens,
            "prices": [str(spec.prices) for spec in self.models.values()] if budget.usd is not None else [],
            "predict": _predict_identity(task),
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
    models = _models(settings, optimizer.requires)
    max_prompt_tokens = settings.max_prompt_tokens or max(2000, 4 * prompt_tokens(task.initial))
    if (n := prompt_tokens(task.initial)) > max_prompt_tokens:
        raise ConfigError(f"the prompt has about {n} tokens; raise --max-prompt-tokens above that")
    data_digest = _data_digest(task)
    sizing = _Sizing(task, settings, models, optimizer, max_prompt_tokens)
    limit = limit_of(_usd(settings.budget), settings.budget.calls, settings.budget.tokens)
    proof_reserve, n_proof = sizing.proof(limit)
    _check_minimum(name, sizing, limit, n_proof)
    task, spare = _cut_test(task, settings, n_proof, said)
    search_limit = limit.minus(proof_reserve)
    search_calls = sizing.search_calls(search_limit)
    task, holdout, gate_reserve = _hold_out(task, settings, search_limit, sizing.worst_task, search_calls, said)
    search_calls -= gate_reserve.calls
    if models["task"].is_noisy:
        said.append(f"{models['task'].name} takes no temperature 0: its answers count as noisy")
    return Plan(
        task=task,
        settings=settings,
        optimizer_name=name,
        optimizer=optimizer,
        models=models,
        holdout=holdout,
        spare_test=spare,
        worst_pair=sizing.worst_task.times(2),
        limit=limit,
        proof_reserve=proof_reserve,
        gate_reserve=gate_reserve,
        search_calls=search_calls,
        max_prompt_tokens=max_prompt_tokens,
        forecast=sizing.forecast(limit, search_calls, (n_proof, len(spare)), gate_reserve.calls),
        concurrency=_concurrency(settings.concurrency, search_limit, sizing.worst_task, said),
        notes=tuple(said),
        data_digest=data_digest,
    )


def _models(settings: Settings, needs: frozenset[str]) -> dict[Role, ModelSpec]:
    """Return the models by role; a judge only for a strategy that needs one."""
    names: dict[Role, str] = {
        "task": settings.model,
        "optimizer": settings.optimizer_model or settings.model,
    }
    if "judge" in needs:
        names["judge"] = settings.judge_model or settings.model
    models: dict[Role, ModelSpec] = {}
    for role, name in names.items():
        if is_simulator(name):
            landscape(name.partition(":")[2] or "default")  # an unknown one must fail before any spending
        spec = find_model(
            name,
            role,
            api_base=None if is_simulator(name) else settings.api_base,
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
    budget = settings.budget
    is_free = all(spec.price_in == 0 and spec.price_out == 0 for spec in models.values())
    others = (budget.calls, budget.tokens, budget.seconds)
    if is_free and budget.usd is not None and others == (None, None, None):
        raise ConfigError(
            "every price is 0, so --budget-usd limits nothing; add --budget-calls or --budget-tokens"
        )
    return models


def _model_identity(spec: ModelSpec) -> dict[str, Any]:
    return {
        **{"name": spec.name, "max_tokens": spec.max_tokens, "temperature": spec.temperature},
        **{"api_base": spec.api_base},
    }


def _predict_identity(task: Task) -> str:
    """Return what tells a task's own function from another: its name and how often it calls."""
    if task.predict is None:
        return ""
    name = getattr(task.predict, "__qualname__", type(task.predict).__qualname__)
    return f"{name} x {task.calls_per_example}"


def _check_needs(name: str, optimizer: registry.Optimizer, task: Task) -> None:
    if "labels" in optimizer.requires and not task.has_labels:
        raise ConfigError(f"optimizer {name!r} needs labels, and rows of the data have no target")


def _check_minimum(name: str, sizing: _Sizing, limit: Amount, n_proof: int) -> None:
    """Raise ConfigError, with the least budget that works, where the search cannot even start."""
    search = limit.minus(sizing.proof(limit)[0])
    if sizing.can_search(search):
        return
    budget = sizing.settings.budget
    least = sizing.least_budget()
    short = [
        f"--budget-{key} {amount}"
        for key, amount in least.items()
        if (given := getattr(budget, key)) is not None and Decimal(str(given)) < Decimal(amount)
    ]
    n = max(0, sizing.search_calls(search))
    raise ConfigError(
        f"the budget is too small: besides a proof on {n_proof} examples it affords the search about {n} calls; "
        f"{name} needs at least {sizing.optimizer.minimum_calls()}, and each is held at its worst case: give at "
        f"least {' and '.join(short) or 'more'}" + (", or lower --proof-examples" if n_proof else "")
    )


def _usd(budget: Budget) -> Decimal | None:
    return None if budget.usd is None else Decimal(str(budget.usd))


def _worst_task_call(task: Task, spec: ModelSpec, max_prompt_tokens: int) -> Amount:
    """Return the most that one answer of the task model can take, at the prompt's length limit."""
    longest = max(
        sum(len(text.encode("utf-8", "replace")) for text in example.inputs.values())
        for example in (*task.train, *task.dev, *task.test)
    )
    n_slots = 2 * max(1, len(task.placeholders))  # a prompt may show a column more than once
    text = "x" * (4 * max_prompt_tokens + n_slots * longest)
    return spec.worst_case(spec.request((Message("system", text), Message("user", ""))))


def _cut_test(task: Task, settings: Settings, n_proof: int, said: list[str]) -> tuple[Task, tuple[Example, ...]]:
    """Return the task with the test examples that are certain, and those to add if money is left; by seed."""
    n_test = len(task.test)
    wanted = n_test if settings.proof_examples is None else min(n_test, settings.proof_examples)
    if n_test == 0 or settings.proof_examples == 0:
        said.append("no proof: the gain on unseen data will not be known")
    elif n_proof == 0:
        said.append("no proof: its share of the budget affords not one test example")
    elif n_proof < n_test:
        more = f", and up to {wanted} if money is left" if n_proof < wanted else ", as asked"
        said.append(f"the proof takes {n_proof} of {n_test} test examples, drawn by seed {settings.seed}{more}")
    order = np.random.default_rng([settings.seed, 1]).permutation(n_test)[: wanted if n_proof else 0]
    spare = tuple(task.test[i] for i in order[n_proof:])
    return replace(task, test=tuple(task.test[i] for i in sorted(order[:n_proof]))), spare


def _hold_out(
    task: Task, settings: Settings, search: Amount, worst: Amount, search_calls: int, said: list[str]
) -> tuple[Task, tuple[Example, ...], Amount]:
    """Split the hold-out off dev where the search is large enough for it to pay."""
    if len(task.dev) < MIN_DEV_FOR_HOLDOUT or search_calls < MIN_CALLS_FOR_HOLDOUT:
        return task, (), Amount()
    n_prompts = N_FINALISTS + 1
    share = _share(search, GATE_SHARE)
    n_held = min(int(HOLDOUT_SHARE * len(task.dev)), worst.times(n_prompts).count_in(share))
    if n_held < 10:
        return task, (), Amount()
    order = np.random.default_rng([settings.seed, 2]).permutation(len(task.dev))
    held = set(order[:n_held].tolist())
    said.append(f"{n_held} dev examples are held out; they choose among the finalists")
    dev = tuple(example for i, example in enumerate(task.dev) if i not in held)
    holdout = tuple(example for i, example in enumerate(task.dev) if i in held)
    return replace(task, dev=dev), holdout, worst.times(n_prompts * n_held)


def _share(limit: Amount, share: Decimal) -> Amount:
    usd = limit.usd if limit.usd.is_infinite() else (limit.usd * share).quantize(Decimal("1e-9"), ROUND_DOWN)
    return Amount(int(limit.calls * share), int(limit.tokens * share), usd)


def _concurrency(wanted: int, search: Amount, worst: Amount, said: list[str]) -> int:
    """Return how many calls can be in flight at once: each holds its worst case."""
    n = max(1, min(wanted, worst.count_in(search)))
    if n < wanted:
        said.append(
            f"concurrency lowered from {wanted} to {n}: the budget can hold no more calls at their worst case "
            "at once"
        )
    return n


def _data_digest(task: Task) -> str:
    splits = (task.train, task.dev, task.test)
    return digest([[(e.id, dict(e.inputs), e.target) for e in split] for split in splits])


def finalists(proposals: list[Candidate], best: Candidate) -> list[Candidate]:
    """Return the candidates that the hold-out chooses among: the best, and the proposals before it."""
    latest = {candidate.id: candidate for candidate in [best, *reversed(proposals)]}
    return list(latest.values())[:N_FINALISTS]


@dataclass(frozen=True)
class _Sizing:
    """How many answers a budget affords, and what they take; estimates, besides `worst_task`."""

    task: Task
    settings: Settings
    models: Mapping[Role, ModelSpec]
    optimizer: registry.Optimizer
    max_prompt_tokens: int

    @cached_property
    def worst_task(self) -> Amount:
        """The most that the task model can take for one prompt on one example."""
        one = _worst_task_call(self.task, self.models["task"], self.max_prompt_tokens)
        return one.times(self.task.calls_per_example)

    @cached_property
    def worst_writer(self) -> Amount:
        """The most that a first call of the optimizer model is likely to hold."""
        text = "x" * (_WRITER_BYTES + 8 * prompt_tokens(self.task.initial))
        return self.models["optimizer"].worst_case(self.models["optimizer"].request((Message("user", text),)))

    @cached_property
    def _means(self) -> tuple[float, float, float]:
        """Mean tokens of the rendered prompt with an example, of an example, and of a target."""
        rows = self.task.dev[:50]
        rendered = sum(len(m.content) for e in rows for m in self.task.render(self.task.initial, e))
        shown = sum(len(e.inputs[column]) for e in rows for column in self.task.shown_columns)
        targets = sum(len(e.target or "") for e in rows)
        return rendered / 4 / len(rows), shown / 4 / len(rows), targets / 4 / len(rows)

    def usual(self, role: Role, n_calls: int) -> tuple[int, Decimal | None]:
        """Return the tokens and dollars that a call usually takes in a search of `n_calls`."""
        spec = self.models[role]
        question, example, target = self._means
        n_demos = min(_MOST_DEMOS, n_calls / _CALLS_PER_DEMO)
        if role == "task":
            n_in = question + n_demos * (example + target + 5)
            n_out = target + _ANSWER_WORDS[spec.is_simulated]
        else:
            prompt = prompt_tokens(self.task.initial)
            n_in = _WRITER_INPUT + 2 * prompt
            n_out = prompt + _WRITER_WORDS[spec.is_simulated]
        n_out = min(spec.max_tokens, n_out + _THINKING_TOKENS * spec.is_reasoning)
        return round(n_in + n_out), spec.price(round(n_in), round(n_out))

    def total(self, by_role: Mapping[Role, int], n_calls: int) -> tuple[int, Decimal | None]:
        """Return the tokens and dollars that so many answers usually take."""
        tokens, usd = 0, Decimal(0)
        is_known = True
        for role, n in by_role.items():
            each_tokens, each_usd = self.usual(role, n_calls)
            tokens += n * each_tokens
            usd += n * (each_usd or 0)
            is_known = is_known and each_usd is not None
        return tokens, usd if is_known else None

    def proof(self, limit: Amount) -> tuple[Amount, int]:
        """Return the proof's share of the budget, and how many test examples it affords at worst.

        The share is the worst case of all of them, or of those asked for, at most 30% of each limit.
        """
        wanted, n_test = self.settings.proof_examples, len(self.task.test)
        share = limit if wanted is not None else _share(limit, PROOF_SHARE)
        pair = self.worst_task.times(2)
        whole = pair.times(n_test if wanted is None else min(n_test, wanted))
        reserve = Amount(min(whole.calls, share.calls), min(whole.tokens, share.tokens), min(whole.usd, share.usd))
        return reserve, pair.count_in(reserve)

    def search_calls(self, search: Amount) -> int:
        """Return how many answers the search can be expected to afford; the smallest of all limits."""
        n = most = min(search.calls, _MOST_CALLS)
        for _ in range(6):  # what a call takes depends on how many there are: a fixed point
            tokens, usd = self.total(self.optimizer.forecast(max(1, n)), n)
            share = Decimal(search.tokens) / max(1, tokens)
            if search.usd.is_finite() and usd:
                share = min(share, search.usd / usd)
            n = max(0, min(most, int(max(1, n) * share)))
        if self.settings.budget.seconds is not None:
            each_s = _EXPECTED_SECONDS[self.models["task"].is_simulated] / _USUAL_CONCURRENCY
            by_time = int(self.settings.budget.seconds * float(1 - PROOF_SHARE) / each_s)
            n = min(n, max(by_time, self.optimizer.minimum_calls()))  # a guess of speed refuses no run
        return n

    def can_search(self, search: Amount) -> bool:
        """Return whether the search can start: its first call fits, and enough of them are affordable."""
        first = self.worst_writer if "optimizer model" in self.optimizer.requires else self.worst_task
        return first.fits(search) and self.search_calls(search) >= self.optimizer.minimum_calls()

    def least_budget(self) -> dict[str, str]:
        """Return for calls, tokens and usd the least limit that works if it is the only one."""
        units = {"calls": Decimal(1), "tokens": Decimal(1000), "usd": Decimal("0.0001")}
        return {key: f"{self._least(key, unit):f}" for key, unit in units.items()}

    def _least(self, key: str, unit: Decimal) -> Decimal:
        def works(n: int) -> bool:
            amount = n * unit
            counts = {name: int(amount) if name == key else None for name in ("calls", "tokens")}
            limit = limit_of(amount if key == "usd" else None, counts["calls"], counts["tokens"])
            return self.can_search(limit.minus(self.proof(limit)[0]))

        low, high = 0, 1
        while not works(high) and high < 2**50:
            low, high = high, 2 * high
        while high - low > max(1, high // 100 if key != "calls" else 1):
            middle = (low + high) // 2
            low, high = (low, middle) if works(middle) else (middle, high)
        while not works(high):  # rounding of the proof's share makes small dents
            high += 1
        return (high * unit).quantize(unit, ROUND_UP)

    def _expected_proof(self, limit: Amount, search_calls: int, n_certain: int, n_spare: int) -> int:
        """Return how many test examples the proof's share usually affords, at least those that are certain."""
        tokens, usd = self.usual("task", search_calls)
        calls = self.task.calls_per_example
        usual = Amount(2 * calls, 2 * calls * tokens, 2 * calls * (usd or Decimal(0)))
        return max(n_certain, min(n_certain + n_spare, usual.count_in(_share(limit, PROOF_SHARE))))

    def forecast(self, limit: Amount, search_calls: int, n_test: tuple[int, int], n_gate: int) -> Forecast:
        """Return what the whole run is expected to take, and its bound.

        Args:
            n_test: test examples that the proof is certain of, and those that it may add.
        """
        n_proof = self._expected_proof(limit, search_calls, *n_test)
        by_role = dict(self.optimizer.forecast(search_calls))
        by_role["task"] = by_role.get("task", 0) + 2 * n_proof + n_gate
        calls = sum(by_role.values())
        expected = self.total(by_role, search_calls)[1]
        worst_tokens, worst_usd = self._bound(limit)
        if expected is not None and worst_usd is not None:
            expected = min(expected, worst_usd)
        provable = smallest_provable_gain(n_proof)
        return Forecast(calls, expected, worst_usd, worst_tokens, provable, n_proof, n_test[0])

    def _bound(self, limit: Amount) -> tuple[int | None, Decimal | None]:
        """Return the most tokens and dollars that the limits let the run take; None = no bound."""
        roles: tuple[Role, ...] = ("task", "optimizer")
        specs = [self.models[role] for role in roles]
        writer = "x" * (_WRITER_BYTES + 12 * self.max_prompt_tokens)
        longest = self.models["optimizer"].request((Message("user", writer),))
        worst = (self.worst_task, self.models["optimizer"].worst_case(longest))
        endless = Amount.endless()
        tokens = [limit.tokens] if limit.tokens < endless.tokens else []
        dollars = [limit.usd] if limit.usd.is_finite() else []
        if limit.calls < endless.calls:
            tokens.append(limit.calls * max(each.tokens for each in worst))
            dollars.append(limit.calls * max(each.usd for each in worst))
        if limit.tokens < endless.tokens:
            dollars.append(limit.tokens * max(spec.price_out or spec.price_in or Decimal(0) for spec in specs))
        is_priced = all(spec.price_in is not None for spec in specs)
        return min(tokens, default=None), min(dollars, default=None) if is_priced else None
