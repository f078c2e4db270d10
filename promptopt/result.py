"""The result of a run: what `result.json` holds. The schema is in docs/result.schema.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from promptopt.stats import Comparison, score_interval

Status = Literal["completed", "budget_exhausted", "interrupted", "failed"]


@dataclass(frozen=True)
class SplitScore:
    """Mean score on a split, in [0, 1], over `n` evaluated examples, with a 95% interval."""

    score: float
    n: int
    ci95: tuple[float, float]


@dataclass(frozen=True)
class PromptScores:
    """A prompt in the format of the prompt file, and its scores; None = not evaluated.

    Args:
        prompt_tokens: estimated tokens of the prompt without an example's input.
    """

    prompt: str
    dev: SplitScore | None
    test: SplitScore | None
    prompt_tokens: int


@dataclass(frozen=True)
class Improvement:
    """The proof: best against initial prompt, paired on the test split.

    Args:
        delta: mean score gained, positive = better.
        p_value: two-sided.
        verdict: proven, not_proven or worse, at level .05.
        smallest_provable: smallest gain that this test split could have proved; None = none could.
        fixed: ids of examples on which the best prompt scores higher.
        broken: ids of examples on which it scores lower.
    """

    delta: float
    ci95: tuple[float, float]
    p_value: float
    test: str
    verdict: Literal["proven", "not_proven", "worse"]
    smallest_provable: float | None
    fixed: tuple[str, ...]
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Spent:
    """Answers used and what they took; `cost_usd` None = a price is unknown."""

    calls: int
    cost_usd: Decimal | None
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Spend(Spent):
    """Spend of a whole run.

    Args:
        attempts: live calls sent, failed and lost ones included.
        lost_in_flight: live calls whose answers a kill of the process lost.
    """

    attempts: int
    lost_in_flight: int
    by_role: dict[str, Spent]
    by_phase: dict[str, Spent]


@dataclass(frozen=True)
class Result:
    """What a run found, with the evidence.

    Args:
        status: completed, budget_exhausted, interrupted or failed.
        reason: why the run ended as it did.
        initial: the user's prompt.
        best: the best prompt found; the initial one if nothing was better.
        improvement: the proof; None if there was none (no test split, or the run did not get there).
        proposals: `tried` candidates evaluated, `accepted` as better than the incumbent.
        evaluations: cells `spent`, `saved_by_racing`, and `cached` (answers that were already there).
        unparsed: answers in which no answer could be found; they score 0.
        duration_s: seconds, over all sessions.
    """

    status: Status
    reason: str
    optimizer: str
    options: dict[str, Any]
    seed: int
    task: dict[str, Any]
    models: dict[str, Any]
    initial: PromptScores
    best: PromptScores
    improvement: Improvement | None
    proposals: dict[str, int]
    spend: Spend
    evaluations: dict[str, int]
    unparsed: int
    duration_s: float
    version: str
    out: str | None = None

    def to_json(self) -> str:
        """Return the content of `result.json`."""
        fields = asdict(self)
        del fields["out"]
        return json.dumps(fields, ensure_ascii=False, indent=2, default=_plain, allow_nan=False) + "\n"


def split_score(values: list[float]) -> SplitScore | None:
    """Return the mean of `values` with its interval; None if there are none."""
    if not values:
        return None
    return SplitScore(sum(values) / len(values), len(values), score_interval(values))


def improvement(comparison: Comparison, ids: list[str]) -> Improvement:
    """Return the proof with the ids of the examples that changed."""
    return Improvement(
        delta=comparison.delta,
        ci95=comparison.ci95,
        p_value=comparison.p_value,
        test=comparison.test,
        verdict=comparison.verdict,
        smallest_provable=comparison.smallest_provable,
        fixed=tuple(ids[i] for i in comparison.fixed),
        broken=tuple(ids[i] for i in comparison.broken),
    )


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no place in result.json")
