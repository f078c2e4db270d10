"""How far a rubric judge can be trusted: its agreement with hand labels, and how much it varies when asked again.

Every row holds a reply, the label that a person gave it, and the inputs. The judge rates each reply as in a run,
and then again, at the same temperature. All of it is journaled and stays within a budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from promptopt import data, folder, scoring
from promptopt.agreement import Agreement, Estimate, Noise, agreement, noise
from promptopt.asking import N_ROUNDS, RunState, broken_reservation
from promptopt.bound import check_count
from promptopt.config import Settings, check_same
from promptopt.errors import BudgetExhausted, ConfigError, Interrupted, TooManyMissing, TransientError
from promptopt.gate import Gate
from promptopt.gateway import Gateway, RetryPolicy
from promptopt.journal import Journal
from promptopt.ledger import Amount, Lease, Stop
from promptopt.pacing import Pacing
from promptopt.plan import address_identity
from promptopt.providers import ModelSpec, Transport
from promptopt.rating import Rating, rate_all, rater
from promptopt.result import Spend, Status, as_json, spend_of
from promptopt.roles import find_models
from promptopt.run import make_transports
from promptopt.sizing import RATING_WORDS
from promptopt.task import Task
from promptopt.tasks.rubric import PREFIX, Rubric, load
from promptopt.types import Budget, Example, Prompt, Request, Role, digest

_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_N_SHOWN = 5
_MOST_REPEATS = 1000


@dataclass(frozen=True)
class Labelled:
    """A reply to an example, with the label that a person gave it, in [0, 1]."""

    example: Example
    reply: str
    label: float


@dataclass(frozen=True)
class Difference:
    """A reply on which judge and person differ; `feedback` is the judge's."""

    id: str
    label: float
    rating: float
    feedback: str | None


@dataclass(frozen=True)
class Report:
    """What a check found.

    Args:
        status: completed, budget_exhausted or interrupted.
        temperature: at which the judge rates; None = the model takes none.
        rows: labelled replies.
        rated: those of them that have a first rating, which agreement is measured on.
        repeats: ratings of each reply that were asked for.
        missing: ratings that failed or could not be read, and were not counted.
        reason: "" = complete; else what is lacking, and why.
        agreement: of the first ratings with the labels.
        noise: between the ratings of a reply; None = no reply has two.
        differences: the largest, at most 5, largest first.
    """

    status: Status
    rubric: str
    model: str
    is_simulated: bool
    temperature: float | None
    rows: int
    rated: int
    repeats: int
    missing: int
    reason: str
    agreement: Agreement
    noise: Noise | None
    differences: tuple[Difference, ...]
    spend: Spend
    out: str

    def to_json(self) -> str:
        """Return the report as JSON."""
        return as_json(asdict(self))


