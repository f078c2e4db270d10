"""Prompts as tokens: what may be dropped, and that nothing else ever gets lost or comes into being."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scripted import Scripted, make_study, make_task

from promptopt import template
from promptopt.errors import ConfigError
from promptopt.gate import Gate
from promptopt.promptfile import format_prompt, parse
from promptopt.providers import ModelSpec
from promptopt.task import Task
from promptopt.tokens import TokenizedPrompt, split_words, tokenized, tokenizer_of
from promptopt.types import KEEP_MARK, Demo, Example, Prompt

INPUTS = {"text": "\x00THE TEXT\x00", "label set": "\x00THE LABELS\x00"}
KEPT = "<!-- keep -->Say {label set} once\n\nuser: of course.<!-- /keep -->"
FRAGMENTS = (
    *(
        "word",
        " word",
        "two words ",
        "text",
        "label",
        "user:",
        "system",
        ":",
        "\n",
        "\n\n",
        " ",
        ".",
        "，",
        "日本語",
    ),
    *("{text}", "{{text}}", "{{ text }}", "{label set}", KEPT, "<!-- keep --> {{text}}<!-- /keep -->"),
    *(
        "{",
        "}",
        "\\",
        "\\{text}",
        "\\{{any}}",
        '{"a": 1}',
        "{{}}",
        "\\boxed{x}",
        "{not text}",
        "👩‍👩‍👧",
        "e\u0301",
    ),
)
HEADED = ("system:\nBe brief.\n", "user:\n", "<!-- keep -->system:\nBe kind.\n<!-- /keep -->", "user:  \n\n")

bodies = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), min_size=1, max_size=12).map("".join)
instructions = st.one_of(
    bodies, st.tuples(st.sampled_from(HEADED), bodies, st.sampled_from(HEADED), bodies).map("".join)
)
texts = st.lists(st.sampled_from((*FRAGMENTS, "```", "\n```demo\n", "Input:\n", "Output:\n")), max_size=6).map(
    "".join
)
demos = st.lists(st.builds(lambda a, b: Demo((("text", a),), b), texts, texts), max_size=3).map(tuple)
prompts = st.builds(Prompt, instructions, demos)


def task_for(prompt: Prompt) -> Task:
    """Return a task with these columns; a prompt that is refused as a user's makes no test."""
    rows = [Example(str(i), dict.fromkeys(INPUTS, "x"), "y") for i in range(2)]
    task = replace(make_task(), train=(rows[0],), dev=(rows[1],), test=(), input_column="text", labels=())
    try:
        return task.with_initial(prompt)
    except ConfigError:
        assume(False)
        raise


def cut(prompt: Prompt) -> TokenizedPrompt:
    return tokenized(prompt, task_for(prompt), split_words)


def masks(tokens: TokenizedPrompt, data: st.DataObject) -> list[bool]:
    n = len(tokens.tokens)
    bits = data.draw(st.integers(0, 2**n - 1) | st.just(0))
    return [bool(bits >> i & 1) for i in range(n)]


def shown(prompt: Prompt) -> list[int]:
    """Return how often each input is shown, in all messages that the instruction makes."""
    bare = KEEP_MARK.sub("", prompt.instruction)
    return [template.fill(bare, INPUTS).count(value) for value in INPUTS.values()]


# Any text -----------------------------------------------------------------------------------------------


@given(st.text() | texts)
def test_words_join_to_the_text(text: str) -> None:
    pieces = split_words(text)
    assert "".join(pieces) == text
    assert "" not in pieces


def test_words_take_the_blanks_before_them_and_line_ends_stand_alone() -> None:
    assert split_words("Say  it,\n\n  in\tone word. ") == (
        *("Say", "  it", ",", "\n\n", "  in", "\tone", " word", ".", " "),
    )


