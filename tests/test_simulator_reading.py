"""How the simulator reads requests for prompts: where the prompts stand, and in what form the reply is wanted."""

from __future__ import annotations

import functools
import json

import pytest

from promptopt.simulator import Simulator, landscape
from promptopt.tasks.synthetic import synthetic_task
from promptopt.types import Message, Request

TRAIN, DEV, TEST = synthetic_task("label", seed=7)
ROUTE = "Route the note to billing, delivery, account or product."
SORT = "Sort this note by the team that has to reply."
ASSISTANT = Message("system", "You are a helpful assistant.")


@functools.cache
def sim() -> Simulator:
    simulator = Simulator(landscape("default"))
    simulator.learn((*TRAIN, *DEV, *TEST))
    return simulator


def replies(text: str, n: int = 30, system: Message | None = ASSISTANT) -> list[str]:
    """Return draws that differ in the sample alone."""
    messages = (*([system] if system else []), Message("user", text))
    return [sim().complete(Request("sim", messages, 2048, 1.0, sample=str(i))).text for i in range(n)]


def share(words: str, said: list[str]) -> float:
    return sum(words in reply for reply in said) / len(said)


# --- the form of the reply --------------------------------------------------------------------------------

LISTS = (
    "Return a JSON array of strings, {n}.",
    "Reply with a JSON array of 4 strings, each of them a prompt.",
    "Create {n} within JSON format, meaning strings in quotation marks as an array.",
    "Give me {n}. Output the prompts as a JSON list and nothing else.",
    "Write {n}, as a Python list of strings.",
)


@pytest.mark.parametrize("form", LISTS)
def test_a_json_list_is_given_where_one_is_asked_for(form: str) -> None:
    ask = f"Task: Notes of customers go to teams.\n\nWe need diverse prompts. {form.format(n='4 new prompts')}"
    found = []
    for reply in replies(ask, 60):
        if reply.startswith("["):
            found.append(json.loads(reply))
    assert len(found) >= 56
    for prompts in found:
        assert len(prompts) == len(set(prompts)) == 4
        assert all("otes of customers" in prompt for prompt in prompts)


def test_a_list_that_a_prompt_speaks_of_is_none_that_is_asked_for() -> None:
    prompt = "Find the names. Return a JSON array of strings."
    said = replies(f"Prompt: {prompt}\n\nRewrite the prompt. Put it between <prompt> and </prompt>.")
    assert sum("[" in reply for reply in said) == 0
    assert share("<prompt>", said) > 0.9


OBJECTS = (
    "Respond with a JSON object in the following order of fields: `analysis`, then `new_instruction`.",
    'Reply in JSON: {"analysis": "...", "new_instruction": "..."}',
    'Answer with a JSON object of this form:\n\n{\n  "analysis": "<what fails>",\n  "new_instruction": "<it>"\n}',
    "Return JSON with the keys 'analysis' and 'new_instruction'.",
)


@pytest.mark.parametrize("form", OBJECTS)
def test_a_json_object_of_named_fields_is_given_where_one_is_asked_for(form: str) -> None:
    shown = json.dumps([{"Inputs": TRAIN[0].inputs, "Generated Outputs": "?", "Feedback": "it is wrong"}])
    ask = f"[[ ## current_instruction ## ]]\n{ROUTE}\n\n[[ ## examples_with_feedback ## ]]\n{shown}\n\n"
    found = [json.loads(reply) for reply in replies(f"{ask}{form}", 60) if reply.startswith("{")]
    assert len(found) >= 56
    for reply in found:
        assert list(reply) == ["analysis", "new_instruction"]
    assert share("billing, delivery, account or product.", [reply["new_instruction"] for reply in found]) > 0.9


def test_an_object_that_a_prompt_asks_for_is_none_that_is_asked_for() -> None:
    prompt = "Read the order. Return a JSON object with the fields `system` and `reason`."
    said = replies(f"<prompt>{prompt}</prompt>\n\nImprove the prompt. Put it between <prompt> and </prompt>.")
    assert sum(reply.startswith("{") for reply in said) == 0
    assert share("`system` and `reason`", said) > 0.9
