"""The plan of a run: strategy, models, splits, shares of the budget, forecast. Nothing is spent here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np

from promptopt import registry
from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.front import COST
from promptopt.gate import prompt_tokens
from promptopt.label import N_TOP_LOGPROBS
from promptopt.ledger import Amount
from promptopt.providers import ModelSpec
from promptopt.roles import check_images, find_models, unused_models
from promptopt.secret import masked
from promptopt.sizing import MOST_CALLS, PROOF_SHARE, Forecast, Sizing, share
from promptopt.task import UNSCORED, Task
from promptopt.types import Budget, Candidate, Example, Role, digest

__all__ = ["PROOF_SHARE", "Forecast", "Plan", "finalists", "make_plan"]

HOLDOUT_SHARE = 0.2
GATE_SHARE = Decimal("0.1")
MIN_DEV_FOR_HOLDOUT = 100
MIN_CALLS_FOR_HOLDOUT = 1000
N_FINALISTS = 3
MIN_HOLDOUT = 10
_N_CHOSEN_FROM = N_FINALISTS + 1  # with the prompt to beat


@dataclass(frozen=True)
class Plan:
    """All that a run does, decided before it spends anything.

    Args:
        task: with its test split cut to the examples that the proof can afford at worst, dev without the
            hold-out.
        spare_test: further test examples, in random order, for what is left when the search has ended.
        worst_pair: the most that two prompts can take on one test example, with the judge's votes on them.
        worst_cell: the most that one prompt can take on one example, with its rating where a judge scores.
        holdout: examples that choose among finalists; empty where that costs more than it gives.
        limit: the whole budget.
        proof_reserve: the part of it that the search never gets.
        gate_reserve: the part that choosing among finalists on the hold-out may take.
        search_calls: answers that the search is expected to afford.
        concurrency: calls in flight at most, lowered where reservations allow fewer.
        notes: sentences for the screen.
        data_digest: of all rows in their splits, before any was left out of the proof or held out.
        all_dev: dev with the hold-out, in the order of the data.
        given: the task as it was given, before any row was left out.
        source: where prompt and data came from, for config.toml.
        auto: the budget's name, where `limit` has its calls; None = it has none.
    """

    task: Task
    settings: Settings
    optimizer_name: str
    optimizer: registry.Optimizer
    models: Mapping[Role, ModelSpec]
    holdout: tuple[Example, ...]
    spare_test: tuple[Example, ...]
    worst_pair: Amount
    worst_cell: Amount
    limit: Amount
    proof_reserve: Amount
    gate_reserve: Amount
    search_calls: int
    max_prompt_tokens: int
    forecast: Forecast
    concurrency: int
    notes: tuple[str, ...]
    data_digest: str
    all_dev: tuple[Example, ...]
    given: Task
    source: Mapping[str, Any] = field(default_factory=dict)
    auto: str | None = None

    @property
    def open_task(self) -> Task:
        """The task without its test split, and without targets where none are to be used: what a search sees."""
        task = self.task.without_test()
        return task if task.is_scored else task.without_targets()

    @property
    def sealed(self) -> tuple[Example, ...]:
        """The test examples in the order in which the proof takes them, seen as `open_task` is."""
        task = replace(self.task, test=(*self.task.test, *self.spare_test))
        return task.test if task.is_scored else task.without_targets().test

    def with_holdout(self, n_held: int) -> Plan:
        """Return this plan with so many dev examples held out, drawn by seed."""
        if n_held == len(self.holdout):
            return self
        held = held_out(len(self.all_dev), n_held, self.settings.seed)
        return replace(
            self,
            task=replace(self.task, dev=tuple(e for i, e in enumerate(self.all_dev) if i not in held)),
            holdout=tuple(e for i, e in enumerate(self.all_dev) if i in held),
            gate_reserve=self.worst_cell.times(_N_CHOSEN_FROM * n_held),
        )

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to be resumed; the budget may be raised."""
        task = self.task
        models = {role: model_identity(spec) for role, spec in self.models.items()}
        budget = self.settings.budget
        return {
            "optimizer": name_in_folder(self.optimizer_name),
            "optimizer file": registry.source_digest(self.optimizer_name),
            "options": {key: str(value) for key, value in registry.options_of(self.optimizer).items()},
            "models": models,
            "task": task.name,
            "prompt": task.initial.id,
            "data": self.data_digest,
            "metric": name_in_folder(task.metric.name),
            "metric file": str(getattr(task.metric, "digest", "")),
            "description": task.description,
            "input": task.input_column,
            "seed": self.settings.seed,
            "proof_examples": self.settings.proof_examples,
            "max_prompt_tokens": self.max_prompt_tokens,
            **({} if self.settings.race is None else {"race": self.settings.race}),
            "prices": [str(spec.prices) for spec in self.models.values()] if budget.usd is not None else [],
            "predict": predict_identity(task),
            "budget": {key: None if value is None else str(value) for key, value in asdict(budget).items()},
            **_label_identity(self.optimizer, task),
            **plugged_identity(self.source, task),
            **({"objectives": list(self.settings.objectives)} if self.settings.objectives else {}),
        }