@pytest.mark.parametrize("name", ["openai/gpt-5-mini", "gpt-4o", "anthropic/claude-3-haiku-20240307"])
def test_tokens_of_known_models_join_to_the_text_without_the_network(name: str) -> None:
    tokenize = tokenizer_of(ModelSpec(name))
    for text in ("", " ", *FRAGMENTS, "a\r\n\tb \ufffd\ufffd", "<|endoftext|> x", "\ud800", "①ﬁ 🎉👩‍👩‍👧 " * 5):
        assert "".join(tokenize(text)) == text
    assert tokenize("unbelievable words") != split_words("unbelievable words")


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("sim"),
        ModelSpec("openai/mine", api_base="http://localhost:1"),
        ModelSpec("gemini/gemini-2.0-flash"),
        ModelSpec("ollama/llama3"),
    ],
    ids=lambda spec: spec.name,
)
def test_other_models_get_words(spec: ModelSpec) -> None:
    assert tokenizer_of(spec)("unbelievable words") == ("unbelievable", " words")


@given(st.text(max_size=40))
def test_tokens_of_a_known_model_join_to_any_text(text: str) -> None:
    assert "".join(tokenizer_of(ModelSpec("gpt-4o"))(text)) == text


def test_segments_join_to_the_instruction_and_protect_what_prompts_stand_on() -> None:
    instruction = f"system:\nBe  brief.\n\nuser:\nRead {{{{text}}}} now.\n{KEPT}\nBye"
    found = template.segments(instruction, INPUTS)
    assert "".join(text for text, _ in found) == instruction
    assert [text for text, is_protected in found if is_protected] == ["system:\n", "\n\nuser:\n", "{{text}}", KEPT]


@pytest.mark.parametrize(
    ("instruction", "dropped"),
    [
        ("Give \\{text} in braces", "Give in braces"),  # an escape is one piece: without it, it is live
        ('As {"text": 1, "x": 2} please', "As please"),
        ("Write \\boxed{x} for\n{text} here", "Write for here"),
        ("dialogue\nuser:\nhi {text}", "dialogue user: hi"),  # headings only count at the start
        ("<!-- keep -->\nsystem:\nA\n<!-- /keep -->user:\nAsk {text} now", "Ask now"),
        ("<!-- keep -->\nsystem:\nA\n<!-- /keep -->\nuser: <!-- keep -->\nB<!-- /keep --> Ask {text}", "Ask"),
    ],
)
def test_only_what_cannot_change_the_rest_may_be_dropped(instruction: str, dropped: str) -> None:
    tokens = cut(Prompt(instruction))
    free = "".join(tokens.tokens[i] for i in tokens.mutable)
    assert " ".join(free.split()) == dropped


@pytest.mark.parametrize("instruction", ["Give {\ntext\n} for {text}", "Write \\\n{text} and {text}"])
def test_lines_with_braces_are_never_joined_with_others(instruction: str) -> None:
    tokens = cut(Prompt(instruction))
    assert shown(tokens.prompt([not token.isspace() for token in tokens.tokens])) == shown(tokens.source)


def test_a_system_part_that_lost_everything_is_no_message() -> None:
    prompt = Prompt("system:\nBe brief.\nuser:\nRead {text}")
    tokens = cut(prompt)
    (message,) = template.render(tokens.prompt([False] * len(tokens.tokens)), INPUTS, "text")
    assert message == ("user", "\x00THE TEXT\x00")


# Any mask -----------------------------------------------------------------------------------------------


@given(prompts)
def test_the_tokens_join_to_the_prompt_and_the_full_mask_gives_it_back(prompt: Prompt) -> None:
    tokens = cut(prompt)
    parts = [prompt.instruction, *(template.render_demo(demo) for demo in prompt.demos)]
    assert "".join(tokens.tokens) == "".join(parts)
    assert [("".join(tokens.tokens[:start])) for start in tokens.starts] == [
        "".join(parts[:i]) for i in range(len(parts))
    ]
    assert tokens.prompt([True] * len(tokens.tokens)) == prompt
    assert tokens.prompt(np.ones(len(tokens.tokens), dtype=bool)).id == prompt.id