@dataclass(frozen=True)
class Check:
    """All that a check does, decided before it spends anything.

    Args:
        judge: the model, at the temperature at which it rates.
        repeats: ratings of each reply, at least 1.
        folder: of the journal.
        notes: sentences for the screen.
        stop: set, it ends the check as soon as what is in flight has arrived.
    """

    metric: Rubric
    rows: tuple[Labelled, ...]
    judge: ModelSpec
    limit: Amount
    repeats: int
    settings: Settings
    folder: Path
    notes: tuple[str, ...] = ()
    stop: Stop = field(default_factory=Stop)

    @cached_property
    def estimate(self) -> scoring.Estimate:
        """What this is expected to take: a call for each rating; at worst each is repaired, within the budget."""
        asked = [self._request(row) for row in self.rows if row.reply.strip()]
        worst = [self.judge.worst_case(request) for request in asked]
        n = min(self.repeats * len(asked), self.limit.calls)
        n_bytes = sum(
            len(message.content.encode("utf-8", "replace")) for request in asked for message in request.messages
        )
        n_in = n_bytes * n // (4 * max(1, len(asked)))
        n_out = n * min(self.judge.max_tokens, RATING_WORDS[self.judge.is_simulated])
        # With the longest of each kind, where the budget ends before all are rated; see `_rate` on the repairs.
        n_worst = min(2 * self.repeats * len(asked), self.limit.calls)
        tokens, usd = [one.tokens for one in worst], [one.usd for one in worst]
        worst_usd = min(2 * self.repeats * sum(usd, Decimal(0)), n_worst * max(usd, default=Decimal(0)))
        return scoring.Estimate(
            calls=n,
            expected_tokens=n_in + n_out,
            expected_usd=self.judge.price(n_in, n_out),
            worst_tokens=min(2 * self.repeats * sum(tokens), n_worst * max(tokens, default=0), self.limit.tokens),
            worst_usd=None if self.judge.price_in is None else min(worst_usd, self.limit.usd),
        )

    async def execute(
        self, transports: Mapping[str, Transport] | None = None, retry: RetryPolicy | None = None
    ) -> Report:
        """Rate the replies, within the budget, and return the report; it spends.

        What was rated before in the same folder is not paid again, and counts towards the budget all the same.

        Args:
            transports: by model name, "" for all others; None = litellm and the simulator.

        Raises:
            ConfigError: the folder cannot be used.
            Interrupted: the user asked to stop before any rating was complete; what was paid is kept.
            ProviderError: the run cannot go on, or not one reply was rated; what was paid is kept.
        """
        out = self.folder
        used = transports or make_transports({"judge": self.judge}, self._task, ())
        with folder.locked(out), folder.open_journal(out) as journal:
            known, wanted = journal.config(), self._identity()
            if known:
                check_same(known, wanted, out)
            journal.set_config(wanted)
            journal.start_session(datetime.now(UTC).isoformat())
            n = self.settings.concurrency
            gateway = Gateway(
                journal,
                used,
                concurrency=n,
                retry=retry,
                stop=self.stop,
                pacing=Pacing(),
                inspect=partial(broken_reservation, {"judge": self.judge}, self.limit),
            )
            state = self._state(journal, gateway)
            ratings, status, reason = await self._rate(state, Lease(self.limit, self.stop))
            await journal.committed()
            return self._report(state, ratings, status, reason)

    def _identity(self) -> dict[str, Any]:
        rows = [(row.example.id, dict(row.example.inputs), row.example.target, row.reply) for row in self.rows]
        model = {"name": self.judge.name, "max_tokens": self.judge.max_tokens}
        model |= address_identity(self.judge.api_base)
        if self.judge.options:
            model["options"] = [list(pair) for pair in self.judge.options]
        metric = {"check": self.metric.name, "metric file": self.metric.digest}
        return {**metric, "data": digest(rows), "judge": model, "budget": {}}

    @property
    def _task(self) -> Task:
        examples = tuple(row.example for row in self.rows)
        return Task("judge-check", self.metric, train=examples[:1], dev=examples[1:], initial=Prompt("-"))

    def _state(self, journal: Journal, gateway: Gateway) -> RunState:
        models: dict[Role, ModelSpec] = {"judge": self.judge}
        gate = Gate(self._task, 1)
        return RunState(self._task, models, gateway, journal, gate, self.settings.seed, self.limit)

    async def _rate(self, state: RunState, lease: Lease) -> tuple[list[list[Rating]], Status, str]:
        """Return the ratings of each row, the first of all rows before any second; how it ended; what it lacks."""
        ratings: list[list[Rating]] = [[] for _ in self.rows]
        # Of two calls at worst, a rating and its repair, so that none of a batch is left without.
        worst = [self._worst(row).times(2) for row in self.rows]
        for i_repeat in range(self.repeats):
            start = 0
            while start < len(self.rows):
                try:
                    batch = range(start, start + await lease.prefix(worst[start:]))
                    found = await self._batch(state, lease, batch, i_repeat)
                except (BudgetExhausted, Interrupted) as error:
                    done = f"{start} of {len(self.rows)} replies have {i_repeat + 1} rating(s)"
                    is_over = isinstance(error, BudgetExhausted)
                    return ratings, "budget_exhausted" if is_over else "interrupted", f"{error}; {done}"
                for i, rating in zip(batch, found, strict=True):
                    ratings[i].append(rating)
                start = batch.stop
        return ratings, "completed", ""

    async def _batch(self, state: RunState, lease: Lease, batch: Sequence[int], i_repeat: int) -> list[Rating]:
        """Return one rating of each row of a batch; what failed for a moment is asked again."""
        place, sample = f"{i_repeat}:{batch[0]}", f"repeat {i_repeat}" if i_repeat else ""
        shown = [(self.rows[i].reply, self.rows[i].example) for i in batch]
        found = await rate_all(state, lease, place, self.metric, shown, sample)
        for _ in range(N_ROUNDS - 1):
            if not any(isinstance(rating.error, TransientError) for rating in found):
                break
            found = await rate_all(state, lease, place, self.metric, shown, sample)
        return found

    def _request(self, row: Labelled) -> Request:
        return self.judge.request(self.metric.rating_request(row.reply, row.example))

    def _worst(self, row: Labelled) -> Amount:
        return self.judge.worst_case(self._request(row))

    def _report(self, state: RunState, ratings: list[list[Rating]], status: Status, reason: str) -> Report:
        firsts = [(row, found[0]) for row, found in zip(self.rows, ratings, strict=True) if found]
        pairs = [(row, rating.score) for row, rating in firsts if rating.score is not None]
        failed = [rating.error for found in ratings for rating in found if rating.error is not None]
        if not pairs and status == "interrupted":
            raise Interrupted(f"{reason}; to go on, run the same command with --out {self.folder}")
        if not pairs:
            why = f"{type(failed[0]).__name__}: {failed[0]}" if failed else reason
            raise TooManyMissing(f"not one reply could be rated ({why}); what was paid is kept in {self.folder}")
        if failed:
            lack = f"{len(failed)} rating(s) are missing ({type(failed[0]).__name__}: {failed[0]})"
            reason = f"{reason}; {lack}" if reason else lack
        gaps = [Difference(row.example.id, row.label, score.value, score.feedback) for row, score in pairs]
        gaps.sort(key=lambda gap: -abs(gap.label - gap.rating))
        values = [[rating.score.value for rating in found if rating.score is not None] for found in ratings]
        return Report(
            status=status,
            rubric=self.metric.name,
            model=self.judge.name,
            is_simulated=self.judge.is_simulated,
            temperature=self.judge.temperature,
            rows=len(self.rows),
            rated=len(pairs),
            repeats=self.repeats,
            missing=len(failed),
            reason=reason,
            agreement=agreement([row.label for row, _ in pairs], [score.value for _, score in pairs]),
            noise=noise(values),
            differences=tuple(gap for gap in gaps[:_N_SHOWN] if gap.label != gap.rating),
            spend=spend_of(state),
            out=str(self.folder),
        )