def held_out(n_dev: int, n_held: int, seed: int) -> set[int]:
    """Return the numbers of the dev examples that are held out, drawn by seed."""
    return set(np.random.default_rng([seed, 2]).permutation(n_dev)[:n_held].tolist())


def make_plan(task: Task, settings: Settings, notes: tuple[str, ...] = ()) -> Plan:
    """Return the plan of a run.

    Raises:
        ConfigError: a model, key, price, option or limit does not allow the run; nothing was spent.
    """
    said = list(notes)
    auto = settings.auto
    if auto is None and settings.budget == Budget():
        said.append("no budget given: at most 1,000 calls (set --auto light, --budget-usd or --budget-calls)")
    settings = settings.with_default_budget(task.calls_per_answer)
    _check_targets(task)
    name, optimizer = _pick_optimizer(task, settings, said)
    needs = _needs(optimizer, task, settings)
    models = find_models(settings, needs, ("task", "optimizer"))
    _check_needs(name, optimizer, task)
    _check_objectives(name, optimizer, task, settings, models["task"])
    said += [*unused_models(settings, needs), *check_images(task, models)]
    if "log-probabilities" in needs:
        seen = task if task.is_scored else task.without_targets()
        models["task"] = _with_logprobs(models["task"], name, optimizer, seen)
    max_prompt_tokens = settings.max_prompt_tokens or max(2000, 4 * prompt_tokens(task.initial))
    if (n := prompt_tokens(task.initial)) > max_prompt_tokens:
        raise ConfigError(f"the prompt has about {n} tokens; raise --max-prompt-tokens above that")
    data_digest, whole = _data_digest(task), task
    sizing = Sizing(task, settings, models, optimizer, max_prompt_tokens)
    if "optimizer" in models and settings.budget.usd is not None and (ratio := sizing.writing_price()) is not None:
        optimizer, note = registry.at_price(optimizer, ratio)
        sizing = replace(sizing, optimizer=optimizer)
        said += [note] if note else []
    limit = settings.limit
    proof_reserve, n_proof = sizing.proof(limit)
    _check_minimum(name, sizing, limit, n_proof, auto)
    task, spare = _cut_test(task, settings, n_proof, said)
    if not task.is_scored and any(example.target is not None for example in (*task.train, *task.dev)):
        said.append(f"metric {UNSCORED}: the targets of the data are left aside")
    if n_proof and not task.is_scored:
        said.append(
            f"no scores: the proof asks {models['judge'].name} as a judge which answers are better; a judge is a "
            "model, no ground truth"
        )
    if task.judged is not None:
        said.append(
            f"metric {task.metric.name}: {models['judge'].name} rates each answer, one more call; a judge is a "
            "model, no ground truth: promptopt judge-check measures it against labels of yours"
        )
    search_limit = limit.minus(proof_reserve)
    search_calls = sizing.search_calls(search_limit)
    n_held = _n_held_out(task, search_limit, sizing.worst_cell, search_calls)
    if n_held:
        said.append(f"{n_held} dev examples are held out; they choose among the finalists")
    n_gate = _N_CHOSEN_FROM * n_held * task.calls_per_example
    search_calls -= sizing.worst_cell.calls * _N_CHOSEN_FROM * n_held // task.calls_per_score
    if models["task"].is_noisy:
        said.append(f"{models['task'].name} takes no temperature 0: its answers count as noisy")
    plan = Plan(
        task=task,
        settings=settings,
        optimizer_name=name,
        optimizer=optimizer,
        models=models,
        holdout=(),
        spare_test=spare,
        worst_pair=sizing.worst_pair,
        worst_cell=sizing.worst_cell,
        limit=limit,
        proof_reserve=proof_reserve,
        gate_reserve=Amount(),
        search_calls=search_calls,
        max_prompt_tokens=max_prompt_tokens,
        forecast=sizing.forecast(limit, search_calls, (n_proof, len(spare)), n_gate),
        concurrency=_concurrency(settings.concurrency, search_limit, sizing.worst_cell, said),
        notes=tuple(said),
        data_digest=data_digest,
        all_dev=task.dev,
        given=whole,
        auto=auto,
    )
    return plan.with_holdout(n_held)


