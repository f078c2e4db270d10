from __future__ import annotations

import functools
import hashlib
import math
import os
import random
import statistics
import subprocess
import sys
from decimal import Decimal

import pytest

from promptopt import template
from promptopt.errors import ConfigError
from promptopt.simulator import (
    CONCEPTS,
    LANDSCAPES,
    PRICE_IN,
    PRICE_OUT,
    Simulator,
    concepts_of,
    count_tokens,
    landscape,
)
from promptopt.simulator.index import Index, answer_in, make_row
from promptopt.tasks.synthetic import INITIAL_PROMPTS, synthetic_task
from promptopt.types import Demo, Example, Message, Prompt, Request

UNSURE = "I am not sure what is asked."
TRAIN, DEV, TEST = synthetic_task("label", seed=7)
LABELS = {"billing", "delivery", "account", "product"}
PLAIN = "Route the note to billing, delivery, account or product."


@functools.cache
def sim(name: str = "default", seed: int = 0) -> Simulator:
    simulator = Simulator(landscape(name), seed=seed)
    simulator.learn((*TRAIN, *DEV, *TEST))
    return simulator


def messages(instruction: str, example: Example, demos: tuple[Demo, ...] = ()) -> tuple[Message, ...]:
    return template.render(Prompt(instruction, demos), example.inputs, "input")


def say(simulator: Simulator, *contents: str, sample: str = "", max_tokens: int = 2048) -> str:
    turns = tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(contents))
    temperature = 1.0 if sample else 0.0
    return simulator.complete(Request("sim", turns, max_tokens, temperature, sample=sample)).text


def accuracy(
    simulator: Simulator, instruction: str, demos: tuple[Demo, ...] = (), examples: tuple[Example, ...] = TEST
) -> float:
    return simulator.accuracy(lambda example: messages(instruction, example, demos), examples)


def hits(simulator: Simulator, instruction: str, examples: tuple[Example, ...] = TEST) -> list[float]:
    replies = (
        simulator.complete(Request("sim", messages(instruction, example), 1024)).text for example in examples
    )
    return [float(answer_in(reply) == example.target) for reply, example in zip(replies, examples, strict=True)]


def demo(example: Example, output: str | None = None) -> Demo:
    return Demo((("input", example.inputs["input"]),), output or example.target or "")


def text(place: int) -> str:
    return TRAIN[place].inputs["input"]


def target(place: int) -> str:
    return TRAIN[place].target or ""


# --- determinism, usage -----------------------------------------------------------------------------------


