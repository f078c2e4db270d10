"""A small pipeline: improve a prompt that sorts messages, and keep the better one only if it is proven."""

from __future__ import annotations

from pathlib import Path

import promptopt

HERE = Path(__file__).parent
MODEL = "sim"  # the built-in simulator; put your model here, such as "openai/gpt-5-mini"


def accuracy(prompt: Path | str, model: str = MODEL) -> float:
    """Return the share of the held-back messages that a prompt sorts right."""
    found = promptopt.evaluate(prompt, HERE / "messages.csv", model=model, split="test")
    assert found.score is not None
    return found.score.score


def better_prompt(model: str = MODEL) -> str:
    """Return a better prompt, or the one in prompt.md where none is proven."""
    budget = promptopt.Budget(calls=300)
    result = promptopt.optimize(HERE / "prompt.md", HERE / "messages.csv", model=model, budget=budget)
    proof = result.improvement
    is_proven = proof is not None and proof.verdict == "proven"
    return result.best.prompt if is_proven else result.initial.prompt
