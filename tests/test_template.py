import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt import template
from promptopt.errors import ConfigError
from promptopt.task import Task
from promptopt.types import Demo, Example, Message, Prompt, Score

INPUTS = {"text": "VALUE", "customer's word": "W"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{text}}", "VALUE"),
        ("{{ text }}", "VALUE"),
        ("{text}", "VALUE"),
        ("{other}", "{other}"),
        ("\\{{text}}", "{{text}}"),
        ("\\{{any}}", "{{any}}"),
        ("\\{text}", "{text}"),
        ("\\{other}", "\\{other}"),
        ("{{customer's word}}", "W"),
        ('{{"a": 1}}', '{{"a": 1}}'),
        ('\\{{"a": 1}}', '\\{{"a": 1}}'),
        ("{{{text}}}", "{VALUE}"),
        ("{{}} {} { text } {{\ntext}}", "{{}} {} { text } {{\ntext}}"),
    ],
)
def test_fill_replaces_only_placeholders(text: str, filled: str) -> None:
    assert template.fill(text, INPUTS) == filled


@pytest.mark.parametrize("text", ["{{txt}}", "{{ text|upper }}", "{{text.x}}"])
def test_a_strict_placeholder_without_column_is_an_error_with_a_remedy(text: str) -> None:
    with pytest.raises(ConfigError, match=r"names no column .*text.*; correct it, or write"):
        template.fill(text, INPUTS)
    with pytest.raises(ConfigError):
        template.placeholders(text, INPUTS)


def test_values_are_never_substituted_into() -> None:
    messages = template.render(
        Prompt("Do {{a}}", (Demo((("a", "{{b}} {a}"),), "{{a}}"),)),
        {"a": "{{zzz}} {b} \\{{b}}", "b": "SECRET"},
        "a",
    )
    assert messages == (Message("user", "Input:\n{{b}} {a}\nOutput:\n{{a}}\n\nDo {{zzz}} {b} \\{{b}}"),)


@given(st.text(), st.text())
def test_a_value_arrives_as_it_is(before: str, value: str) -> None:
    text = before.replace("{", "").replace("\\", "") + "{{x}}"
    assert template.fill(text, {"x": value}) == text[:-5] + value


@pytest.mark.parametrize("unit", ["{{a", "{{a" + " " * 50, "{", "\\{", "{a ", "{{a b.c "])
def test_hostile_text_takes_linear_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    assert template.fill(text, INPUTS) == text
    template.parts(text)


def test_parts() -> None:
    assert template.parts("just text") == (Message("", "just text"),)
    assert template.parts("system:\nA\nuser:\nB\n") == (Message("system", "A"), Message("user", "B"))
    assert template.parts("Dialogue\nuser:\nhi") == (Message("", "Dialogue\nuser:\nhi"),)


@pytest.mark.parametrize("text", ["user:\na\nsystem:\nb", "user:\na\nuser:\nb", "system:\na\nuser:\nb\nuser:\nc"])
def test_wrong_parts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="at most one system: part"):
        template.parts(text)


def test_kept_passages_and_their_marks() -> None:
    assert template.kept("a <!-- keep -->b\nc<!-- /keep --> d") == ("b\nc",)
    for text in (
        "<!-- keep -->a",
        "<!-- /keep -->",
        "<!-- keep --><!-- keep --><!-- /keep --><!-- /keep -->",
    ):
        with pytest.raises(ConfigError, match="unbalanced"):
            template.kept(text)


@pytest.mark.parametrize(
    ("instruction", "roles"),
    [
        ("no placeholder", ["system", "user"]),
        ("see {{a}}", ["user"]),
        ("system:\nS {{b}}\nuser:\nU {{a}}", ["system", "user"]),
        ("system:\nS {{b}}\nuser:\nplain", ["system", "user"]),
        ("system:\nonly {{b}}", ["system", "user"]),
        ("", ["user"]),
    ],
)
def test_roles_of_the_messages(instruction: str, roles: list[str]) -> None:
    messages = template.render(Prompt(instruction), {"a": "A", "b": "B"}, "a")
    assert [message.role for message in messages] == roles
    assert "A" in messages[-1].content


class _Any:
    name = "any"

    def score(self, reply: str, example: Example) -> Score:
        return Score(1.0)


def _task(instruction: str, **inputs: str) -> Task:
    task = Task("t", _Any(), (Example("1", inputs, "x"),), (Example("2", inputs, "y"),))
    return task.with_initial(Prompt(instruction))


def test_a_prompt_that_shows_the_input_column_needs_that_column() -> None:
    with pytest.raises(ConfigError, match="no placeholder for the input"):
        _task("system:\nUse {{context}}", context="c")
    task = _task("system:\nUse {{context}}", context="c", input="i")
    assert task.shown_columns == ("context", "input")
    assert task.placeholders == ("context",)
    assert _task("{{input}}", input="i").shown_columns == ("input",)
