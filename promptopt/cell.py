"""What one run of a comparison left behind, read from its folder and from the journal that the runs share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from promptopt import promptfile
from promptopt.comparison import CellResult, CellStatus, Gain, Step, Summary
from promptopt.contrast import Row
from promptopt.folder import Shared, open_journal
from promptopt.grid import GridCell
from promptopt.journal import Journal
from promptopt.plan import Plan
from promptopt.result import Spent, SplitScore

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
    return result is not None and result["status"] in _ENDED


def ended(cell: GridCell, shared: Shared) -> Outcome | None:
    """Return the outcome of a cell that has ended in an earlier session; None = it has not, or cannot be read."""
    result = _stored(shared)
    return None if result is None or result["status"] not in _ENDED else read(cell, shared, result)


def read(cell: GridCell, shared: Shared, result: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a cell whose run wrote `result`, the content of its result.json."""
    plan = cell.plan
    assert plan is not None
    with open_journal(shared.folder, shared.run) as journal:
        curve = _curve(journal, plan, result)
        scored = result["improvement"] is not None and plan.task.is_scored
        rows = [
            _row(journal, cell, plan, result[name]["prompt"]) if scored else {} for name in ("initial", "best")
        ]
        paid, attempts = _paid(journal), journal.attempt_counts()
    status: CellStatus = result["status"]
    found = _cell_result(cell, result, status, str(result["reason"]), paid, attempts, curve)
    return Outcome(found, *rows)


def _stored(shared: Shared) -> dict[str, Any] | None:
    """Return a run's result.json if it is whole; what is damaged is made anew from the journal, for nothing."""
    try:
        found = json.loads((shared.place / "result.json").read_text(encoding="utf-8"))
        _ = (
            found["status"],
            found["initial"]["prompt"],
            found["best"]["prompt"],
            found["improvement"],
            found["reason"],
        )
        _spent(found["spend"])
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError):
        return None
    whole: dict[str, Any] = found
    return whole


def _cell_result(
    cell: GridCell,
    result: Mapping[str, Any] | None,
    status: CellStatus,
    reason: str,
    paid: Spent,
    attempts: Mapping[str, int],
    curve: tuple[Step, ...],
) -> CellResult:
    found: Mapping[str, Any] = result or {}
    return CellResult(
        cell=cell.name,
        data=cell.data,
        optimizer=cell.optimizer,
        seed=cell.seed,
        metric=cell.metric,
        status=status,
        reason=reason,
        initial=_summary(found["initial"]) if result else None,
        best=_summary(found["best"]) if result else None,
        gain=_gain(found["improvement"]) if result else None,
        charged=_spent(found["spend"]) if result else None,
        paid=paid,
        attempts=sum(attempts.values()),
        lost_in_flight=attempts.get("lost", 0) + attempts.get("in flight", 0),
        prompts_tried=found["proposals"]["tried"] if result else 0,
        missing=found["missing"] if result else 0,
        unparsed=found["unparsed"] if result else 0,
        curve=curve,
        warnings=tuple(found["warnings"]) if result else (),
    )


def _summary(scores: Mapping[str, Any]) -> Summary:
    return Summary(_split(scores["dev"]), _split(scores["test"]), scores["prompt_tokens"])


def _split(score: Mapping[str, Any] | None) -> SplitScore | None:
    return None if score is None else SplitScore(score["score"], score["n"], tuple(score["ci95"]))


def _gain(proof: Mapping[str, Any] | None) -> Gain | None:
    if proof is None:
        return None
    judged, ci95 = proof["judged"], proof["ci95"]
    return Gain(
        delta=proof["delta"],
        ci95=None if ci95 is None else (ci95[0], ci95[1]),
        p_value=proof["p_value"],
        test=proof["test"],
        verdict=proof["verdict"],
        win_rate=None if judged is None else judged["win_rate"],
    )


def _spent(spend: Mapping[str, Any]) -> Spent:
    cost = spend["cost_usd"]
    dollars = None if cost is None else Decimal(str(cost))
    return Spent(spend["calls"], dollars, spend["input_tokens"], spend["output_tokens"])


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


def _curve(journal: Journal, plan: Plan, result: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the best prompt so far by calls; the initial one is known by what it scored in the end."""
    first, last = result["initial"]["dev"], result["best"]["dev"]
    steps = []
    for event in journal.events("proposal"):
        step = Step(event.get("calls", 0), event.get("dev"), event.get("n", 0))
        if step.dev is None and first is not None and event.get("candidate") == plan.task.initial.id:
            step = Step(step.calls, first["score"], first["n"])
        steps.append(step)
    if last is not None:
        steps.append(Step(result["spend"]["by_phase"]["search"]["calls"], last["score"], last["n"]))
    return tuple(steps)


def _row(journal: Journal, cell: GridCell, plan: Plan, text: str) -> dict[str, float]:
    """Return the scores of a prompt, by its file's text, on the test examples."""
    scores: dict[str, float] = {}
    for candidate in journal.candidates():
        if promptfile.format_prompt(candidate.prompt, cell.front_matter) == text:
            scores = journal.scores(candidate.id)
            break
    return {example.id: scores[example.id] for example in plan.sealed if example.id in scores}
