"""dspy's GEPA, MIPROv2 and BootstrapFewShotWithRandomSearch, on `dspy.Predict` of a signature `input -> answer`.

Its instructions are the initial prompt. Train is the `trainset`, dev (or the first part of it) the `valset`. The
disk cache is off; the cache in memory, which answers equal requests of one run, is on, as it is by default. So
fewer answers may be asked for than there are evaluations. The task model gets temperature 0, the prompt or
reflection model 1. An answer that cannot be read from the reply counts as "".

- `dspy-gepa`: `max_metric_calls` = budget, all else by default.
- `dspy-miprov2`: `auto=None`, `num_candidates` and `num_trials` of `plan_mipro`, all else by default. A reply of
  the optimizer model that cannot be read ends its search with an error: then, as its user would, it is started
  again with another seed, twice at most, and all calls count. After three errors the initial prompt is what was
  found.
- `dspy-bootstrap`: `num_candidate_programs` of `plan_random_search`, all else by default.

The metric is 1 or 0 where a demonstration is wanted (1 = all is right), as dspy's documentation has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dspy
from common import KEY, THREADS, Found, Job, Row, run
from dspy.utils.exceptions import AdapterParseError

MINIBATCH = 35  # dspy's default, as is a full evaluation each 5 trials
FULL_EVERY = 5
LEAST_CANDIDATES = 6  # those of auto="light", the fewest that dspy offers by itself
TRIES = 3
ASKED = 0.85  # of MIPROv2's evaluations; its cache answers those of a program that was tried before
LEAST_RIGHT = 0.6  # of the answers with demonstrations, where it is guessed how many a bootstrap asks for


class Plan(NamedTuple):
    """What a budget is spent on.

    Args:
        n_candidates: of demonstration sets, and of instructions if there are any.
        n_validation: examples of dev.
        n_trials: of MIPROv2.
        is_minibatch: trials are on minibatches, with a full evaluation at times.
    """

    n_candidates: int
    n_validation: int
    n_trials: int = 0
    is_minibatch: bool = False


def bootstrap_calls(n_sets: int) -> int:
    """Return about how many answers bootstrapping takes: a set of 4 demonstrations, and others of 1 to 4."""
    return math.ceil((4 + 2.5 * (n_sets - 1)) / LEAST_RIGHT)


def plan_random_search(budget: int, n_dev: int) -> Plan:
    """Return as many candidates as fit on the whole of dev; if not even six do, six on a part of it."""

    def cost(n: int) -> int:
        return (n + 3) * n_dev + bootstrap_calls(n + 1)

    n = LEAST_CANDIDATES
    if cost(n) > budget:
        return Plan(n, max(10, (budget - bootstrap_calls(n + 1)) // (n + 3)))
    while cost(n + 1) <= budget:
        n += 1
    return Plan(n, n_dev)


def mipro_trials(n_candidates: int) -> int:
    """Return the trials that MIPROv2 recommends for one predictor with instructions and demonstrations."""
    return int(max(4 * math.log2(n_candidates), 1.5 * n_candidates))


def full_evaluations(n_trials: int) -> int:
    """Return how many full evaluations MIPROv2 makes with trials on minibatches, the first program's included."""
    last = n_trials + n_trials // FULL_EVERY + 1 + (n_trials % FULL_EVERY != 0) - 1
    number, n_full = 1, 1  # the first program is a trial too, as is each full evaluation
    for _ in range(n_trials):
        number += 1
        if number % (FULL_EVERY + 1) == 0 or number == last:
            n_full += 1
            number += 1
    return n_full