def _pick_optimizer(task: Task, settings: Settings, said: list[str]) -> tuple[str, registry.Optimizer]:
    """Return the strategy with its name; `auto` picks by whether there are labels, or scores that will do."""
    if settings.optimizer != "auto":
        return registry.make_optimizer(settings.optimizer, settings.options)
    if settings.objectives is not None:
        able = registry.weighing(settings.objectives)
        name = next((n for n in able if not _lacks(registry.optimizer_class(n).requires, task)), "")
        if name:
            said.append(f"optimizer {name}, picked by auto: it weighs {' and '.join(settings.objectives)}")
            return registry.make_optimizer(name, settings.options)
    if _is_labelled(task):
        name, reason = registry.AUTO, "the task has labels"
    elif not _lacks(registry.optimizer_class(registry.AUTO).requires, task):
        name, reason = registry.AUTO, "there are scores"
    elif registry.LABEL_FREE in registry.optimizer_names():
        name, reason = registry.LABEL_FREE, "there are no labels"
    else:
        raise ConfigError(f"auto finds no strategy: {_why_unlabelled(task)}, and {_label_free(task)}")
    said.append(f"optimizer {name}, picked by auto: {reason}")
    return registry.make_optimizer(name, settings.options)


def _is_labelled(task: Task) -> bool:
    """Return whether strategies get targets: there are some, and a metric uses them."""
    return task.has_labels and task.is_scored


def _why_unlabelled(task: Task) -> str:
    if task.has_labels:
        return f"the metric {UNSCORED} leaves the targets aside (another --metric uses them)"
    return "no row of the data has a target (if a column holds them, name it with --target)"


def _lacks(requires: Set[str], task: Task) -> str:
    """Return what a strategy requires of a task's examples and metric, and does not get: labels, scores or ""."""
    if "labels" in requires and not _is_labelled(task):
        return "labels"
    return "scores" if "scores" in requires and not task.is_scored else ""


def _label_free(task: Task) -> str:
    """Return in words which strategies can do with what the task has."""
    names = [n for n in registry.optimizer_names() if not _lacks(registry.optimizer_class(n).requires, task)]
    return f"these strategies need no labels: {', '.join(names)}" if names else "every strategy needs labels"


def _needs(optimizer: registry.Optimizer, task: Task, settings: Settings) -> frozenset[str]:
    """Return what the run needs or can use: the strategy's needs, and a judge for scores, or a proof without."""
    has_proof = bool(task.test) and settings.proof_examples != 0
    is_judged = task.judged is not None or (has_proof and not task.is_scored)
    judge = frozenset({"judge"} if is_judged else ())
    return registry.uses(optimizer) | judge


def _with_logprobs(spec: ModelSpec, name: str, optimizer: registry.Optimizer, task: Task) -> ModelSpec:
    """Return the task model with log-probabilities asked for, if it takes that and the task has labels.

    Raises:
        ConfigError: it does not, and the strategy cannot do without.
    """
    lack = ""
    if not task.labels:
        lack = "the task has no closed set of labels (declare them: Task.labels)"
    elif task.predict is not None:
        lack = "the task has a predict function of its own, whose replies carry none"
    elif not spec.facts.takes_logprobs:
        lack = f"{spec.name} gives none"
    if not lack:
        return replace(spec, top_logprobs=N_TOP_LOGPROBS)
    if "log-probabilities" in optimizer.requires:
        raise ConfigError(f"optimizer {name!r} needs log-probabilities of labels, and {lack}")
    return spec


def name_in_folder(plugin: str) -> str:
    """Return the name of a plug-in without the folder of its file, whose content counts on its own."""
    return re.sub(r"[^:]*/", "", plugin)


def model_identity(spec: ModelSpec) -> dict[str, Any]:
    """Return what tells a model with its settings from another, as JSON would have it."""
    return {
        **{"name": spec.name, "max_tokens": spec.max_tokens, "temperature": spec.temperature},
        **address_identity(spec.api_base),
        **({"options": [list(pair) for pair in spec.options]} if spec.options else {}),
    }


def address_identity(address: str | None) -> dict[str, Any]:
    """Return what tells an address from another, without a token that it may hold."""
    if address is None or masked(address) == address:
        return {"api_base": address}
    return {"api_base": masked(address), "api_base digest": digest(address)}


def _label_identity(optimizer: registry.Optimizer, task: Task) -> dict[str, Any]:
    """Return labels and their words where a strategy may read log-probabilities, which hang on them."""
    is_read = "log-probabilities" in registry.uses(optimizer)
    return {"labels": [list(task.labels), list(task.label_words)]} if is_read else {}


def plugged_identity(source: Mapping[str, str], task: Task) -> dict[str, str]:
    """Return the pattern of the answer's place, and the digest of the file of a task that is a plug-in."""
    pattern = getattr(getattr(task.metric, "finder", None), "pattern", None)
    said = {"answer pattern": pattern, "task file": source.get("task_file_digest")}
    return {key: value for key, value in said.items() if value}


