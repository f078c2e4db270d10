"""Every reader of outside text, on text of chance: nothing but our own errors, values in range, linear time."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader import EXAMPLE, NAMES, RUBRIC, SCHEMA, metric_of

from promptopt import (
    chatfile,
    decoding,
    models_file,
    promptfile,
    protocol,
    reply,
    settings_file,
    tables,
    template,
    vocabulary,
)
from promptopt.address import check_address, is_local
from promptopt.bound import number
from promptopt.errors import ConfigError, ServerFailed, TaskError
from promptopt.gate import unfit
from promptopt.judging import read_vote
from promptopt.tasks import answer, pattern, rubric
from promptopt.types import Demo, Example, Prompt

SHORT = 50
PROFILES = [pytest.param(SHORT, id="short"), pytest.param(1000, id="long", marks=pytest.mark.soak)]

MARKS = [
    *(
        "{{item}}",
        "{item}",
        "{{",
        "}}",
        "{",
        "}",
        "{{ item }}",
        "\\{{item}}",
        "{{nothing}}",
        "{0.__class__}",
        "${item}",
    ),
    *(
        "{%",
        "%}",
        "{#",
        "#}",
        "<!-- keep -->",
        "<!-- /keep -->",
        "---",
        "```demo",
        "```instruction",
        "```",
        "\\```demo",
    ),
    *(
        "system:",
        "user:",
        "assistant:",
        "\\user:",
        "\n",
        "\r\n",
        "\r",
        "\u2028",
        "\ufeff",
        "\x00",
        "\x1b[2J",
        "\ud800",
    ),
    *(
        "metric: label",
        "set: [a=b]",
        "- role: user",
        "content: x",
        "&a",
        "*a",
        "!!python/name:os.system",
        "? ",
        ": ",
    ),
    *(
        '{"input": {"item": "a"}, "output": "b"}',
        '[{"role": "user", "content": "{{item}}"}]',
        '"',
        "'",
        "[",
        "]",
        ",",
        ";",
    ),
    *(
        "<prompt>",
        "</prompt>",
        "<answer>",
        "</answer>",
        "<verdicts>",
        "</verdicts>",
        "Answer:",
        "####",
        "\\boxed{",
        "**",
    ),
    *(
        "1: A",
        "2: B",
        "1: yes",
        "2: partly, so",
        "tie",
        "A",
        "(B)",
        "3.5",
        "1/0",
        "1e999",
        "-",
        "\t",
        " ",
        "$",
        "NaN",
    ),
    *(
        "=HYPERLINK(1)",
        "item,target",
        "a,b",
        '"a,b',
        "item",
        "x",
        "é",
        "日本",
        "🙂",
        "\u202e",
        "\\",
        "|",
        "#",
        "0",
        "9" * 30,
    ),
]
TEXT = st.lists(st.sampled_from(MARKS) | st.text(max_size=4), max_size=14).map("".join)
SOUND = TEXT.map(lambda text: text.replace("\x00", "").replace("\ud800", ""))
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "usage", "stop", "\ud800"])
)
KEYS = [
    *(
        "choices",
        "message",
        "content",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "prompt_tokens_details",
        "role",
    ),
    *(
        "cached_tokens",
        "error",
        "cost",
        "logprobs",
        "top_logprobs",
        "token",
        "logprob",
        "candidates",
        "parts",
        "output",
    ),
    *(
        "billed_units",
        "input_tokens",
        "meta",
        "finish_reason",
        "stop_reason",
        "usageMetadata",
        "serviceTier",
        "type",
    ),
    *(
        "model",
        "messages",
        "max_tokens",
        "temperature",
        "seed",
        "n",
        "stream",
        "litellm",
        "facts",
        "price_in",
        "text",
    ),
]
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
COLUMNS = ("item", "other")


def read_prompt(text: str) -> None:
    try:
        file = promptfile.parse(text)
    except ConfigError:
        return
    written = promptfile.format_prompt(file.prompt, file.front_matter)
    again = promptfile.parse(written)
    assert (again.prompt, again.settings, again.options) == (file.prompt, file.settings, file.options)
    assert promptfile.format_prompt(again.prompt, again.front_matter) == written
    unfit(file.prompt)
    with contextlib.suppress(ConfigError):
        pieces = template.segments(file.prompt.instruction, COLUMNS)
        assert "".join(text for text, _ in pieces) == file.prompt.instruction


def write_prompt(instruction: str, output: str) -> None:
    """Any demonstration, with fences and marks in it, comes back to the byte."""
    prompt = Prompt("Name the colour of {{item}}.", (Demo((("item", instruction),), output),))
    assert promptfile.parse(promptfile.format_prompt(prompt)).prompt == prompt


def read_chat_file(text: str, suffix: str) -> None:
    try:
        prompt = chatfile.parse_chat(text, "p", suffix)
    except ConfigError:
        return
    with contextlib.suppress(ConfigError):
        written = chatfile.format_chat(prompt, COLUMNS, "item", suffix)
        inputs = {"item": "{{other}} user:", "other": "{item}"}
        again = chatfile.parse_chat(written, "p", suffix)
        assert template.render(again, inputs, "item") == template.render(prompt, inputs, "item")


def write_chat_file(contents: list[str], suffix: str) -> None:
    """Texts of messages stay texts of messages, whatever headings they hold."""
    roles = ["user", "assistant"] * len(contents)
    said = [{"role": role, "content": f"{text}!"} for role, text in zip(roles, contents, strict=False)]
    if len(said) % 2 == 0:
        said = [*said, {"role": "user", "content": "!"}]
    with contextlib.suppress(ConfigError):
        prompt = chatfile.parse_chat(json.dumps(said), "p", suffix)
        shown = template.parts(template.KEEP_MARK.sub("", prompt.instruction))
        assert [part.role for part in shown] == [message["role"] for message in said]


def render(instruction: str, item: str, other: str) -> None:
    """Data fill placeholders once, and make no message of their own."""
    prompt = Prompt(instruction, (Demo((("item", other),), item),))
    inputs = {"item": item, "other": other}
    try:
        messages = template.render(prompt, inputs, "item")
        bare = template.render(prompt, dict.fromkeys(inputs, "x"), "item")
    except ConfigError:
        return
    assert {m.role for m in messages} <= {"system", "user", "assistant"}
    assert [m.role for m in messages] == [m.role for m in bare] or not item
    assert template.fill("{{item}}|{other}", inputs) == f"{item}|{other}"


def substitute(text: str, value: str) -> None:
    assert template.substitute("<{a}{b}>", {"a": text, "b": value}) == f"<{text}{value}>"
    found = template.tagged(f"{text}<prompt>{value}</prompt>", "prompt")
    assert found == (value.rpartition("<prompt>")[2].strip() or None) or "</prompt>" in value


def read_table(text: str, suffix: str) -> None:
    path = SCRATCH / f"rows{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = tables.read(path)
    except ConfigError as error:
        if str(path) not in str(error):
            raise
        return
    for row in found:
        assert all(isinstance(name, str) and name.strip() for name in row.values)


def read_bytes(raw: bytes) -> None:
    with contextlib.suppress(ConfigError):
        assert "\x00" not in decoding.decode(raw, Path("p"))


def read_settings(text: str) -> None:
    path = SCRATCH / "own.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigError):
        settings_file.read(path, "optimize", promptfile.OPTION_KEYS, ("set", "set-model", "image"))


def score(said: str) -> None:
    for name in NAMES:
        metric, example = metric_of(name)
        found = metric.score(said, example)
        assert 0 <= found.value <= 1, name
        assert found.is_parsed or found.value == 0, name


def score_by_schema(said: str, value: Any) -> None:
    for text in (said, json.dumps(value), f"{said} {json.dumps(value)}"):
        with contextlib.suppress(TaskError):  # a pattern that takes too long
            assert SCHEMA.score(text, EXAMPLE).value in (0, 1)


def find_answer(said: str) -> None:
    for read in (answer.extract, answer.trim, answer.parse_letters, answer.parse_number, answer.parse_object):
        read(said)
    answer.parse_whole(said)
    answer.parse_last(said)
    assert answer.trim(answer.trim(said)) is not None


def judge(said: str) -> None:
    vote = read_vote(said, 2, is_swapped=False)
    swapped = read_vote(said, 2, is_swapped=True)
    assert swapped == (None if vote is None else tuple(-value for value in vote))
    found = RUBRIC.read_rating(said)
    assert found is None or 0 <= found.value <= 1
    with contextlib.suppress(ConfigError):
        rubric.parse(said)


def show_judge(said: str, item: str) -> None:
    """What is judged stands between lines that it does not hold."""
    example = Example("1", {"item": item}, "red")
    request = RUBRIC.rating_request(said, example)[0].content
    mark = next(line for line in request.split("\n") if line.startswith("=====")).strip()
    assert mark not in said
    assert mark not in item
    assert request.count(f"\n{mark}\n{said}\n{mark}") >= 1


def read_reply(value: Any) -> None:
    sent = reply.Sent()
    sent.note({"original_response": json.dumps(value)})
    for look in (lambda: sent.body, lambda: sent.is_answer, lambda: sent.stop_word, lambda: sent.tier):
        look()
    raw = as_namespace(value)
    usage = reply.usage_of(raw, sent)
    assert usage is None or 0 <= usage.input_tokens <= 10**12
    cost = reply.own_sum(raw)
    assert cost is None or 0 < cost <= 10**9
    choice = SimpleNamespace(message=SimpleNamespace(content=None), finish_reason="stop")
    with contextlib.suppress(ServerFailed):
        assert isinstance(reply.finish_reason(choice, sent), str)


def as_namespace(value: Any) -> Any:
    """Return JSON as a record with attributes, as litellm gives replies."""
    is_object = isinstance(value, dict)
    return SimpleNamespace(**{key: as_namespace(one) for key, one in value.items()}) if is_object else value


def read_body(value: Any, text: str) -> None:
    for raw in (json.dumps(value).encode(), text.encode("utf-8", "surrogatepass")):
        try:
            assert protocol.read_chat(protocol.parse(raw)).request.messages
        except protocol.Refusal as refusal:
            json.dumps(refusal.body)
            if refusal.status != 400:
                raise


def read_models(value: Any, text: str) -> None:
    for raw in (json.dumps(value), json.dumps({"litellm": VERSION, "facts": value}), text):
        (SCRATCH / models_file.NAME).write_bytes(raw.encode("utf-8", "surrogatepass"))
        assert isinstance(models_file.read(SCRATCH), dict)


def read_words(text: str) -> None:
    """Addresses and numbers of the command line."""
    for word in (text, f"http://{text}", f"https://a.b:{text}/v1"):
        with contextlib.suppress(ConfigError):
            check_address(word, "--api-base")
            is_local(word)
    with contextlib.suppress(ConfigError):
        assert math.isfinite(number(text, "--budget-usd"))


PATTERN = st.lists(
    st.sampled_from([*"ab(|)[]+*?{}2,.^$\\", "(?:", "(?P<answer>", "\\1", "(a+)+", "(?<=a)"]), max_size=8
)


def search(found: str, text: str) -> None:
    with contextlib.suppress(ConfigError, TaskError):
        pattern.is_found(found, text, is_whole=False)
        answer.Finder(f"({found})").answer(text)


def count_words(text: str) -> None:
    assert all(word == word.lower() for word in vocabulary._words(text))


BODIES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
SUFFIXES = st.sampled_from(chatfile.SUFFIXES)
Properties = dict[str, tuple[Callable[..., None], tuple[Any, ...]]]
PROPERTIES: Properties = {
    "prompt file": (read_prompt, (TEXT,)),
    "front matter": (lambda text: read_prompt(f"---\n{text}\n---\nx"), (TEXT,)),
    "demonstrations": (write_prompt, (TEXT, TEXT)),
    "list of messages": (read_chat_file, (TEXT, SUFFIXES)),
    "messages that hold headings": (write_chat_file, (st.lists(SOUND, min_size=1, max_size=4), SUFFIXES)),
    "rendering": (render, (TEXT, TEXT, TEXT)),
    "substitution": (substitute, (TEXT, TEXT)),
    "tables": (read_table, (TEXT, st.sampled_from(tables.SUFFIXES))),
    "rows": (
        lambda rows, suffix: read_table("\n".join(map(json.dumps, rows)), suffix),
        (st.lists(BODIES, max_size=3), st.sampled_from([".jsonl", ".json"])),
    ),
    "encodings": (read_bytes, (st.binary(max_size=40) | TEXT.map(lambda t: t.encode("utf-16", "surrogatepass")),)),
    "settings": (read_settings, (TEXT | TEXT.map(lambda text: f"set = {text}"),)),
    "scores": (score, (TEXT,)),
    "scores by schema": (score_by_schema, (TEXT, VALUES)),
    "answers": (find_answer, (TEXT,)),
    "verdicts": (judge, (TEXT | TEXT.map(lambda text: f"<verdicts>{text}</verdicts>"),)),
    "what a judge sees": (show_judge, (TEXT.filter(bool), TEXT)),
    "replies": (read_reply, (BODIES,)),
    "requests": (read_body, (BODIES, TEXT)),
    "facts of models": (read_models, (VALUES, TEXT)),
    "words": (read_words, (TEXT,)),
    "patterns": (search, (PATTERN.map("".join), st.text("ab", max_size=30))),
    "vocabulary": (count_words, (TEXT,)),
}
SCRATCH = Path()
VERSION = "0"


@pytest.fixture(autouse=True, scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    from importlib.metadata import version

    global SCRATCH, VERSION
    SCRATCH, VERSION = tmp_path_factory.mktemp("fuzz"), version("litellm")


@pytest.mark.parametrize("n", PROFILES)
@pytest.mark.parametrize("name", PROPERTIES)
def test_chance(name: str, n: int) -> None:
    check, drawn = PROPERTIES[name]
    checks = list(HealthCheck)
    given(*drawn)(settings(max_examples=n, deadline=None, database=None, suppress_health_check=checks)(check))()
