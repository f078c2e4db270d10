"""What one run of a comparison left behind, read from its folder and from the journal that the runs share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from promptopt import promptfile
from promptopt.comparison import CellResult, CellStatus, Gain, Step, Summary
from promptopt.contrast import Row
from promptopt.errors import ConfigError
from promptopt.folder import Shared, open_journal
from promptopt.grid import GridCell
from promptopt.journal import Journal
from promptopt.plan import Plan
from promptopt.result import Improvement, PromptScores, Result, Spent
from promptopt.result_file import read_result

_ENDED = ("completed", "budget_exhausted")
_NOTHING = Spent(0, Decimal(0), 0, 0)


@dataclass(frozen=True)
class Outcome:
    """A cell with the scores of its prompts on each test example; () = none."""

    result: CellResult
    initial: Row = field(default_factory=dict)
    best: Row = field(default_factory=dict)

    @property
    def was_unanswered(self) -> bool:
        """Whether the run failed without one answer."""
        charged = self.result.charged
        return self.result.status == "failed" and charged is not None and charged.calls == 0


def without_run(cell: GridCell, status: CellStatus, reason: str, shared: Shared | None = None) -> Outcome:
    """Return the outcome of a cell that left no result.

    Args:
        shared: where its journal is, if it has begun.
    """
    paid, attempts = (_NOTHING, {}) if shared is None else _taken(shared)
    return Outcome(_cell_result(cell, None, status, reason, paid, attempts, ()))


def has_ended(shared: Shared) -> bool:
    """Return whether a run's result says that it has ended, by itself or by its budget."""
    result = _stored(shared)
    return result is not None and result.status in _ENDED


def ended(cell: GridCell, shared: Shared) -> Outcome | None:
    """Return the outcome of a cell that has ended; None = it has not, or its result cannot be read."""
    result = _stored(shared)
    return read(cell, shared, result) if result is not None and result.status in _ENDED else None


def read(cell: GridCell, shared: Shared, result: Result | None = None) -> Outcome:
    """Return the outcome of a cell that has a result.

    Args:
        result: as it stands in the run's folder; None = it is read there.

    Raises:
        ConfigError: it cannot be read.
    """
    plan, result = cell.plan, result or read_result(shared.place)
    assert plan is not None
    assert result is not None
    with open_journal(shared.folder, shared.run) as journal:
        curve = _curve(journal, plan, result)
        is_scored = result.improvement is not None and plan.task.is_scored
        rows = [_row(journal, cell, plan, s.prompt) if is_scored else {} for s in (result.initial, result.best)]
        paid, attempts = _paid(journal), journal.attempt_counts()
    return Outcome(_cell_result(cell, result, result.status, result.reason, paid, attempts, curve), *rows)


def _stored(shared: Shared) -> Result | None:
    """Return a run's result if it is whole; what is damaged is made anew from the journal, for nothing."""
    try:
        return read_result(shared.place)
    except ConfigError:
        return None


def _cell_result(
    cell: GridCell,
    result: Result | None,
    status: CellStatus,
    reason: str,
    paid: Spent,
    attempts: Mapping[str, int],
    curve: tuple[Step, ...],
) -> CellResult:
    return CellResult(
        cell=cell.name,
        data=cell.data,
        optimizer=cell.optimizer,
        seed=cell.seed,
        metric=cell.metric,
        status=status,
        reason=reason,
        initial=_summary(result.initial) if result else None,
        best=_summary(result.best) if result else None,
        gain=_gain(result.improvement) if result and result.improvement else None,
        charged=_charged(result) if result else None,
        paid=paid,
        attempts=sum(attempts.values()),
        lost_in_flight=attempts.get("lost", 0) + attempts.get("in flight", 0),
        prompts_tried=result.proposals.get("tried", 0) if result else 0,
        missing=result.missing if result else 0,
        unparsed=result.unparsed if result else 0,
        curve=curve,
        warnings=result.warnings if result else (),
    )


def _summary(scores: PromptScores) -> Summary:
    return Summary(scores.dev, scores.test, scores.prompt_tokens)


def _gain(proof: Improvement) -> Gain:
    return Gain(
        delta=proof.delta,
        ci95=proof.ci95,
        p_value=proof.p_value,
        test=proof.test,
        verdict=proof.verdict,
        win_rate=proof.judged.win_rate if proof.judged else None,
    )


def _charged(result: Result) -> Spent:
    spend = result.spend
    return Spent(spend.calls, spend.cost_usd, spend.input_tokens, spend.output_tokens)


def _taken(shared: Shared) -> tuple[Spent, Mapping[str, int]]:
    with open_journal(shared.folder, shared.run) as journal:
        return _paid(journal), journal.attempt_counts()


def _paid(journal: Journal) -> Spent:
    rows = list(journal.paid())
    costs = [cost for _, _, cost in rows if cost is not None]
    return Spent(
        calls=len(rows),
        cost_usd=sum(costs, Decimal(0)) if len(costs) == len(rows) else None,
        input_tokens=sum(n_in or 0 for n_in, _, _ in rows),
        output_tokens=sum(n_out or 0 for _, n_out, _ in rows),
    )


def _curve(journal: Journal, plan: Plan, result: Result) -> tuple[Step, ...]:
    """Return the best prompt so far by calls; the initial one is known by what it scored in the end."""
    first, last = result.initial.dev, result.best.dev
    steps = []
    for event in journal.events("proposal"):
        step = Step(event.get("calls", 0), event.get("dev"), event.get("n", 0))
        if step.dev is None and first is not None and event.get("candidate") == plan.task.initial.id:
            step = Step(step.calls, first.score, first.n)
        steps.append(step)
    if last is not None:
        search = result.spend.by_phase.get("search", result.spend)
        steps.append(Step(search.calls, last.score, last.n))
    return tuple(steps)


def _row(journal: Journal, cell: GridCell, plan: Plan, text: str) -> dict[str, float]:
    """Return the scores of a prompt, by its file's text, on the test examples."""
    scores: dict[str, float] = {}
    for candidate in journal.candidates():
        if promptfile.format_prompt(candidate.prompt, cell.front_matter) == text:
            scores = journal.scores(candidate.id)
            break
    return {example.id: scores[example.id] for example in plan.sealed if example.id in scores}