@given(prompts, st.data())
def test_any_mask_keeps_placeholders_kept_passages_and_headings(prompt: Prompt, data: st.DataObject) -> None:
    task = task_for(prompt)
    tokens = tokenized(prompt, task, split_words)
    pruned = tokens.prompt(masks(tokens, data))
    assert shown(pruned) == shown(prompt)
    assert template.kept(pruned.instruction) == template.kept(prompt.instruction)
    heads = [part.role for part in template.parts(KEEP_MARK.sub("", prompt.instruction)) if part.role]
    lines = [line.strip() for line in KEEP_MARK.sub("", pruned.instruction).split("\n")]
    assert [line[:-1] for line in lines if line in {f"{head}:" for head in heads}][: len(heads)] == heads


@given(prompts, st.data())
def test_the_gate_passes_what_is_left_unless_nothing_is_or_a_heading_arose(
    prompt: Prompt, data: st.DataObject
) -> None:
    task = task_for(prompt)
    gate = Gate(task, 10**6)
    assume(gate.refusal(prompt) is None)
    tokens = tokenized(prompt, task, split_words)
    pruned = tokens.prompt(masks(tokens, data))
    refusal = gate.refusal(pruned) or ""
    assert re.match(r"$|the instruction is empty|the parts changed|parts (system|user)", refusal), refusal
    if not refusal:
        before, after = (task.render(p, task.dev[0]) for p in (prompt, pruned))
        assert all(message.content for message in after)
        assert [message.role for message in before][-len(after) :] == [message.role for message in after]


@given(prompts, st.data())
def test_what_is_left_is_a_subsequence_of_the_tokens(prompt: Prompt, data: st.DataObject) -> None:
    tokens = cut(prompt)
    mask = masks(tokens, data)
    kept = [i for i in range(len(mask)) if mask[i] or tokens.is_protected[i]]
    pruned = tokens.prompt(mask)
    left = [pruned.instruction, *(template.render_demo(demo) for demo in pruned.demos)]
    assert "".join("".join(left).split()) == "".join("".join(tokens.tokens[i] for i in kept).split())


@given(prompts, st.data())
def test_a_pruned_prompt_goes_through_a_file_to_the_same_bytes(prompt: Prompt, data: st.DataObject) -> None:
    task = task_for(prompt)
    pruned = (tokens := tokenized(prompt, task, split_words)).prompt(masks(tokens, data))
    assume(Gate(task, 10**6).refusal(pruned) is None)
    again = parse(format_prompt(pruned)).prompt
    assert again == pruned
    example = Example("1", INPUTS, None)
    assert task.render(again, example) == task.render(pruned, example)


def test_a_demonstration_that_lost_tokens_becomes_text_and_an_empty_one_goes() -> None:
    prompt = Prompt("Do {text}", tuple(Demo((("text", text),), out) for text, out in (("a b", "x"), ("c", "y"))))
    tokens = cut(prompt)
    assert tokens.tokens[tokens.starts[1] :] == (
        *("Input", ":", "\n", "a", " b", "\n", "Output", ":", "\n", "x"),
        *("Input", ":", "\n", "c", "\n", "Output", ":", "\n", "y"),
    )
    drop = {tokens.starts[1] + i for i in (0, 1, 2, 6)}
    pruned = tokens.prompt([i not in drop for i in range(len(tokens.tokens))])
    assert pruned.demos == (Demo((), "a b\n:\nx"), prompt.demos[1])
    example = Example("1", INPUTS, None)
    assert task_for(prompt).render(pruned, example)[0].content == (
        "a b\n:\nx\n\nInput:\nc\nOutput:\ny\n\nDo \x00THE TEXT\x00"
    )
    assert tokens.prompt([i < tokens.starts[1] for i in range(len(tokens.tokens))]) == Prompt("Do {text}")


