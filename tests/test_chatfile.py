"""Conversations as prompts, and files that hold a prompt as a list of messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from commandline import Runner, optimize, rows
from hypothesis import given
from hypothesis import strategies as st

from promptopt import template
from promptopt.chatfile import format_chat, parse_chat
from promptopt.errors import ConfigError
from promptopt.gate import Gate
from promptopt.promptfile import format_prompt, parse, read
from promptopt.task import Task
from promptopt.tasks.metrics import load
from promptopt.tokens import split_words, tokenized
from promptopt.types import Demo, Example, Message, Prompt

INPUTS = {"text": "VALUE", "more": "M"}
TALK = "system:\nSort.\n\nuser:\nHi\n\nassistant:\nHello {more}\n\nuser:\nSort {{text}}"
DEMO = Demo((("text", "{{text}} \\{more}"),), "user:\nother")


def render(instruction: str, *demos: Demo) -> list[tuple[str, str]]:
    return [tuple(message) for message in template.render(Prompt(instruction, demos), INPUTS, "text")]


def make_gate(instruction: str) -> Gate:
    rows = tuple(Example(str(i), {**INPUTS, "text": f"t{i}"}, "x") for i in range(2))
    return Gate(Task("t", load("exact", ["x"]), rows[:1], rows[1:], initial=Prompt(instruction)), 1000)


# Conversations ------------------------------------------------------------------------------------


def test_a_conversation_is_rendered_turn_by_turn() -> None:
    assert render(TALK) == [
        ("system", "Sort."),
        ("user", "Hi"),
        ("assistant", "Hello M"),
        ("user", "Sort VALUE"),
    ]
    assert render(TALK, DEMO)[0] == ("system", "Sort.\n\nInput:\n{{text}} \\{more}\nOutput:\nuser:\nother")


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("user:\n", "VALUE"),
        ("user:\nAnd now:", "And now:\n\nVALUE"),
        ("user:\nAnd now {{text}}", "And now VALUE"),
        ("user:\nRules.\n\nNow {{text}}", "Rules.\n\nInput:\nq\nOutput:\na\n\nNow VALUE"),
    ],
)
def test_the_input_ends_a_conversation_that_does_not_show_it(last: str, said: str) -> None:
    demos = (Demo((("text", "q"),), "a"),) if "Rules" in last else ()
    rendered = render(f"user:\nHi\nassistant:\nHello\n{last}", *demos)
    assert rendered == [("user", "Hi"), ("assistant", "Hello"), ("user", said)]


def test_demonstrations_stand_in_the_last_message_where_no_system_message_is() -> None:
    rendered = render("user:\n{{text}}\nassistant:\nHello\nuser:\nSort it.", Demo((), "D"))
    assert rendered == [("user", "VALUE"), ("assistant", "Hello"), ("user", "D\n\nSort it.")]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("user:\na\nassistant:\nb", 3, "parts user, assistant; "),
        ("user:\na\nassistant:\nb\nassistant:\nc\nuser:\n", 5, "parts user, assistant, assistant, user; "),
        ("assistant:\na\nuser:\nb", 1, "parts assistant, user; "),
        ("system:\na\nassistant:\nb\nuser:\nc", 3, "in turn, the last of them user:"),
        ("user:\na\nassistant:\nb\nsystem:\nc\nuser:\nd", 5, "at most one system: part"),
        ("user:\na\nassistant:\n \nuser:\nb", 3, "part 2, assistant:, is empty; write what is said there"),
        ("system:\na\nuser:\nassistant:\nx\nuser:\nb", 3, "part 2, user:, is empty"),
    ],
)
def test_conversations_out_of_order_are_refused_with_their_line(text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "p.md")
    assert str(caught.value).startswith(f"p.md:{line}: ")
    assert said in str(caught.value)


def test_an_escaped_heading_is_text() -> None:
    instruction = "user:\nA chat:\n\\user:\n\\\\assistant: \nhi {{text}}"
    assert render(instruction) == [("user", "A chat:\nuser:\n\\assistant: \nhi VALUE")]
    assert parse(format_prompt(Prompt(instruction))).prompt.instruction == instruction
    assert render("plain\n\\user:\n{{text}}") == [("user", "plain\n\\user:\nVALUE")]  # without parts, as ever


def test_the_gate_demands_the_same_turns() -> None:
    gate = make_gate(TALK)
    assert "in this order and each alone on its line: `system:`, `user:`, `assistant:`, `user:`." in gate.demands
    assert gate.refusal(Prompt(TALK.replace("Hi", "Good day"))) is None
    shorter = "system:\nSort {more}.\n\nuser:\nSort {{text}}"
    assert (gate.refusal(Prompt(shorter)) or "").startswith(
        "the parts changed from ('system', 'user', 'assistant'"
    )
    assert "is empty" in (gate.refusal(Prompt(TALK.replace("Hi", " "))) or "")
    two = make_gate("system:\nSort.\nuser:\n{{text}}").demands
    assert "Keep the part headings, each alone on its line: `system:` and `user:`." in two


def test_headings_of_every_turn_are_protected_tokens() -> None:
    rows = (Example("1", INPUTS, "x"),)
    task = Task("t", load("exact", ["x"]), rows, (Example("2", INPUTS, "x"),), initial=Prompt(TALK))
    tokens = tokenized(task.initial, task, split_words)
    pruned = tokens.prompt([False] * len(tokens.tokens))
    assert [line for line in pruned.instruction.split("\n") if line.endswith(":")] == [
        *("system:", "user:", "assistant:", "user:")
    ]
    assert template.prefixed(TALK, "be brief").startswith("system:\nbe brief\nSort.")


# Files --------------------------------------------------------------------------------------------


def chat(*messages: tuple[str, object]) -> list[dict[str, object]]:
    return [{"role": role, "content": content} for role, content in messages]


WRITERS: dict[str, Callable[[object], str]] = {
    ".json": json.dumps,
    ".yaml": yaml.safe_dump,
    ".yml": yaml.safe_dump,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_list_of_messages_is_one_instruction(tmp_path: Path, suffix: str) -> None:
    talk = chat(("system", "Sort.\r\n"), ("user", "Hi"), ("assistant", "Hello {more}"), ("user", "Sort {{text}}"))
    path = tmp_path / f"prompt{suffix}"
    path.write_text(WRITERS[suffix](talk))
    file = read(path)
    assert file.prompt == Prompt(TALK)
    written = format_chat(file.prompt, tuple(INPUTS), "text", suffix)
    assert yaml.safe_load(written) == [{**part, "content": str(part["content"]).strip()} for part in talk]


def test_content_in_parts_is_joined() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b {{text}}"}]
    assert parse_chat(json.dumps(chat(("user", content))), "p", ".json").instruction == "user:\na\n\nb {{text}}"


_LINES = [
    "user:",
    "\\system: ",
    "assistant:",
    "{{text}}",
    "{more}",
    "\\{{text}}",
    "a: - b",
    "",
    "é",
    "'\"#",
    "{{{",
]
_TEXT = st.lists(st.sampled_from(_LINES), min_size=1, max_size=4).map("\n".join).filter(str.strip)


@given(
    st.booleans(),
    st.lists(_TEXT, min_size=1, max_size=5),
    st.lists(_TEXT, max_size=2),
    st.sampled_from([*WRITERS]),
)
def test_what_is_written_renders_to_the_same_messages(
    has_system: bool, texts: list[str], demos: list[str], suffix: str
) -> None:
    texts = texts[: len(texts) - (len(texts) + has_system + 1) % 2] or texts
    roles = ["system"] * has_system + ["user", "assistant"] * 3
    talk = chat(*zip(roles, texts, strict=False))
    if talk[-1]["role"] == "assistant":
        return
    prompt = parse_chat(WRITERS[suffix](talk), "p", suffix)
    prompt = Prompt(prompt.instruction, tuple(Demo((("text", text),), text) for text in demos))
    again = parse_chat(format_chat(prompt, tuple(INPUTS), "text", suffix), "p", suffix)
    assert not again.demos
    before, after = (template.render(p, INPUTS, "text") for p in (prompt, again))
    assert [Message(m.role, m.content.strip()) for m in after] == [
        Message(m.role, m.content.strip()) for m in before
    ]


def test_keep_marks_come_back() -> None:
    kept = "<!-- keep -->Be kind.<!-- /keep --> Go"
    prompt = parse_chat(json.dumps(chat(("system", kept), ("user", "{{text}}"))), "p", ".json")
    assert template.kept(prompt.instruction) == ("Be kind.",)
    assert json.loads(format_chat(prompt, ("text",), "text", ".json"))[0]["content"] == kept
    odd = Prompt("<!-- keep -->system:\nA<!-- /keep -->\nuser:\n{{text}}")
    assert json.loads(format_chat(odd, ("text",), "text", ".json"))[0] == {"role": "system", "content": "A"}


# A value of 9**9 texts, were its aliases followed.
BOMB = "- role:\n  - &a [x, x]\n" + "".join(
    f"  - &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

WRONG = [
    (".json", "[", "p:1:2: not JSON (Expecting value); write a list of messages"),
    (".json", "[" * 100_000, "p: cannot be read (maximum recursion depth exceeded"),
    (".json", "[]", "p: a prompt in .json is a list of messages, [{"),
    (".json", '{"messages": []}', "write the list under 'messages' alone"),
    (
        ".json",
        '[{"role": "system", "role": "user", "content": "x"}]',
        "p: cannot be read (key 'role' stands twice)",
    ),
    (".yaml", "- role: user\n  content: [", "p:2: not YAML (expected the node content"),
    (".yaml", "- role: user\n  content: !!bool foo", "p:2: not YAML (found a value that is no bool)"),
    (".yaml", "- role: user\n  content: !!timestamp foo", "p:2: not YAML (found a value that is no timestamp)"),
    (".yaml", "- role: !!int ''\n  content: x", "p:1: not YAML (found a value that is no int)"),
    (".yaml", BOMB, "p:3: not YAML (aliases are not read: write each text out)"),
    (".json", json.dumps([{"role": [9] * 9, "content": ""}]), "p: message 1: role is a list; write one of system"),
    (".yaml", "Sort the message.", "p: a prompt in .yaml is a list of messages"),
    (".yml", "- role: user\n  content: 5\n", "p: message 1: content is a int; write it as text, in quotes"),
    (
        ".yml",
        "- role: user\n  content: {{text}}\n",
        "p:2: not YAML (found unhashable key); put texts with braces or colons in quotes",
    ),
    (".json", '["a"]', "p: message 1 is no object; write role and content"),
    (".json", '[{"role": "user"}]', "p: message 1 has the keys role; write role and content"),
    (
        ".json",
        json.dumps(chat(("developer", "x"))),
        "role 'developer' is none of system, user, assistant; write system",
    ),
    (".json", json.dumps(chat(("tool", "x"))), "p: message 1: role 'tool' is none of system, user, assistant"),
    (".json", json.dumps(chat(("user", "a"), ("user", "b"))), "p: parts user, user; "),
    (
        ".json",
        json.dumps(chat(("user", "a"), ("assistant", " "), ("user", ""))),
        "p: part 2, assistant:, is empty",
    ),
    (".json", json.dumps(chat(("user", [{"type": "image_url"}]))), "images are columns, named with --image"),
    (".json", json.dumps(chat(("user", "{% if x %}"))), "p: message 1: template tag {% ... %}"),
    (".json", json.dumps(chat(("user", "a\x00"))), "p: message 1: holds a NUL character"),
    (".json", json.dumps(chat(("user", "a\ud800"))), "half a surrogate pair"),
    (".json", json.dumps(chat(("user", "<!-- keep -->a"))), "p: keep marks are unbalanced"),
]


@pytest.mark.parametrize(("suffix", "text", "said"), WRONG, ids=[said[:50] for *_, said in WRONG])
def test_wrong_files_are_refused(suffix: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_chat(text, "p", suffix)
    assert said in str(caught.value)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_the_best_prompt_is_written_as_messages_too(run: Runner, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"prompt{suffix}"
    talk = chat(("user", "Hello"), ("assistant", "Name a thing."), ("user", "What colour is it? {{item}}"))
    path.write_text(WRITERS[suffix](talk))
    (tmp_path / "data.csv").write_text(rows())
    done = run(*optimize("--budget-calls", 400, "--out", "a", "--json", prompt=path, data="data.csv"))
    assert done.status == 0, done.err
    best = tmp_path / f"a/best{suffix}"
    messages = yaml.safe_load(best.read_text(encoding="utf-8"))
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    own = read(tmp_path / "a/best.md").prompt
    row = {"item": "thing"}
    assert template.render(read(best).prompt, row, "item") == template.render(own, row, "item")
    assert run(*optimize("--dry-run", prompt=best, data="data.csv")).status == 0
