"""gepa's `optimize` with its defaults, DefaultAdapter included; the budget is its `max_metric_calls`.

Train is its `trainset`, dev its `valset`. The evaluator gives score and feedback of the benchmark's metric. Task
requests have no temperature, which is gepa's default and means 0 here; the reflection model gets temperature 1.
Models are functions, which gepa takes in place of litellm's names: the same requests, and less time on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gepa
from common import Found, Job, Row, run
from gepa.adapters.default_adapter.default_adapter import (
    ChatCompletionCallable,
    ChatMessage,
    DefaultAdapter,
    DefaultDataInst,
    EvaluationResult,
)

NAME = "system_prompt"


def instance(row: Row) -> DefaultDataInst:
    return {"input": row.input, "additional_context": {}, "answer": row.target}


def search(job: Job) -> Found:
    def evaluate(data: DefaultDataInst, response: str) -> EvaluationResult:
        score, feedback = job.score(data["input"], response)
        return EvaluationResult(score, feedback)

    def asking(model: str) -> ChatCompletionCallable:
        def ask(messages: Sequence[ChatMessage]) -> str:
            return job.chat(model, messages).strip()

        return ask

    def reflect(prompt: str | list[dict[str, Any]]) -> str:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return job.chat("optimizer", messages, temperature=1.0)

    candidate, note = {NAME: job.initial}, "no search"
    if job.budget:
        result = gepa.optimize(
            seed_candidate=candidate,
            trainset=[instance(row) for row in job.train],
            valset=[instance(row) for row in job.dev],
            task_lm=asking("task"),
            evaluator=evaluate,
            reflection_lm=reflect,
            max_metric_calls=job.budget,
            seed=job.seed,
            raise_on_exception=True,
        )
        candidate = result.best_candidate
        note = f"{result.total_metric_calls} metric calls, {len(result.candidates)} candidates"

    def answer(questions: Sequence[str]) -> list[str]:
        adapter = DefaultAdapter(asking("test"), lambda data, response: EvaluationResult(0.0, ""))
        batch = [instance(Row("", question, "")) for question in questions]
        return [output["full_assistant_response"] for output in adapter.evaluate(batch, candidate).outputs]

    return Found(answer, candidate[NAME], note)


if __name__ == "__main__":
    run(search)
