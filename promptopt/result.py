"""The result of a run: what `result.json` holds. The schema is in docs/result.schema.json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from promptopt import promptfile
from promptopt.asking import Cell, RunState, Tally
from promptopt.gate import prompt_tokens
from promptopt.named_budget import least_name
from promptopt.plan import Plan
from promptopt.registry import deviations_of, options_of
from promptopt.stats import Comparison, compare, macro_f1, score_interval
from promptopt.types import Candidate, Example, LabelMetric, Metric

if TYPE_CHECKING:
    import pandas

# Characters that would steer a terminal or a reader's eye, or that UTF-8 cannot carry; they only stand in
# JSON strings, where the escape means the same.
_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")

# Below so many prompts a search has hardly begun; a larger budget is reckoned to afford so many. Our choice.
FEWEST_TRIED, _WANTED_TRIED = 5, 10
SIGN_TEST = "sign test of judge verdicts"

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
        macro_f1: mean F1 of the task's labels on the examples behind `test`, in [0, 1]; None = the answers are no
            classes, or there is no proof.
    """

    prompt: str
    dev: SplitScore | None
    test: SplitScore | None
    prompt_tokens: int
    macro_f1: float | None = None


@dataclass(frozen=True)
class FrontPrompt:
    """A prompt of a front.

    Args:
        prompt: in the format of the prompt file.
        dev: score on the front's dev examples.
        prompt_tokens: estimated tokens of the prompt without an example's input.
        cost_per_1000_usd: dollars of 1,000 uses, as the answers to these examples cost; None = unknown.
    """

    prompt: str
    dev: SplitScore
    prompt_tokens: int
    cost_per_1000_usd: float | None
    is_best: bool
    is_initial: bool


@dataclass(frozen=True)
class Front:
    """Prompts of which none is better than another in every objective, best dev score first.

    Args:
        n: dev examples that all of them were scored on, and that the front was chosen by.
    """

    objectives: tuple[str, ...]
    n: int
    prompts: tuple[FrontPrompt, ...]


@dataclass(frozen=True)
class Judged:
    """A judge model's verdicts on the answers of best and initial prompt to the same test inputs.

    Args:
        win_rate: (wins + ties / 2) / inputs, in [0, 1], above .5 = the best prompt is preferred; None = nothing
            was compared, since the best prompt is the initial one.
        ci95: 95% interval of `win_rate`.
        wins: inputs on which the best prompt's answer was preferred in both orders.
        losses: inputs on which the initial prompt's was.
        ties: all others.
        unparsed: votes, two for each input, that could not be read; they count for nobody.
        smallest_provable: smallest win rate that so many inputs could have proved; None = none could.
    """

    win_rate: float | None
    ci95: tuple[float, float] | None
    wins: int
    losses: int
    ties: int
    unparsed: int
    smallest_provable: float | None


@dataclass(frozen=True)
class Outcome:
    """How the answers to one test input compare: 1 = the best prompt's wins, -1 = it loses, 0 = a tie.

    Args:
        unparsed: votes of the judge that could not be read.
    """

    example_id: str
    verdict: int
    unparsed: int = 0


@dataclass(frozen=True)
class Improvement:
    """The proof: best against initial prompt, paired on the test split.

    Args:
        delta: mean score gained, positive = better; None = there are no scores, see `judged`.
        ci95: 95% interval of `delta`.
        p_value: two-sided.
        verdict: proven, not_proven or worse, at level .05.
        smallest_provable: smallest gain that this test split could have proved; None = none could.
        fixed: ids of examples on which the best prompt scores higher, or its answer is preferred.
        broken: ids of examples on which it scores lower, or the initial prompt's is preferred.
        judged: what a judge model said, where there are no scores; else None.
    """

    delta: float | None
    ci95: tuple[float, float] | None
    p_value: float
    test: str
    verdict: Literal["proven", "not_proven", "worse"]
    smallest_provable: float | None
    fixed: tuple[str, ...]
    broken: tuple[str, ...]
    judged: Judged | None = None


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
    """What a run found, with the evidence; docs/result.md describes every field.

    Args:
        status: completed, budget_exhausted, interrupted or failed.
        reason: why the run ended as it did.
        source: the strategy's publication.
        deviations: how the strategy differs from it; some by its defaults, which `options` tells from a preset's.
        initial: the user's prompt.
        best: the best prompt found; the initial one if nothing was better.
        improvement: the proof; None = there was none (no test split, or the run did not get there).
        proposals: `tried` candidates evaluated, `accepted` as better than the incumbent.
        evaluations: cells `spent`, `saved_by_racing`, and `cached` (answers that were already there).
        missing: answers still missing when a decision went on without them; never scored.
        unparsed: answers in which no answer could be found; they score 0.
        duration_s: seconds, over all sessions.
        warnings: what makes the outcome say little, each with its remedy.
        front: where the search weighed several objectives; None = it did not.
    """

    status: Status
    reason: str
    optimizer: str
    source: str
    deviations: tuple[str, ...]
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
    missing: int
    unparsed: int
    duration_s: float
    version: str
    warnings: tuple[str, ...] = ()
    front: Front | None = None
    out: str | None = None

    def _repr_html_(self) -> str:
        """Return how a notebook shows it."""
        from promptopt.report.notebook import html_of

        return html_of(self)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table of all prompts that the run met, in the order of their birth; needs pandas.

        Columns: number, id, operator, parents (their numbers), dev_score in [0, 1] and n_dev (its examples),
        prompt_tokens (estimated), calls and cost_usd (spent when it was first scored), is_accepted, is_best,
        prompt.

        Raises:
            ConfigError: pandas is not installed, or the run folder is gone.
        """
        from promptopt.report.notebook import dataframe_of

        return dataframe_of(self)

    def to_json(self) -> str:
        """Return the content of `result.json`."""
        fields = asdict(self)
        del fields["out"]
        return as_json(fields)


def as_json(fields: Mapping[str, Any]) -> str:
    """Return JSON that is safe to show, however hostile its texts are; dollars as numbers."""
    text = json.dumps(fields, ensure_ascii=False, indent=2, default=_plain, allow_nan=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text) + "\n"


def lasting(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `result.json` without what another session of the same run may say otherwise.

    That is: times, how many calls were live or lost in flight, and the version of the program.
    """
    kept = {key: value for key, value in fields.items() if key not in ("duration_s", "version")}
    for part, names in (("spend", ("attempts", "lost_in_flight")), ("evaluations", ("cached",))):
        kept[part] = {key: value for key, value in fields[part].items() if key not in names}
    return kept


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


