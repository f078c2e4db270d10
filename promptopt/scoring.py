"""Evaluation of a prompt as it is: its score on a split, what it takes, and where it fails.

An evaluation is a run of its own in a journal; in the folder of an `optimize` run it shares that run's answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from promptopt import folder
from promptopt.asking import RunState, broken_reservation
from promptopt.bound import check_count
from promptopt.config import Settings
from promptopt.errors import BudgetExhausted, ConfigError, Interrupted, ProviderError, TaskError, nearest
from promptopt.evaluation import fill_cells, keep_paid, task_request
from promptopt.gate import Gate, prompt_tokens
from promptopt.gateway import Gateway, RetryPolicy
from promptopt.image import USUAL_TOKENS
from promptopt.journal import Journal
from promptopt.ledger import Amount, Lease, Stop
from promptopt.pacing import Pacing
from promptopt.plan import model_identity, name_in_folder, plugged_identity, predict_identity
from promptopt.providers import ModelSpec, Transport
from promptopt.rating import worst_score
from promptopt.result import Spent, SplitScore, Status, as_json, labels_f1, package_version, spend_of, split_score
from promptopt.roles import check_images, find_models, unused_models
from promptopt.run import make_transports
from promptopt.sizing import ANSWER_WORDS, RATING_WORDS
from promptopt.task import Task
from promptopt.types import Candidate, Example, digest

Split = Literal["train", "dev", "test", "all"]
SPLITS: tuple[str, ...] = get_args(Split)
# Examples that are asked about together; between such batches, cells are stored.
_BATCH = 5000


@dataclass(frozen=True)
class Failure:
    """An example on which the prompt scored less than 1.

    Args:
        inputs: the columns that the model saw.
        output: the model's reply; None = its own request was refused.
        reason: why it scored so: the metric's words, or why there is no answer.
    """

    example_id: str
    inputs: dict[str, str]
    output: str | None
    target: str | None
    score: float
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """What a prompt scores on a split, and what it takes.

    Args:
        status: completed, budget_exhausted, interrupted or failed.
        reason: why it ended as it did.
        n: examples that were to be evaluated.
        score: over those that were answered; None = none was.
        macro_f1: mean F1 of the task's labels on the same examples, in [0, 1]; None = the answers are no classes.
        unparsed: replies in which no answer could be found; they score 0.
        missing: examples without an answer; they count in nothing.
        spend: answers used, with what they cost when they were paid.
        by_role: the same by the role of the model: `task`, and `judge` where a judge rates the answers.
        paid_calls: answers that were bought now; the others lay in the journal.
        per_call: means of an answer of the task model: input_tokens, output_tokens, cost_usd (None = unknown).
        per_rating: the same of a judge's rating; None = no judge was asked.
        failures: in the order of the data.
        duration_s: seconds of this session.
    """

    status: Status
    reason: str
    prompt: str
    task: dict[str, Any]
    split: str
    model: dict[str, Any]
    n: int
    score: SplitScore | None
    macro_f1: float | None
    unparsed: int
    missing: int
    spend: Spent
    by_role: dict[str, Spent]
    paid_calls: int
    per_call: dict[str, float | None]
    per_rating: dict[str, float | None] | None
    failures: tuple[Failure, ...]
    duration_s: float
    version: str
    out: str

    def to_json(self) -> str:
        """Return the content of the evaluation's file."""
        return as_json(asdict(self))


@dataclass(frozen=True)
class Estimate:
    """What an evaluation of all examples is expected to take, and the most that this one can.

    Args:
        expected_usd: dollars, as `worst_usd`; None = a price is unknown.
        is_capped: the budget lets it take less than its examples might.
    """

    calls: int
    expected_tokens: int
    expected_usd: Decimal | None
    worst_tokens: int
    worst_usd: Decimal | None
    is_capped: bool = False


