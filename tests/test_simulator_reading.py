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


# --- where the prompts stand ------------------------------------------------------------------------------

SCORED = (
    "text:\n{a}\nscore: 47\n\ntext:\n{b}\nscore: 61\n\n",
    "Variant 1: {a}\nScore: 0.47\n\nVariant 2: {b}\nScore: 0.61\n\n",
    "**Candidate:** {a}\n**Accuracy:** 47%\n**Candidate:** {b}\n**Accuracy:** 61%\n\n",
    "score: 47\ntext: {a}\n\nscore: 61\ntext: {b}\n\n",
    "Prompt: {a}\nValidation score (mean) = 4.7 / 10\nPrompt: {b}\nValidation score (mean) = 6.1 / 10\n\n",
)


@pytest.mark.parametrize("form", SCORED)
def test_texts_with_scores_are_the_prompts_to_improve(form: str) -> None:
    listed = form.format(a=ROUTE, b=SORT)
    ask = f"Below are earlier instructions. The score ranges from 0 to 100.\n\n{listed}Some examples:\n"
    ask += f"Input: {TRAIN[0].inputs['input']}\nOutput: {TRAIN[0].target}\n\n"
    ask += "Write a new instruction between <prompt> and </prompt> that scores higher."
    said = replies(ask)
    for words in ("helpful assistant", "ranges", "core", "ccuracy", "earlier instructions"):
        assert share(words, said) == 0, words
    kept = ("billing, delivery, account or product.", "by the team that has to")
    assert sum(any(words in reply for words in kept) for reply in said) >= 28
    assert all(share(words, said) > 0.1 for words in kept)


def test_inputs_with_scores_are_no_prompts() -> None:
    rows = "".join(f"Text: {TRAIN[i].inputs['input']}\nScore: {i % 2}\n\n" for i in range(4))
    said = replies(f"Prompt: {ROUTE}\n\nHow it did:\n{rows}Write a better prompt.")
    assert share("billing, delivery, account or product.", said) > 0.9
    assert all(share(TRAIN[i].inputs["input"], said) == 0 for i in range(4))


@pytest.mark.parametrize(
    "prompt",
    [
        "Which team gets this: billing, delivery, account or product?",
        "Analyze the following and present your findings in one word.",
    ],
)
def test_a_prompt_behind_its_label_may_begin_as_a_label_or_a_gap_does(prompt: str) -> None:
    ask = f"Merge the two prompts into one.\nPrompt 1: {prompt}\nPrompt 2: {prompt}\n\n"
    said = replies(f"{ask}Return the new prompt in this format:\n<prompt>new prompt</prompt>")
    assert share(prompt.split()[-1], said) > 0.9
    assert share("helpful assistant", said) == 0


def test_tags_within_a_shown_prompt_are_no_parts_of_the_reply() -> None:
    prompt = "Decide which team replies. Put its name between <team> </team> markers."
    ask = f"Rephrase the prompt.\nPrompt: {prompt}\n\nReturn it in this format:\n<prompt>new prompt</prompt>"
    said = replies(ask)
    assert sum(reply.startswith("<team>") for reply in said) == 0
    assert share("<prompt>", said) > 0.9


@pytest.mark.parametrize(
    "ending",
    [
        "Respond with the corresponding output fields, starting with the field `[[ ## new_instruction ## ]]`, and "
        "then ending with the marker for `[[ ## completed ## ]]`.",
        "Reply with a JSON object that has the fields `reasons` and `new_instruction`.",
    ],
)
def test_what_says_how_to_reply_is_no_part_of_the_last_field(ending: str) -> None:
    said = replies(f"[[ ## examples ## ]]\nnone\n\n[[ ## basic_instruction ## ]]\n{ROUTE}\n\n{ending}", 60)
    assert share("billing, delivery, account or product.", said) > 0.9
    for words in ("output fields", "marker", "JSON", "`"):
        assert share(words, said) == 0, words


def test_who_the_assistant_is_and_how_scores_range_say_nothing_of_the_task() -> None:
    said = replies(
        "Write an instruction for a model. The score ranges from 0 to 100. Notes of customers go to teams."
    )
    assert share("otes of customers go to teams.", said) > 0.9
    assert share("helpful assistant", said) == share("ranges", said) == 0


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


def test_examples_with_a_letter_as_target_are_material() -> None:
    letters = synthetic_task("choice", seed=7)[0]
    simulator = Simulator(landscape("default"))
    simulator.learn(letters)
    for example in letters[:40]:
        ask = f"[[ ## examples ## ]]\n[{{'input': '{example.inputs['input']}', 'answer': '{example.target}'}}]\n\n"
        ask += "Write observations on the data. Respond with the output field `[[ ## observations ## ]]`."
        reply = simulator.complete(Request("sim", (Message("user", ask),), 2048)).text
        assert len(reply.removeprefix("[[ ## observations ## ]]").strip()) > 20