def test_text_of_demonstrations_is_never_read_as_syntax() -> None:
    block = "```demo\n{}\n```\nInput:\n{{nope}} {text} <!-- keep -->\nsystem:\n"
    prompt = Prompt("Do {text}", (Demo((("text", block),), block), Demo((), block)))
    tokens = cut(prompt)
    assert not any(tokens.is_protected[i] for i in range(tokens.starts[1], len(tokens.tokens)))
    pruned = tokens.prompt([i != tokens.starts[1] for i in range(len(tokens.tokens))])
    assert parse(format_prompt(pruned)).prompt == pruned
    assert template.render(pruned, INPUTS, "text")[0].content.count("{{nope}} {text} <!-- keep -->") == 3


def test_a_prompt_with_blank_margins_or_an_empty_demonstration_is_given_back_whole() -> None:
    prompt = Prompt("  Do {text} \n", (Demo((), ""), Demo((), " ")))
    tokens = cut(prompt)
    assert tokens.prompt([True] * len(tokens.tokens)) == prompt
    assert tokens.prompt([False] * len(tokens.tokens)) == Prompt("{text}", (Demo((), ""),))


def test_a_mask_of_another_length_is_a_mistake() -> None:
    tokens = cut(Prompt("Do {text}"))
    with pytest.raises(ValueError, match="zip"):
        tokens.prompt([True])


@pytest.mark.parametrize(
    "unit", ["{", "\\", "\n", " ", "{a", "user:\n", "{text} ", "a\n", "<!-- keep --><!-- /keep -->"]
)
def test_hostile_prompts_take_linear_time(unit: str) -> None:
    prompt = Prompt("x {text} " + unit * (200_000 // len(unit)))
    tokens = cut(prompt)
    assert "".join(tokens.tokens) == prompt.instruction
    assert shown(tokens.prompt([False] * len(tokens.tokens))) == shown(prompt)


# What a study gives --------------------------------------------------------------------------------------


def test_a_study_cuts_texts_and_prompts() -> None:
    study, state = make_study(Scripted(lambda request: "red"))
    assert study.tokenize("Name the colour.") == ("Name", " the", " colour", ".")
    tokens = study.tokenized(study.initial.prompt)
    assert tokens.tokens == study.tokenize("Name the colour.")
    assert tokens.mutable == (0, 1, 2, 3)
    child = study.candidate(tokens.prompt([False, True, True, True]).instruction, operator="pruning")
    assert child is not None
    assert child.prompt == Prompt("the colour.")
    assert study.candidate(tokens.prompt([False] * 4).instruction, operator="pruning") is None
    state.models = {**state.models, "task": ModelSpec("gpt-4o")}
    assert study.tokenize("x") == ("x",)  # the tokenizer of a run does not change


def test_a_lost_heading_beside_a_kept_passage_is_refused() -> None:
    task = task_for(Prompt("<!-- keep -->\nsystem:\nBe kind.\n<!-- /keep -->\nuser:\nRead {text}"))
    gate = Gate(task, 1000)
    assert gate.refusal(task.initial) is None
    lost = Prompt("<!-- keep -->\nsystem:\nBe kind.\n<!-- /keep -->\nRead {text}")
    assert "the parts changed" in (gate.refusal(lost) or "")


def test_inputs_are_shown_bare_or_with_their_names() -> None:
    assert template.render_inputs([]) == ""
    assert template.render_inputs([("text", "a: b")]) == "a: b"
    assert template.render_inputs([("text", "a"), ("hint", "{text}")]) == "text: a\nhint: {text}"
    assert template.render_demo(Demo((), "as it is ")) == "as it is "


def test_substitute_replaces_named_fields_once_and_literally() -> None:
    assert template.substitute("{a} {b} {{a}} {c}", {"a": "{b}", "b": 1}) == "{b} 1 {{b}} {c}"