def make_check(rubric: str, source: Path, settings: Settings, *, repeats: int = 3) -> Check:
    """Return a check of the judge `settings.model` on labelled replies; nothing is spent.

    Args:
        rubric: file of the rubric; `judge:` before it may be left out.
        source: data file whose rows hold `reply`, `score` (in [0, 1], or yes or no), the inputs, and `target`
            where there is a right answer.
        repeats: ratings of each reply, at least 1; one tells nothing of noise.

    Raises:
        ConfigError: rubric, data, model, price or budget do not allow the check.
    """
    if repeats < 1:
        raise ConfigError(f"--repeats is {repeats}; each reply is rated at least once, and twice to see noise")
    check_count("--repeats", repeats, 1, _MOST_REPEATS)
    metric = load(rubric if rubric.startswith(PREFIX) else PREFIX + rubric)
    rows, notes = load_labelled(source)
    if settings.budget == Budget():
        settings = settings.with_default_budget()
        notes = (*notes, "no budget given: at most 1,000 calls (set --budget-usd or --budget-calls)")
    if settings.budget.seconds is not None:
        raise ConfigError("a check has no limit of seconds; give --budget-calls or --budget-usd")
    judge = rater(find_models(settings, frozenset({"judge"}), ())["judge"])
    if judge.is_simulated and (lack := next((row for row in rows if row.example.target is None), None)):
        raise ConfigError(
            f"{source}: the simulator rates by the targets of the data, and row {lack.example.id!r} has none; add "
            "a column target, or take a real model"
        )
    out = settings.out or folder.new_folder("judge-check")
    check = Check(metric, rows, judge, settings.limit, repeats, settings, out, notes)
    if over := check._worst(rows[0]).times(2).excess(check.limit):
        raise ConfigError(f"the budget affords not one rating with its repair: {over}; raise it")
    return check