def judged_improvement(outcomes: Sequence[Outcome]) -> Improvement:
    """Return the proof by a judge's verdicts: balanced win rate and exact two-sided sign test.

    Each input is a pair of 0/1 rows, "the initial prompt's answer won" and "the best prompt's won": the sign
    test of wins against losses is the exact McNemar test on them, the interval of the win rate that of their
    difference (Newcombe's method 10), halved around one half. Assumes independent inputs.
    """
    n, n_unparsed = len(outcomes), sum(outcome.unparsed for outcome in outcomes)
    if n == 0:
        nothing = Judged(None, None, 0, 0, 0, 0, None)
        return Improvement(None, None, 1.0, SIGN_TEST, "not_proven", None, (), (), nothing)
    found = compare([float(o.verdict < 0) for o in outcomes], [float(o.verdict > 0) for o in outcomes])
    wins, losses = len(found.fixed), len(found.broken)
    low, high = found.ci95
    least = found.smallest_provable
    judged = Judged(
        win_rate=_rate(found.delta),
        ci95=(_rate(low), _rate(high)),
        wins=wins,
        losses=losses,
        ties=n - wins - losses,
        unparsed=n_unparsed,
        smallest_provable=None if least is None else _rate(least),
    )
    plain = improvement(found, [outcome.example_id for outcome in outcomes])
    return replace(plain, delta=None, ci95=None, test=SIGN_TEST, smallest_provable=None, judged=judged)


def _rate(lead: float) -> float:
    """Return the win rate that a lead, share won minus share lost, means."""
    return (1 + lead) / 2


def spend_of(state: RunState) -> Spend:
    """Return what a run has taken so far, by role and phase."""
    attempts = state.journal.attempt_counts()
    whole = _spent(list(state.tallies.values()))
    roles = sorted({role for role, _ in state.tallies})
    return Spend(
        **asdict(whole),
        attempts=sum(attempts.values()),
        lost_in_flight=attempts.get("lost", 0) + attempts.get("in flight", 0),
        by_role={r: _spent([t for (role, _), t in state.tallies.items() if role == r]) for r in roles},
        by_phase={
            p: _spent([t for (_, phase), t in state.tallies.items() if phase == p]) for p in ("search", "proof")
        },
    )


def _spent(tallies: list[Tally]) -> Spent:
    costs = [tally.cost_usd for tally in tallies]
    known = [cost for cost in costs if cost is not None]
    return Spent(
        calls=sum(tally.calls for tally in tallies),
        cost_usd=sum(known, Decimal(0)) if len(known) == len(costs) else None,
        input_tokens=sum(tally.input_tokens for tally in tallies),
        output_tokens=sum(tally.output_tokens for tally in tallies),
    )


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no place in result.json")