class Evaluating:
    """One evaluation in a run folder; `execute` may be called once.

    Args:
        task: with the prompt as its initial one.
        split: which examples.
        n_examples: a random sample of so many, by seed; None = all.
        notes: what was decided about the data, to show.

    Raises:
        ConfigError: there is nothing to score, or a model or option does not allow it.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        split: str = "test",
        n_examples: int | None = None,
        *,
        notes: tuple[str, ...] = (),
        transports: Mapping[str, Transport] | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"--split {split}: {nearest(split, SPLITS)}")
        check_count("--examples", n_examples, 1)
        if settings.auto is not None:
            raise ConfigError(f"auto={settings.auto!r} is a budget of optimize; give Budget(calls=...) here")
        self.task, self.settings, self.split = task, settings, split
        self.examples = _drawn(task, split, n_examples, settings.seed)
        _check_scored(task, self.examples)
        needs = frozenset() if task.judged is None else frozenset({"judge"})
        self.models = find_models(settings, needs, ("task",))
        self.notes = (*notes, *unused_models(settings, needs), *check_images(task, self.models))
        if n_examples is not None and n_examples > len(self.examples):
            self.notes += (f"--examples {n_examples}: there are only {len(self.examples)}",)
        self.folder = settings.out or folder.new_folder(f"{task.name}-evaluate")
        self.stop = Stop()
        self.state: RunState | None = None
        self._transports = make_transports(self.models, task, self.examples) if transports is None else transports
        self._retry = retry

    @property
    def spec(self) -> ModelSpec:
        """The task model."""
        return self.models["task"]

    @property
    def file(self) -> Path:
        """Where its outcome is written: a file for each split, prompt, model, metric and sample."""
        kind = digest(self._identity)[:8]
        return self.folder / f"evaluation-{self.split}-{self.task.initial.id[:8]}-{kind}.json"

    @property
    def n_calls(self) -> int:
        """The calls that it takes where every reply differs and no rating has to be asked for twice."""
        return self.task.calls_per_answer * len(self.examples)

    @cached_property
    def estimate(self) -> Estimate:
        """What this is expected to take; where `predict` makes the calls, as if each showed the prompt once."""
        found, limit = self._unlimited, self.settings.limit
        if limit.limits_calls:
            limit = limit.within(self._worst_example().times(limit.calls))
        usd = None if found.worst_usd is None else min(found.worst_usd, limit.usd)
        capped = replace(found, worst_tokens=min(found.worst_tokens, limit.tokens), worst_usd=usd)
        return replace(capped, is_capped=capped != found)

    @property
    def _unlimited(self) -> Estimate:
        """The estimate without a budget."""
        per, spec = self.task.calls_per_example, self.spec
        requests = [task_request(self.task, spec, self.task.initial, example) for example in self.examples]
        worst = [spec.worst_case(request) for request in requests]
        n_in = sum(len(m.content.encode("utf-8", "replace")) for r in requests for m in r.messages) // 4
        n_in += USUAL_TOKENS * sum(len(request.images) for request in requests)
        n_target = sum(len(example.target or "") for example in self.examples) // 4
        n_out = min(spec.max_tokens * len(requests), n_target + ANSWER_WORDS[spec.is_simulated] * len(requests))
        is_priced = spec.price_in is not None
        answers = Estimate(
            calls=per * len(requests),
            expected_tokens=per * (n_in + n_out),
            expected_usd=spec.price(per * n_in, per * n_out),
            worst_tokens=per * sum(amount.tokens for amount in worst),
            worst_usd=per * sum((amount.usd for amount in worst), Decimal(0)) if is_priced else None,
        )
        return answers if self.task.judged is None else self._with_ratings(answers, n_out)

    def _with_ratings(self, answers: Estimate, n_out: int) -> Estimate:
        """Return an estimate with the judge's ratings of answers that have `n_out` tokens together."""
        metric, judge, n = self.task.judged, self.models["judge"], len(self.examples)
        assert metric is not None
        forms = [metric.rating_request("-", example) for example in self.examples]
        n_in = sum(len(m.content.encode("utf-8", "replace")) for form in forms for m in form) // 4 + n_out
        n_said = min(judge.max_tokens, RATING_WORDS[judge.is_simulated]) * n
        worst = [worst_score(metric, judge, example, self.spec.max_tokens) for example in self.examples]
        usd, worst_usd = judge.price(n_in, n_said), sum((amount.usd for amount in worst), Decimal(0))
        is_priced = usd is not None and answers.expected_usd is not None
        return Estimate(
            calls=answers.calls + n,
            expected_tokens=answers.expected_tokens + n_in + n_said,
            expected_usd=(answers.expected_usd or Decimal(0)) + (usd or Decimal(0)) if is_priced else None,
            worst_tokens=answers.worst_tokens + sum(amount.tokens for amount in worst),
            worst_usd=(answers.worst_usd or Decimal(0)) + worst_usd if is_priced else None,
        )

    async def execute(self) -> Evaluation:
        """Evaluate, with the answers that lie in the folder, and write the outcome there.

        Raises:
            ConfigError: the folder cannot be used.
            JournalError: it can no longer be written.
        """
        started = time.monotonic()
        identity = self._identity
        name = f"evaluate {digest(identity)}"
        with folder.locked(self.folder), folder.open_journal(self.folder, name) as journal:
            journal.set_config(identity)
            folder.keep_facts(self.folder, self.models.values())
            n_before = journal.attempt_counts().get("ok", 0)
            session = journal.start_session(datetime.now(UTC).isoformat())
            self.state = state = self._make_state(journal)
            status, reason = await self._fill(state, Lease(self.settings.limit, self.stop))
            journal.forget_events("gaps", state.fresh_gaps)  # another evaluation asks again for what is missing
            journal.set_elapsed(session, time.monotonic() - started)
            await journal.committed()
            found = self._evaluation(state, journal.attempt_counts().get("ok", 0) - n_before)
            if status == "completed" and found.score is None:
                status, reason = "failed", "no example was answered: every call failed"
            found = replace(
                found,
                status=status,
                reason=reason,
                duration_s=round(time.monotonic() - started, 3),
            )
            folder.write(self.file, found.to_json())
            return found

    async def _fill(self, state: RunState, lease: Lease) -> tuple[Status, str]:
        """Evaluate all that the budget affords at worst; return how it ended, and why."""
        worst = self._worst_example()
        queue = self.examples
        initial = Candidate(self.task.initial)
        try:
            while queue:
                n = min(_BATCH, worst.count_in(lease.available))
                if not n:
                    return "budget_exhausted", "the budget affords no more examples at worst"
                batch, queue = queue[:n], queue[n:]
                place = f"evaluate:{len(queue)}"
                pairs = [(initial, example) for example in batch]
                try:
                    await fill_cells(state, lease, place, pairs)
                except (BudgetExhausted, Interrupted, ProviderError):
                    await keep_paid(state, lease, place, pairs)
                    raise
        except BudgetExhausted as error:
            return "budget_exhausted", str(error)
        except Interrupted as error:
            return "interrupted", str(error)
        except (ProviderError, TaskError) as error:
            return "failed", str(error)
        return "completed", "every example was asked about"

    def _worst_example(self) -> Amount:
        """Return the most that an example can take, a repair included; nothing where there is no limit."""
        spec, task = self.spec, self.task
        if self.settings.limit == Amount.endless():
            return Amount()
        requests = [task_request(task, spec, task.initial, example) for example in self.examples]
        each = [spec.worst_case(request) for request in requests]
        one = Amount(1, max(a.tokens for a in each), max(a.usd for a in each))
        one = one.times(task.calls_per_example)
        if (metric := task.judged) is None:
            return one
        judge = self.models["judge"]
        scores = [worst_score(metric, judge, example, spec.max_tokens) for example in self.examples]
        return one.plus(Amount(2, max(a.tokens for a in scores), max(a.usd for a in scores)))

    def _make_state(self, journal: Journal) -> RunState:
        seconds = self.settings.budget.seconds
        gateway = Gateway(
            journal,
            self._transports,
            concurrency=self.settings.concurrency,
            retry=self._retry,
            stop=self.stop,
            pacing=Pacing(self.settings.rpm, self.settings.tpm),
            inspect=partial(broken_reservation, self.models, self.settings.limit),
        )
        if seconds is not None:
            gateway.deadlines = {"search": time.monotonic() + seconds}
        return RunState(
            task=self.task,
            models=self.models,
            gateway=gateway,
            journal=journal,
            gate=Gate(self.task, prompt_tokens(self.task.initial)),
            seed=self.settings.seed,
            limits=self.settings.limit,
            # Else the time might end when all is answered and nothing is rated.
            most_unrated=4 * self.settings.concurrency if seconds is not None and self.task.judged else None,
        )

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Return what tells this evaluation from another in the same journal."""
        task = self.task
        return {
            "prompt": task.initial.id,
            "data": digest([example.identity for example in self.examples]),
            "split": self.split,
            "models": {role: model_identity(spec) for role, spec in self.models.items()},
            "metric": name_in_folder(task.metric.name),
            "metric file": str(getattr(task.metric, "digest", "")),
            "input": task.input_column,
            "seed": self.settings.seed,
            **plugged_identity({}, task),
            **({"predict": predict_identity(task)} if task.predict else {}),
        }

    def _evaluation(self, state: RunState, n_paid: int) -> Evaluation:
        task, candidate = self.task, Candidate(self.task.initial)
        pairs = [(example, state.cells.get((candidate.id, example.id))) for example in self.examples]
        cells = [(example, cell) for example, cell in pairs if cell is not None]
        columns = task.shown_columns
        order = {example.id: i for i, example in enumerate((*task.train, *task.dev, *task.test))}
        failures = [
            Failure(
                example.id,
                {column: example.inputs[column] for column in columns},
                cell.output,
                example.target,
                cell.score.value,
                cell.cause or cell.score.feedback or ("" if cell.score.is_parsed else "no answer found in it"),
            )
            for example, cell in cells
            if cell.score.value < 1
        ]
        spend = spend_of(state)
        return Evaluation(
            status="completed",
            reason="",
            prompt=task.initial.id,
            task={"name": task.name, "metric": task.metric.name},
            split=self.split,
            model={"name": self.spec.name, "is_simulated": self.spec.is_simulated},
            n=len(self.examples),
            score=split_score([cell.score.value for _, cell in cells]),
            macro_f1=labels_f1(task.metric, cells, (*task.train, *task.dev, *task.test)),
            unparsed=sum(not cell.score.is_parsed for _, cell in cells),
            missing=len(pairs) - len(cells),
            spend=Spent(spend.calls, spend.cost_usd, spend.input_tokens, spend.output_tokens),
            by_role=spend.by_role,
            paid_calls=n_paid,
            per_call=_per_call(spend.by_role.get("task", spend)),
            per_rating=_per_call(spend.by_role["judge"]) if "judge" in spend.by_role else None,
            failures=tuple(sorted(failures, key=lambda failure: order[failure.example_id])),
            duration_s=0.0,
            version=package_version(),
            out=str(self.folder),
        )


def _per_call(spend: Spent) -> dict[str, float | None]:
    """Return the means of an answer; 0 where there was none."""
    n = max(1, spend.calls)
    cost = None if spend.cost_usd is None else float(spend.cost_usd) / n
    return {"input_tokens": spend.input_tokens / n, "output_tokens": spend.output_tokens / n, "cost_usd": cost}


def _drawn(task: Task, split: str, n: int | None, seed: int) -> tuple[Example, ...]:
    """Return the examples of a split in random order, so that any first part is a fair sample."""
    pool = (*task.train, *task.dev, *task.test) if split == "all" else getattr(task, split)
    if not pool:
        raise ConfigError(f"the {split} split of task {task.name!r} is empty; choose another --split")
    order = np.random.default_rng([seed, 3]).permutation(len(pool))
    return tuple(pool[i] for i in order[:n])


def _check_scored(task: Task, examples: tuple[Example, ...]) -> None:
    """Raise ConfigError where replies cannot be scored."""
    if not task.is_scored:
        raise ConfigError(
            "there is nothing to score by: the data has no targets, or --metric none was given; name the column "
            "of the right answers with --target, or take a --metric that looks at the reply alone"
        )
    unknown = next((example.id for example in examples if example.target is None), None)
    if unknown is not None and any(example.target is not None for example in examples):
        raise ConfigError(f"example {unknown!r} has no target, others have one; give every example one, or none")