def load_labelled(source: Path) -> tuple[tuple[Labelled, ...], tuple[str, ...]]:
    """Return the labelled replies of a data file, and notes on what was dropped.

    Raises:
        ConfigError: a column or a label is missing or wrong; with file and row.
    """
    rows = data.load(source, seed=0, target="score", input="reply", has_alternatives=False)
    examples = sorted((*rows.train, *rows.dev, *rows.test), key=lambda example: example.id)
    return tuple(_labelled(example, source) for example in examples), tuple(
        n for n in rows.notes if "dropped" in n
    )


def _labelled(example: Example, source: Path) -> Labelled:
    said = (example.target or "").strip()
    try:
        label = _WORDS[said.casefold()] if said.casefold() in _WORDS else float(said)
    except ValueError:
        label = float("nan")
    if not 0 <= label <= 1:
        raise ConfigError(
            f"{source}: row {example.id!r} has the score {said[:40]!r}; write a number in [0, 1], or yes or no"
        )
    inputs = {key: value for key, value in example.inputs.items() if key not in ("reply", "target")}
    target = example.inputs.get("target") or None
    return Labelled(replace(example, inputs=inputs, target=target), example.inputs["reply"], label)


# Words ----------------------------------------------------------------------------------------------


def lines(report: Report) -> Iterator[str]:
    """Yield a report as lines of text."""
    if report.is_simulated:
        yield "SIMULATED MODEL: these figures say nothing about a real one."
    at = "its own temperature" if report.temperature is None else f"temperature {report.temperature:g}"
    yield f"{report.model} by {report.rubric}: {report.rated} of {report.rows} labelled replies rated, at {at}"
    found = report.agreement
    yield ""
    yield f"agreement with the labels, first rating of each (n={found.n})"
    yield f"  Spearman correlation      {_figure(found.spearman)}"
    yield f"  Pearson correlation       {_figure(found.pearson)}"
    yield f"  mean absolute difference  {_figure(found.difference)}"
    if found.accuracy is not None:
        yield f"  accuracy at 0.5           {_figure(found.accuracy)}"
        yield f"  Cohen's kappa             {_figure(found.kappa)}"
    yield ""
    if report.noise is None:
        yield "repeat noise: unknown, no reply has two ratings"
    else:
        yield f"repeat noise ({report.noise.n} replies, up to {report.repeats} ratings each)"
        yield f"  share of replies whose rating changes  {_figure(report.noise.changed)}"
        yield f"  standard deviation between repeats     {report.noise.sd:.3f}"
    if report.differences:
        yield ""
        yield "largest differences:"
    for gap in report.differences:
        why = f" ({gap.feedback})" if gap.feedback else ""
        yield f"  {gap.id}: label {gap.label:g}, judge {gap.rating:.3g}{why}"
    yield ""
    cost = "unknown cost" if report.spend.cost_usd is None else f"${report.spend.cost_usd:.4f}"
    yield f"spend {cost}, {report.spend.calls} calls; all answers lie in {report.out}"
    if report.reason:
        yield f"not complete: {report.reason}"


def _figure(estimate: Estimate | None) -> str:
    if estimate is None:
        return "undefined (too few rows, or all alike)"
    if estimate.ci95 is None:
        return f"{estimate.value:.3f} (no interval)"
    return f"{estimate.value:.3f} (95%: {estimate.ci95[0]:.3f} to {estimate.ci95[1]:.3f})"