def make_result(
    plan: Plan, state: RunState, best: Candidate, proof: Improvement | None, front_matter: str
) -> Result:
    """Return the result that a run's state amounts to; how it ended is the run's to say."""
    task = plan.task
    initial = Candidate(task.initial)

    def scores(candidate: Candidate) -> PromptScores:
        return PromptScores(
            prompt=promptfile.format_prompt(candidate.prompt, front_matter),
            dev=split_score(state.dev_scores(candidate.id)),
            test=None if proof is None else _split(state, candidate, plan.sealed),
            prompt_tokens=prompt_tokens(candidate.prompt),
            macro_f1=None if proof is None else _macro_f1(plan, state, candidate),
        )

    return Result(
        status="completed",
        reason="",
        optimizer=plan.optimizer_name,
        source=plan.optimizer.source,
        deviations=deviations_of(plan.optimizer),
        options=options_of(plan.optimizer),
        seed=plan.settings.seed,
        task={
            **{"name": task.name, "metric": task.metric.name, "train": len(task.train)},
            **{"dev": len(task.dev), "holdout": len(plan.holdout), "test": len(task.test) + len(plan.spare_test)},
        },
        models={
            role: {"name": spec.name, "is_simulated": spec.is_simulated} for role, spec in plan.models.items()
        },
        initial=scores(initial),
        best=scores(best),
        improvement=proof,
        proposals={"tried": len(state.tried), "accepted": state.n_accepted},
        spend=spend_of(state),
        evaluations={
            "spent": len(state.cells),
            "saved_by_racing": len(state.saved_cells - state.cells.keys()),
            "cached": state.gateway.n_from_journal,
        },
        missing=state.n_missing,
        unparsed=state.n_unparsed,
        duration_s=0.0,
        version=package_version(),
        front=_front(plan, state, best, front_matter),
    )


def _front(plan: Plan, state: RunState, best: Candidate, front_matter: str) -> Front | None:
    """Return the front that the strategy named last; empty if it did not get there."""
    if plan.settings.objectives is None:
        return None
    candidates, examples = state.front
    prompts = []
    for candidate in candidates:
        cells = [state.cells[candidate.id, example.id] for example in examples]
        dev = split_score([cell.score.value for cell in cells])
        assert dev is not None
        costs = [cell.cost_usd for cell in cells if cell.cause is None]
        known = [cost for cost in costs if cost is not None]
        is_known = len(known) == len(costs) > 0
        prompts.append(
            FrontPrompt(
                prompt=promptfile.format_prompt(candidate.prompt, front_matter),
                dev=dev,
                prompt_tokens=prompt_tokens(candidate.prompt),
                cost_per_1000_usd=float(1000 * sum(known, Decimal(0)) / len(known)) if is_known else None,
                is_best=candidate.id == best.id,
                is_initial=candidate.id == plan.task.initial.id,
            )
        )
    return Front(state.objectives, len(examples), tuple(prompts))


def warnings_of(result: Result, plan: Plan) -> tuple[str, ...]:
    """Return the warning that a search, which nothing else cut short, tried too few prompts; () = enough."""
    n_tried = result.proposals["tried"]
    if n_tried >= FEWEST_TRIED or result.status in ("failed", "interrupted"):
        return ()
    few = f"prompts tried: {n_tried}; with fewer than {FEWEST_TRIED} a search has hardly begun"
    n_evaluated = n_tried + 1  # with the initial prompt
    each = result.spend.by_phase["search"].calls / n_evaluated
    wanted = _rounded_up(result.spend.calls * (_WANTED_TRIED + 1) / n_evaluated)
    name = least_name(wanted, plan.task.calls_per_answer)
    instead = f", or take --auto {name}" if name else ""
    more = f"raise the budget to about {wanted:,} calls{instead}"
    if result.status == "completed":  # some strategies end by themselves where the budget affords no further step
        more += f"; or, since it ended by itself, see its options (promptopt optimizers {result.optimizer})"
    return (f"{few}. Each took about {each:,.0f} calls: {more}.",)


def _rounded_up(number: float) -> int:
    """Return the least number of two significant digits that is at least `number`, which is above 0."""
    unit: int = 10 ** max(0, len(str(math.ceil(number))) - 2)
    return math.ceil(number / unit) * unit


def package_version() -> str:
    """Return the installed version of this distribution."""
    try:
        return version("promptopt-suite")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def _split(state: RunState, candidate: Candidate, examples: tuple[Example, ...]) -> SplitScore | None:
    if not state.task.is_scored:
        return None
    cells = (state.cells.get((candidate.id, example.id)) for example in examples)
    return split_score([cell.score.value for cell in cells if cell is not None])


def _macro_f1(plan: Plan, state: RunState, candidate: Candidate) -> float | None:
    """Return a candidate's macro-F1 on the test examples."""
    task = plan.task
    rows = (*task.train, *task.dev, *plan.holdout, *plan.sealed)
    cells = [(example, state.cells.get((candidate.id, example.id))) for example in plan.sealed]
    return labels_f1(task.metric, [(example, cell) for example, cell in cells if cell is not None], rows)


def labels_f1(metric: Metric, cells: Sequence[tuple[Example, Cell]], rows: Sequence[Example]) -> float | None:
    """Return the macro-F1 of answers; an unreadable one is wrong, and of no class.

    Args:
        rows: all rows whose labels count.

    Returns:
        A number in [0, 1]; None = the answers are no classes, or there are none.
    """
    if not isinstance(metric, LabelMetric) or not cells:
        return None
    pairs = [metric.classes(cell.output or "", example) for example, cell in cells]
    return macro_f1(pairs, {metric.classes("", example)[0] for example in rows})
