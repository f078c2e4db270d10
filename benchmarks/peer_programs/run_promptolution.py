"""promptolution's CAPO and OPRO, put together as its `optimize()` does, with the benchmark's metric as the reward.

That is: MarkerBasedPredictor without classes (its predictions are in lower case; not so for JSON, where this would
make right answers wrong), blocks of 30 examples, the optimizers' defaults. Of the 200 examples, the dev ones
first, as many of train as CAPO takes by itself (a tenth of all) are its few-shot pool, and the others are scored.
OPRO scores the first block only, since nothing moves it on. Targets are in lower case, as in ClassificationTask.
`promptolution-capo-fitted` differs in one default, `max_n_blocks_eval`, see `fitted_blocks`.

The first prompts are the initial one and nine of `create_prompts_from_task_description`, which asks the optimizer
model, and takes prompts of its own (which ask for tags <final_answer>) if no reply of three holds a list in JSON.
Steps go on until the task model was asked for as many answers as the budget has, and at least one is made. The
prompt with the best score of the last step is what was found. Python's and numpy's global draws are seeded.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import numpy as np
import pandas as pd
from common import KEY, Found, Job, run
from promptolution.llms import APILLM
from promptolution.optimizers import CAPO, OPRO
from promptolution.optimizers.base_optimizer import BaseOptimizer
from promptolution.predictors import MarkerBasedPredictor
from promptolution.tasks import RewardTask
from promptolution.utils.callbacks import BaseCallback
from promptolution.utils.prompt import Prompt
from promptolution.utils.prompt_creation import create_prompts_from_task_description
from promptolution.utils.templates import default_prompts

N_PROMPTS = 10
N_CHILDREN = 4  # CAPO's default, as are the blocks below
MOST_BLOCKS = 10
BLOCK = 30
MOST_SHOTS = 5
MOST_STEPS = 10_000
POOL_SHARE = 0.1
INPUT, TARGET = "x", "y"


class JsonPredictor(MarkerBasedPredictor):
    """Leaves the case of what stands between the markers alone."""

    def _extract_preds(self, preds: list[str]) -> list[str]:
        return [text.split(self.begin_marker)[-1].split(self.end_marker)[0].strip() for text in preds]


class Budget(BaseCallback):
    """Ends the search after the step in which the budget was reached."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job, self.n_steps = job, 0

    def on_step_end(self, optimizer: BaseOptimizer) -> bool:
        """Return whether another step is to be made."""
        self.n_steps += 1
        return self.job.n_task_calls() < self.job.budget


class Failures(logging.Handler):
    """Keeps the exceptions that `optimize` logs instead of raising them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception, if there is one."""
        if record.exc_info and record.exc_info[1] is not None:
            self.seen.append(record.exc_info[1])


def model(name: str, job: Job, temperature: float) -> APILLM:
    return APILLM(api_url=job.base_url, model_id=name, api_key=KEY, call_kwargs={"temperature": temperature})


def make_predictor(name: str, job: Job) -> MarkerBasedPredictor:
    kind = JsonPredictor if job.kind == "json" else MarkerBasedPredictor
    return kind(model(name, job, 0.0))


def fitted_blocks(budget: int) -> int:
    """Return the blocks with which the first race fits the budget even if it drops nobody; at least 1."""
    n_shots = N_PROMPTS * MOST_SHOTS // 2  # each demonstration is answered once
    return min(MOST_BLOCKS, max(1, (budget - n_shots) // ((N_PROMPTS + N_CHILDREN) * BLOCK)))


def optimized(job: Job) -> tuple[Prompt, str]:
    """Return the best prompt, and what happened."""
    random.seed(job.seed)
    np.random.seed(job.seed)
    rows = [
        (row.input, row.target if job.kind == "json" else row.target.lower()) for row in (*job.dev, *job.train)
    ]
    table = pd.DataFrame(rows, columns=[INPUT, TARGET])
    is_capo = job.peer != "promptolution-opro"
    n_pool = int(len(table) * POOL_SHARE) if is_capo else 0
    scored, pool = table[: len(table) - n_pool], table[len(table) - n_pool :]
    task = RewardTask(
        scored.assign(question=scored[INPUT]),
        reward_function=lambda reply, question: job.score(question, reply)[0],
        x_column=INPUT,
        y_column=TARGET,
        reward_columns=["question"],
        task_description=job.description,
        eval_strategy="sequential_block",
        seed=job.seed,
    )
    writer, budget, failures = model("optimizer", job, 1.0), Budget(job), Failures()
    logging.getLogger("promptolution.optimizers.base_optimizer").addHandler(failures)
    theirs = create_prompts_from_task_description(job.description, writer, n_prompts=N_PROMPTS - 1)
    shared = {
        "predictor": make_predictor("task", job),
        "task": task,
        "meta_llm": writer,
        "initial_prompts": [job.initial, *theirs],
        "callbacks": [budget],
    }
    n_blocks = fitted_blocks(job.budget) if job.peer == "promptolution-capo-fitted" else MOST_BLOCKS
    optimizer: BaseOptimizer = (
        CAPO(**shared, df_few_shots=pool, max_n_blocks_eval=n_blocks) if is_capo else OPRO(**shared)
    )
    prompts = optimizer.optimize(MOST_STEPS)
    if failures.seen:
        raise failures.seen[0]
    _, best = max(zip(optimizer.scores, range(len(prompts)), strict=True), key=lambda pair: (pair[0], -pair[1]))
    source = "its default prompts" if theirs == default_prompts[: len(theirs)] else "prompts that the model wrote"
    return prompts[best], f"{budget.n_steps} steps from the initial prompt and {len(theirs)} of {source}"


def search(job: Job) -> Found:
    prompt, note = optimized(job) if job.budget else (Prompt(job.initial), "no search")

    def answer(questions: Sequence[str]) -> list[str]:
        predictions, _ = make_predictor("test", job).predict([str(prompt)] * len(questions), list(questions))
        return predictions

    return Found(answer, str(prompt), note)


if __name__ == "__main__":
    run(search)