def plan_mipro(budget: int, n_dev: int) -> Plan:
    """Return as many candidates as fit with the whole of dev; if not even six do, six on a part of it."""

    def cost(n: int) -> int:
        trials = mipro_trials(n)
        return trials * MINIBATCH + full_evaluations(trials) * n_dev + bootstrap_calls(n - 2)

    n = LEAST_CANDIDATES
    budget = int(budget / ASKED)
    if cost(n) > budget:
        # Up to 50 examples MIPROv2 itself drops the minibatches.
        trials = mipro_trials(n)
        return Plan(n, min(50, max(10, (budget - bootstrap_calls(n - 2)) // (trials + 1))), trials)
    while cost(n + 1) <= budget:
        n += 1
    return Plan(n, n_dev, mipro_trials(n), is_minibatch=True)


def model(name: str, job: Job, temperature: float) -> dspy.LM:
    return dspy.LM(f"openai/{name}", api_base=job.base_url, api_key=KEY, temperature=temperature)


def example(row: Row) -> dspy.Example:
    return dspy.Example(input=row.input, answer=row.target).with_inputs("input")


def metrics(job: Job) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the metric as a number, and with feedback for GEPA."""

    def plain(gold: dspy.Example, pred: dspy.Prediction, trace: object = None) -> float | bool:
        score, _ = job.score(gold.input, str(pred.answer))
        return score if trace is None else score == 1.0

    def with_feedback(
        gold: dspy.Example,
        pred: dspy.Prediction,
        trace: object = None,
        pred_name: str | None = None,
        pred_trace: object = None,
    ) -> dspy.Prediction:
        score, feedback = job.score(gold.input, str(pred.answer))
        return dspy.Prediction(score=score, feedback=feedback)

    return plain, with_feedback


def optimized(job: Job, program: dspy.Module) -> tuple[dspy.Module, str]:
    """Return the program that the peer makes of the initial one, and what it was told."""
    train, dev = [example(row) for row in job.train], [example(row) for row in job.dev]
    plain, with_feedback = metrics(job)
    writer = model("optimizer", job, 1.0)
    if job.peer == "dspy-gepa":
        gepa = dspy.GEPA(
            metric=with_feedback,
            max_metric_calls=job.budget,
            reflection_lm=writer,
            num_threads=THREADS,
            seed=job.seed,
        )
        return gepa.compile(program, trainset=train, valset=dev), f"max_metric_calls={job.budget}"
    if job.peer == "dspy-miprov2":
        return optimized_by_mipro(job, program, train, dev, writer)
    plan = plan_random_search(job.budget, len(dev))
    search = dspy.BootstrapFewShotWithRandomSearch(
        metric=plain, num_candidate_programs=plan.n_candidates, num_threads=THREADS
    )
    return search.compile(program, trainset=train, valset=dev[: plan.n_validation]), str(plan)


def optimized_by_mipro(
    job: Job, program: dspy.Module, train: list[dspy.Example], dev: list[dspy.Example], writer: dspy.LM
) -> tuple[dspy.Module, str]:
    """Return MIPROv2's program, or the initial one if each try ended at a reply that dspy could not read."""
    plan, (plain, _) = plan_mipro(job.budget, len(dev)), metrics(job)
    for attempt in range(TRIES):
        mipro = dspy.MIPROv2(
            metric=plain,
            prompt_model=writer,
            auto=None,
            num_candidates=plan.n_candidates,
            num_threads=THREADS,
            seed=job.seed + 1000 * attempt,
        )
        try:
            found = mipro.compile(
                program,
                trainset=train,
                valset=dev[: plan.n_validation],
                num_trials=plan.n_trials,
                minibatch=plan.is_minibatch,
            )
        except AdapterParseError:
            continue  # the result says how many tries it took
        return found, f"{plan}, try {attempt + 1}"
    return program, f"{plan}, but all {TRIES} tries ended at a reply that dspy could not read"


def search(job: Job) -> Found:
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    dspy.configure(lm=model("task", job, 0.0))
    program: dspy.Module = dspy.Predict(dspy.Signature("input -> answer", job.initial))
    program, note = optimized(job, program) if job.budget else (program, "no search")
    predictor = program.predictors()[0]
    demos = [f"{demo['input']}\n=> {demo['answer']}" for demo in predictor.demos]

    def answer(questions: Sequence[str]) -> list[str]:
        tester = model("test", job, 0.0)

        def one(question: str) -> dspy.Prediction:
            with dspy.context(lm=tester):
                return program(input=question)

        parallel = dspy.Parallel(num_threads=THREADS, max_errors=len(questions) + 1, disable_progress_bar=True)
        found = parallel([(one, {"question": question}) for question in questions])
        return ["" if prediction is None else str(prediction.answer) for prediction in found]

    return Found(answer, "\n\n".join([predictor.signature.instructions, *demos]), note)


if __name__ == "__main__":
    run(search)