def predict_identity(task: Task) -> str:
    """Return what tells a task's own function from another: its name and how often it calls."""
    if task.predict is None:
        return ""
    name = getattr(task.predict, "__qualname__", type(task.predict).__qualname__)
    return f"{name} x {task.calls_per_example}"


def _check_targets(task: Task) -> None:
    """Raise ConfigError if only some examples have targets: then neither scores nor a judge would do."""
    rows = (*task.train, *task.dev, *task.test)
    missing = [example.id for example in rows if example.target is None]
    if task.is_scored and 0 < len(missing) < len(rows):
        raise ConfigError(
            f"task {task.name!r}: {len(missing)} of {len(rows)} examples have no target, the first is "
            f"{missing[0]!r}; give every example a target, or none of them, or set the metric {UNSCORED}"
        )


def _check_needs(name: str, optimizer: registry.Optimizer, task: Task) -> None:
    """Raise ConfigError where something that the strategy requires is not there."""
    if lack := _lacks(optimizer.requires, task):
        instead = ", or score answers without targets: --metric judge:FILE.md" if lack == "scores" else ""
        why = f"{_why_unlabelled(task)}{instead}"
        raise ConfigError(f"optimizer {name!r} needs {lack}, and {why}; {_label_free(task)}")


def _check_objectives(
    name: str, optimizer: registry.Optimizer, task: Task, settings: Settings, spec: ModelSpec
) -> None:
    """Raise ConfigError where the strategy cannot weigh what the user wants weighed, or it cannot be known."""
    wanted = settings.objectives
    if wanted is None:
        return
    if not set(wanted) <= getattr(optimizer, "objectives", frozenset()):
        able = ", ".join(registry.weighing(wanted)) or "none"
        raise ConfigError(
            f"optimizer {name!r} cannot weigh {' and '.join(wanted)}; these can: {able}; take one of them "
            "(--optimizer), or leave --objectives out"
        )
    if COST not in wanted:
        return
    if spec.price_in is None:
        raise ConfigError(
            f"--objectives cost: the price of {spec.name} is unknown; tell it (--price-in, --price-out), or weigh "
            "prompt_tokens instead"
        )
    if spec.is_free:
        raise ConfigError(f"--objectives cost: {spec.name} costs nothing; weigh prompt_tokens instead")
    if task.predict is not None:
        raise ConfigError(
            "--objectives cost: the task has a predict function of its own, whose answers may take several calls; "
            "weigh prompt_tokens instead"
        )


def _check_minimum(name: str, sizing: Sizing, limit: Amount, n_proof: int, auto: str | None) -> None:
    """Raise ConfigError, with the least budget that works, where the search cannot even start."""
    search, minimum = limit.minus(sizing.proof(limit)[0]), sizing.optimizer.minimum_calls()
    if minimum > MOST_CALLS:
        raise ConfigError(f"{name} needs at least {minimum:,} calls with these options; lower its sizes (--set)")
    if sizing.can_search(search):
        return
    budget = sizing.settings.budget
    least = sizing.least_budget()
    short = [
        f"--budget-{key} {amount}" + f" instead of --auto {auto}" * (key == "calls" and auto is not None)
        for key, amount in least.items()
        if (given := getattr(budget, key)) is not None and Decimal(str(given)) < Decimal(amount)
    ]
    n = max(0, sizing.search_calls(search))
    raise ConfigError(
        f"the budget is too small: besides a proof on {n_proof} examples it affords the search about {n} calls; "
        f"{name} needs at least {minimum}, and each is held at its worst case: give at "
        f"least {' and '.join(short) or 'more'}" + (", or lower --proof-examples" if n_proof else "")
    )


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


def _n_held_out(task: Task, search: Amount, worst: Amount, search_calls: int) -> int:
    """Return how many dev examples to hold out: some where there are scores and the search is large enough."""
    if not task.is_scored or len(task.dev) < MIN_DEV_FOR_HOLDOUT or search_calls < MIN_CALLS_FOR_HOLDOUT:
        return 0
    most = worst.times(_N_CHOSEN_FROM).count_in(share(search, GATE_SHARE))
    n_held = min(int(HOLDOUT_SHARE * len(task.dev)), most)
    return n_held if n_held >= MIN_HOLDOUT else 0


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
    return digest([[example.identity for example in split] for split in splits])


def finalists(proposals: list[Candidate], best: Candidate) -> list[Candidate]:
    """Return the candidates that the hold-out chooses among: the best, and the proposals before it."""
    latest = {candidate.id: candidate for candidate in [best, *reversed(proposals)]}
    return list(latest.values())[:N_FINALISTS]