def fingerprint() -> str:
    simulator = sim("rugged", seed=3)
    parts = [
        simulator.complete(Request("sim", messages(PLAIN, example), 99, 1.0, top_logprobs=3, sample="1"))
        for example in TEST[:60]
    ]
    parts += [
        simulator.complete(
            Request("sim", (Message("user", f"Improve this prompt:\n\nPrompt: {PLAIN} Be brief. {i}"),), 99)
        )
        for i in range(40)
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def test_replies_are_equal_in_another_process() -> None:
    code = "import tests.test_simulator as t; print(t.fingerprint())"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": root}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == fingerprint()


def test_replies_do_not_depend_on_earlier_calls() -> None:
    prompts = [PLAIN, "Note: {{input}}\n\nTeam:", "Decide.\n\n{{input}}\n\nThink step by step.", "Do {input} now"]
    requests = [Request("sim", messages(prompt, e), 500) for prompt in prompts for e in TEST[:20]]
    warm = sim.__wrapped__()
    shuffled = random.Random(0).sample(requests, len(requests))
    replies = {request.digest: warm.complete(request) for request in shuffled}
    for request in requests[::7]:
        assert sim.__wrapped__().complete(request) == replies[request.digest]


def test_sampling_matters_only_above_temperature_zero() -> None:
    simulator = sim()

    def replies(temperature: float | None) -> int:
        return sum(
            len(
                {
                    simulator.complete(Request("sim", messages(PLAIN, e), 99, temperature, sample=str(i))).text
                    for i in range(6)
                }
            )
            for e in TEST[:50]
        )

    assert replies(0.0) == replies(None) == 50
    assert replies(1.0) > 60


def test_usage_and_cost() -> None:
    response = sim().complete(Request("sim", messages(PLAIN, TEST[0]), 500))
    rendered = messages(PLAIN, TEST[0])
    assert response.usage is not None
    assert response.usage.input_tokens == sum(count_tokens(m.content) + 4 for m in rendered)
    assert response.usage.output_tokens == count_tokens(response.text)
    assert response.cost_usd == (response.usage.input_tokens * PRICE_IN + response.usage.output_tokens * PRICE_OUT)
    assert Decimal("0.25") == 1_000_000 * PRICE_IN
    assert response.latency_s == 0.0
    assert response.finish_reason == "stop"


def test_max_tokens_cuts() -> None:
    rendered = messages("Think step by step.", TEST[0])
    response = sim().complete(Request("sim", rendered, 5))
    assert response.finish_reason == "length"
    assert response.usage is not None
    assert response.usage.output_tokens == 5
    assert sim().complete(Request("sim", rendered, 500)).text.startswith(response.text)


def test_logprobs_agree_with_the_answer() -> None:
    simulator = sim()
    instruction = PLAIN + " Answer with the label only."
    for example in TEST[:30]:
        response = simulator.complete(Request("sim", messages(instruction, example), 99, top_logprobs=10))
        if response.text not in LABELS:
            continue
        assert response.logprobs is not None
        assert response.logprobs[0][0] == response.text
        assert math.isclose(sum(math.exp(value) for _, value in response.logprobs), 1.0)
        assert {label for label, _ in response.logprobs} == LABELS


def test_unknown_landscape_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rugged'"):
        landscape("sim:ruged")
    assert landscape("sim") is landscape("default")
    assert landscape("sim:demos") is LANDSCAPES["demos"]


# --- answer or write --------------------------------------------------------------------------------------

ANSWERED = (
    "{x}",
    "Route this.\n\n{x}",
    "Route this.\n\nInput: {x}\nOutput:",
    "{x}\n\nAnswer:",
    "Text: {x}\n\nWhich team is this for? Choose one of billing, delivery, account, product.",
    "{x}\n\nGive your answer following the instructions above. Explain your reasons first, then the label.",
    "{x}\nLabels: {t}, delivery, account or product\nTeam:",
    "Route.\n\n<message>{x}</message>\n\nWrite only the team's name.",
    "Input:\n{a}\nOutput:\n{b}\n\nInput:\n{x}\nOutput:",
    "Q: {a}\nA: {b}\n\nQ: {x}\nA:",
    "[[ ## message ## ]]\n{x}\n\nRespond with the corresponding output fields, starting with the field "
    "`[[ ## reasoning ## ]]`, then `[[ ## team ## ]]`, and then ending with the marker for "
    "`[[ ## completed ## ]]`.",
)


@pytest.mark.parametrize("form", ANSWERED)
def test_a_known_input_standing_last_is_answered(form: str) -> None:
    n_sound = 0
    for i in range(20):
        filled = form.format(x=text(i), t=target(i), a=text(40), b=target(40))
        reply = say(sim("null"), filled)
        assert answer_in(reply) in LABELS
        n_sound += answer_in(reply) == target(i)
    assert n_sound >= 6


def test_chat_turns() -> None:
    simulator = sim("null")
    assert say(simulator, text(0), target(0), text(1)) in LABELS
    shown = simulator.complete(Request("sim", (Message("user", text(0)), Message("assistant", target(0))), 99))
    assert shown.text == UNSURE


def test_dspy_like_fields_are_filled() -> None:
    reply = say(sim(), ANSWERED[-1].format(x=text(3)))
    assert reply.startswith("[[ ## reasoning ## ]]\n")
    assert reply.endswith("[[ ## completed ## ]]")
    assert "[[ ## team ## ]]" in reply


def test_several_columns() -> None:
    rows = [
        Example(str(i), {"question": f"What is number {i} about, in short?", "language": "en"}, f"topic {i}")
        for i in range(300)
    ]
    simulator = Simulator(landscape("null"))
    simulator.learn(rows)
    n_right = 0
    for row in rows:
        rendered = template.render(
            Prompt("When asked: {{question}}\nLanguage: {{language}}\nAnswer:"), row.inputs, ""
        )
        reply = simulator.complete(Request("sim", rendered, 50)).text
        assert reply.startswith("topic")
        n_right += reply == row.target
    assert 150 < n_right < 210


def test_an_input_within_another_yields_to_the_longer() -> None:
    rows = [Example("a", {"i": "2+2"}, "4"), Example("b", {"i": "1+2+2"}, "5"), Example("c", {"i": "2+2+9"}, "13")]
    index = Index(make_row(row, landscape("null"), 0) for row in rows)
    for row in rows:
        hit = index.last(f"Compute: {row.inputs['i']}\n=")
        assert hit is not None
        assert hit.text == row.inputs["i"]
    assert index.last("1+2+21") is None


WRITING = (
    "My prompt is:\n\"\"\"\n{p}\n\"\"\"\nIt fails here:\nText: {x}\nExpected: {t}\nGot: nonsense\n\n"
    "Write a better prompt.",
    "I gave a friend an instruction. Input-output pairs:\n\nInput: {x}\nOutput: {t}\n\nThe instruction was",
    "Prompt 1: {p}\n\nPrompt 2: Sort this note by topic.\n\nCombine both prompts into one "
    "and return it between <prompt> and </prompt>.",
    "Below are instructions with scores.\n<INS>{p}</INS>\nscore: 60\n\nExample: {x}\nTarget: {t}\n\n"
    "Generate an instruction that is different and scores higher. Begin with <INS> and end with </INS>.",
    "You gave an assistant these instructions:\n```\n{p}\n```\nExample:\n{x}\nReply: nonsense\n"
    "Feedback: should be {t}\n\nYour task is to write a new instruction. Provide it within ``` blocks.",
    "Here is the variable you will optimize: <VARIABLE>{p}</VARIABLE>\n<LM_INPUT>{x}</LM_INPUT> "
    "<FEEDBACK>Say that irony matters.</FEEDBACK>\nImprove the variable using the feedback. "
    "Send the improved variable between <IMPROVED_VARIABLE> tags.",
    "[[ ## basic_instruction ## ]]\n{p}\n\n[[ ## examples ## ]]\n{x} -> {t}\n\nRespond with the corresponding "
    "output fields, starting with the field `[[ ## proposed_instruction ## ]]`, and then ending with the marker "
    "for `[[ ## completed ## ]]`.",
    "Paraphrase this instruction, keeping its meaning: {p}",
)  # fmt: skip


@pytest.mark.parametrize("form", WRITING)
def test_requests_to_write_are_written(form: str) -> None:
    reply = say(sim(), form.format(p=PLAIN, x=text(0), t=target(0)))
    assert reply != UNSURE
    assert answer_in(reply) not in LABELS
    assert text(0) not in reply
    assert len(reply) > 30


@pytest.mark.parametrize("form", [form for form in WRITING if "Combine" not in form and "friend" not in form])
def test_the_parents_words_survive(form: str) -> None:
    replies = [say(sim(), form.format(p=PLAIN, x=text(0), t=target(0)), sample=str(i)) for i in range(30)]
    n_kept = sum("to billing, delivery, account or product." in reply for reply in replies)
    assert n_kept >= 27


def test_reasons_are_prose_that_names_advice() -> None:
    ask = f"My prompt: {PLAIN}\n\nIt gets these wrong:\nText: {text(0)}\nLabel: {target(0)}\n\nGive 3 reasons why "
    ask += "the prompt could have gotten these examples wrong. Wrap each reason with <START> and <END>"
    reply = say(sim(), ask)
    assert reply.count("<START>") == reply.count("<END>") == 3
    assert len(concepts_of(reply)) >= 3


def test_advice_named_in_feedback_is_taken_up() -> None:
    ask = f"Prompt: {PLAIN}\n\n<feedback>It should watch out for irony.</feedback>\n\nWrite an improved prompt."
    n_taken = sum("irony" in concepts_of(say(sim(), ask, sample=str(i))) for i in range(60))
    assert 30 <= n_taken <= 55


def test_reflection_finds_what_mends_more_often_than_chance() -> None:
    mends = {"irony", "intent", "options", "doubt", "evidence", "time_order", "restate"}

    def found(material: str) -> int:
        ask = f"Prompt: {PLAIN}\n\n{material}Write an improved prompt."
        simulator = sim("instructions")
        return sum(len(concepts_of(say(simulator, ask, sample=str(i))) & mends) for i in range(100))

    failures = "".join(f"Wrong on:\nText: {text(i)}\nLabel: {target(i)}\n\n" for i in range(5))
    assert found(failures) > 2 * found("")


def test_a_prompt_from_a_description_alone() -> None:
    reply = say(sim(), "Write a prompt for a model that sorts shop messages into billing and delivery.")
    assert "sorts shop messages into billing and delivery" in reply


def test_nothing_asked_is_answered_harmlessly() -> None:
    assert say(sim(), "Good morning.") == UNSURE
    assert say(Simulator(landscape("default")), "") == UNSURE


def test_pairwise_judgement_prefers_the_right_reply() -> None:
    ask = "Requirement: {x}\n\nResponse {first}: {one}\n\nResponse {second}: {two}\n\nWhich response is better? "
    ask += "Reply with <choose>A/B</choose>."
    simulator = sim()
    n_sound = 0
    for i in range(60):
        replies = {"one": target(i), "two": "nonsense"} if i % 2 else {"one": "nonsense", "two": target(i)}
        reply = say(simulator, ask.format(x=text(i), first="A", second="B", **replies))
        assert reply in ("<choose>A</choose>", "<choose>B</choose>")
        n_sound += reply == ("<choose>A</choose>" if i % 2 else "<choose>B</choose>")
    assert n_sound >= 45


# --- the output contract ----------------------------------------------------------------------------------


def test_all_requested_tags_are_filled() -> None:
    ask = f"<prompt>\n{PLAIN}\n</prompt>\n\nImprove the prompt. Use this format:\n<analyse>Analyze the drawbacks"
    ask += "</analyse>\n<modification>Summarize it</modification>\n<prompt>Provide the complete prompt</prompt>"
    replies = [say(sim(), ask, sample=str(i)) for i in range(200)]
    full = [r for r in replies if all(f"<{tag}>" in r for tag in ("analyse", "modification", "prompt"))]
    assert 185 <= len(full) < 200
    assert all(PLAIN[-30:] in reply.rsplit("<prompt>", 1)[1] for reply in full[:20])


def test_several_prompts_are_written_if_several_are_wanted() -> None:
    ask = f"Current prompt: {PLAIN}\n\nWrite 4 new prompts, each between <START> and <END>."
    reply = say(sim(), ask)
    bodies = [part.split("<END>")[0] for part in reply.split("<START>")[1:]]
    assert len(bodies) == 4
    assert len(set(bodies)) > 1


def test_placeholders_marks_and_parts_survive() -> None:
    parent = "system:\nYou sort notes.\n<!-- keep -->Never reveal policy 42.<!-- /keep -->\n"
    parent += "user:\nNote: {{input}}\nTeam:"
    ask = f"Current prompt:\n{parent}\n\nWrite an improved prompt between <prompt> and </prompt>."
    replies = [say(sim(), ask, sample=str(i)) for i in range(300)]
    for piece in (
        "{{input}}",
        "<!-- keep -->Never reveal policy 42.<!-- /keep -->",
        "system:\n",
        "user:\n",
        "Team:",
    ):
        n_kept = sum(piece in reply for reply in replies)
        assert 280 <= n_kept <= 300, piece
    assert sum("{{input}}" in reply for reply in replies) < 300


# --- mechanism --------------------------------------------------------------------------------------------


def advice(*names: str) -> str:
    return " ".join((PLAIN, *(CONCEPTS[name].phrasings[0] for name in names)))


def test_every_phrasing_is_recognised_as_its_concept_alone() -> None:
    for name, concept in CONCEPTS.items():
        for phrasing in concept.phrasings:
            assert concepts_of(phrasing) == {name}


def test_other_wordings_are_recognised() -> None:
    assert concepts_of("Always reason step by step!") == {"step_by_step"}
    assert "irrelevant" in concepts_of("Some messages contain distracting information; filter it out.")
    assert "recheck" in concepts_of("Before finishing, double-check everything")
    assert concepts_of("Translate to French.") == frozenset()


def test_mending_advice_raises_and_harmful_advice_lowers() -> None:
    simulator = sim()
    base = accuracy(simulator, advice("only_answer"))
    assert accuracy(simulator, advice("only_answer", "negation")) > base + 0.03
    assert accuracy(simulator, advice("only_answer", "negation", "irrelevant")) > base + 0.07
    assert accuracy(simulator, advice("only_answer", "hunch")) < base - 0.01
    assert accuracy(simulator, advice("only_answer", "calm")) == pytest.approx(base, abs=0.005)


def test_some_advice_works_only_together() -> None:
    simulator = sim("instructions")
    base = accuracy(simulator, advice("only_answer"))
    alone = accuracy(simulator, advice("only_answer", "intent"))
    irony = accuracy(simulator, advice("only_answer", "irony"))
    both = accuracy(simulator, advice("only_answer", "intent", "irony"))
    assert alone == pytest.approx(base, abs=0.005)
    assert both - base > (alone - base) + (irony - base) + 0.05


def test_repeating_advice_earns_nothing_and_length_costs() -> None:
    simulator = sim("rugged")
    once = accuracy(simulator, advice("only_answer", "literal"))
    assert accuracy(simulator, advice("only_answer", "literal", "literal")) <= once + 1e-9
    padding = " ".join(f"This shop has been in town number {i} for years." for i in range(30))
    assert accuracy(simulator, f"{advice('only_answer', 'literal')} {padding}") < once - 0.05


def test_demonstrations_help_reasoned_ones_more_wrong_ones_hurt() -> None:
    simulator = sim("demos")
    bare = accuracy(simulator, advice("only_answer"))
    right = accuracy(simulator, advice("only_answer"), tuple(demo(e) for e in TRAIN[:6]))
    reasons = "The sender first says something else, but what they want in the end settles it clearly.\nAnswer: "
    reasoned = accuracy(simulator, PLAIN, tuple(demo(e, f"{reasons}{e.target}") for e in TRAIN[:6]))
    wrong = accuracy(simulator, advice("only_answer"), tuple(demo(e, "nonsense") for e in TRAIN[:6]))
    assert right > bare + 0.1
    assert reasoned > right + 0.02
    assert wrong < bare - 0.05


def test_lopsided_demonstrations_mislead() -> None:
    simulator = sim("misleading")
    billing = tuple(demo(e) for e in TRAIN if e.target == "billing")[:5]
    assert accuracy(simulator, PLAIN, billing) < accuracy(simulator, PLAIN) - 0.05


def test_format_directives_make_replies_parseable() -> None:
    simulator = sim("format")
    loose, tagged = PLAIN, f"{PLAIN} Put the team between <answer> and </answer>."
    assert accuracy(simulator, tagged) > accuracy(simulator, loose) + 0.15
    assert accuracy(simulator, PLAIN, (demo(TRAIN[0]),)) > accuracy(simulator, loose) + 0.1
    replies = [simulator.complete(Request("sim", messages(tagged, e), 99)).text for e in TEST]
    assert sum(reply.startswith("<answer>") for reply in replies) > 480


def test_reasoning_needs_a_marker() -> None:
    simulator = sim("reasoning")
    marked = advice("step_by_step", "answer_line")
    assert accuracy(simulator, marked) > accuracy(simulator, PLAIN) + 0.2
    assert accuracy(simulator, advice("step_by_step")) < accuracy(simulator, marked) - 0.2
    reply = simulator.complete(Request("sim", messages(marked, TEST[0]), 500))
    assert reply.usage is not None
    assert reply.usage.output_tokens > 20


@pytest.mark.parametrize("name", sorted(LANDSCAPES))
def test_measured_accuracy_is_near_the_expected_one(name: str) -> None:
    simulator = sim(name)
    for instruction in (PLAIN, advice("step_by_step", "answer_line", "recheck")):
        measured = statistics.mean(hits(simulator, instruction))
        assert measured == pytest.approx(accuracy(simulator, instruction), abs=0.05)


@pytest.mark.parametrize("kind", sorted(INITIAL_PROMPTS))
@pytest.mark.parametrize("name", sorted(set(LANDSCAPES) - {"null"}))
def test_there_is_room_between_initial_and_best(name: str, kind: str) -> None:
    train, dev, test = synthetic_task(kind, seed=1)
    simulator = Simulator(landscape(name), seed=1)
    simulator.learn((*train, *dev, *test))
    assert 0.3 <= accuracy(simulator, INITIAL_PROMPTS[kind], examples=test) <= 0.7
    assert 0.84 <= simulator.best_reachable(test) <= 0.98


@pytest.mark.parametrize("name", sorted(LANDSCAPES))
def test_no_random_prompt_beats_the_best_reachable(name: str) -> None:
    simulator = sim(name)
    best = simulator.best_reachable(DEV)
    rng = random.Random(name)
    for _ in range(200):
        names = rng.sample(sorted(CONCEPTS), rng.randint(0, 8))
        demos = tuple(demo(e) for e in rng.sample(TRAIN, rng.choice((0, 0, 3))))
        assert accuracy(simulator, advice("answer_line", *names), demos, DEV) <= best + 1e-9


def test_wrong_answers_are_plausible() -> None:
    for kind in INITIAL_PROMPTS:
        train, _, _ = synthetic_task(kind, seed=2)
        simulator = Simulator(landscape("null"))
        simulator.learn(train)
        replies = [simulator.complete(Request("sim", messages("Go.", e), 99)).text for e in train]
        wrong = [(r, e.target or "") for r, e in zip(replies, train, strict=True) if r != e.target]
        assert 20 <= len(wrong) <= 60
        if kind == "number":
            assert all(reply.lstrip("-").isdigit() for reply, _ in wrong)
        elif kind == "json":
            assert all(reply.startswith("{") and reply.endswith("}") for reply, _ in wrong)
        else:
            assert {reply for reply, _ in wrong} <= {e.target for e in train}


# --- the null landscape -----------------------------------------------------------------------------------


def test_nothing_helps_on_the_null_landscape() -> None:
    simulator = sim("null")
    demos = tuple(demo(e) for e in TRAIN[:5])
    expected = accuracy(simulator, PLAIN)
    for instruction in ("", advice(*sorted(CONCEPTS)), f"{PLAIN} Use <answer> tags.", PLAIN * 40, "Be rude."):
        assert accuracy(simulator, instruction, demos) == pytest.approx(expected)
    assert simulator.best_reachable(TEST) == pytest.approx(expected)
    rates = [statistics.mean(hits(simulator, f"{PLAIN} Version {i}.")) for i in range(40)]
    assert all(abs(rate - expected) < 4 * math.sqrt(0.24 / 500) for rate in rates)


def test_paired_differences_on_the_null_landscape_have_mean_zero() -> None:
    simulator = sim("null")
    base = hits(simulator, PLAIN)
    prompts = [advice(*random.Random(i).sample(sorted(CONCEPTS), 5), "answer_line") for i in range(60)]
    gains = [statistics.mean(hits(simulator, prompt)) - statistics.mean(base) for prompt in prompts]
    # The base prompt's own luck is shared by all gains, so it is compared with the expectation instead.
    centre = statistics.mean(base) - accuracy(simulator, PLAIN)
    assert abs(statistics.mean(gains) + centre) < 4 * statistics.stdev(gains) / math.sqrt(len(gains))
    flips = statistics.mean(a != b for a, b in zip(base, hits(simulator, prompts[0]), strict=True))
    assert 0.01 < flips < 0.15


def test_landscapes_are_frozen() -> None:
    """They were fixed before any strategy ran on them; figures in the docs hold for these only."""
    text = repr((sorted(LANDSCAPES.items()), CONCEPTS))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "8f04c7a9dd244462"
