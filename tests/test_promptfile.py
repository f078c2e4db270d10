import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from promptopt import template
from promptopt.errors import ConfigError
from promptopt.promptfile import MAX_BYTES, PromptFile, format_prompt, parse, read
from promptopt.types import KEEP_MARK, Demo, Prompt

FULL = """---
name: triage
metric: label   # comment
target: no
---

Sort {{text}}.

```demo
{"input": {"text": "Hi {{text}}"}, "output": "other"}
```
```demo
{"input": {"text": "b",
 "more": "c"}, "output": ""}
```
"""


def test_a_file_with_everything() -> None:
    file = parse(FULL)
    assert file.settings == {"name": "triage", "metric": "label", "target": "no"}
    assert file.front_matter == FULL[: FULL.index("\nSort")]
    demos = (Demo((("text", "Hi {{text}}"),), "other"), Demo((("text", "b"), ("more", "c")), ""))
    assert file.prompt == Prompt("Sort {{text}}.", demos)
    again = format_prompt(file.prompt, file.front_matter)
    assert parse(again) == file
    assert format_prompt(parse(again).prompt, file.front_matter) == again


def test_plain_text_is_the_instruction() -> None:
    assert parse("Hello\n\n  world  \n\n") == PromptFile(Prompt("Hello\n\n  world  "))
    assert parse("\ufeffa\r\nb\rc").prompt.instruction == "a\nb\nc"
    assert parse("\n---\nx").prompt.instruction == "---\nx"
    assert parse("a {% b").prompt.instruction == "a {% b"


def test_readable_escapes() -> None:
    assert format_prompt(Prompt("Show:\n```demo\nx")) == "Show:\n\\```demo\nx\n"
    assert format_prompt(Prompt("---\nrule")) == "---\n---\n---\nrule\n"
    assert format_prompt(Prompt("a\r\nb")) == '```instruction\n"a\\r\\nb"\n```\n'


_LINES = [
    *(
        "```demo",
        "\\```demo",
        "```",
        "---",
        "",
        " ",
        "```instruction",
        "{% x %}",
        "{# #}",
        "text",
        "\ufeff",
        "a\r",
    ),
    *("\x00", '{"input": {}, "output": ""}', "\u2028", "\x85", "\ud800", "é", "<!-- keep -->k<!-- /keep -->"),
]
_TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(_LINES), max_size=6).map("\n".join))
_DEMOS = st.lists(
    st.builds(Demo, st.dictionaries(st.text(), _TEXTS, max_size=3).map(lambda d: tuple(d.items())), _TEXTS),
    max_size=3,
).map(tuple)


def _can_be_rendered(instruction: str) -> bool:
    try:
        template.kept(instruction)
        template.parts(KEEP_MARK.sub("", instruction))
    except ConfigError:
        return False
    return True


@given(_TEXTS, _DEMOS, st.sampled_from(["", "---\nmetric: label\n---\n", "---\n---"]))
@example("```instruction\nx\n```", (), "")
@example("```demo", (Demo((), ""),), "")
@example("", (), "")
def test_every_prompt_comes_back(instruction: str, demos: tuple[Demo, ...], front_matter: str) -> None:
    prompt = Prompt(instruction, demos)
    text = format_prompt(prompt, front_matter)
    text.encode("utf-8")
    if _can_be_rendered(instruction):
        assert parse(text).prompt == prompt


@given(st.one_of(st.text(), _TEXTS))
def test_what_was_parsed_is_in_normal_form(text: str) -> None:
    try:
        prompt = parse(text).prompt
    except ConfigError:
        return
    assert parse(format_prompt(prompt)).prompt == prompt


def test_a_prompt_that_cannot_be_rendered_is_written_and_refused_on_reading() -> None:
    text = format_prompt(Prompt("<!-- keep -->"))
    with pytest.raises(ConfigError, match="unbalanced"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("---\nmetric: label\ncolour: red\n---\nx", 3, "unknown front matter key 'colour'; "),
        ("---\nmetrik: label\n---\nx", 2, "did you mean 'metric'"),
        ("---\nmetric: [a, b]\n---\nx", 2, "needs one text; write `metric: ...`"),
        ("---\nmetric:\n---\nx", 2, "needs one text"),
        ("---\nname: a\nname: b\n---\nx", 3, "stands twice; remove one"),
        ("---\n- a\n---\nx", 2, "no mapping; write lines like"),
        ("---\nname: a: b\n---\nx", 2, "not YAML"),
        ("---\nname: a\n\tb: c\n---\nx", 3, "not YAML"),
        ("---\n" + "[" * 5000 + "\n---\nx", 2, "front matter"),
        ("---\nname: a\nx", 1, "never ends; close it"),
        ("---\nname: a\n---\n", 4, "no prompt text; write the instruction"),
        ("```demo\n{}\n```", 1, "no prompt text"),
        ("a\n{% if x %}", 2, "template tag {% ... %}"),
        ("a\n\n{# note #}", 3, "take it out"),
        ("a\nb\x00", 2, "NUL character; save"),
        ("a\n<!-- keep -->b", 2, "unbalanced; write <!-- keep -->"),
        ("a\n<!-- keep -->b<!-- /keep -->\nc\n<!-- /keep -->", 4, "unbalanced"),
        ("user:\na\nsystem:\nb", 3, "at most one system: part"),
        ("---\nname: x\n---\nsystem:\na\nuser:\nb\nuser:\n", 8, "indent a line"),
        ("a\n```demo\n{}", 2, "is not closed; end it with a line ```"),
        ('a\n```demo\n{"input": \n oops}\n```', 4, "holds no JSON"),
        ('a\n```demo\n{"input": "x", "output": "y"}\n```', 3, "has the shape"),
        ('a\n```demo\n{"input": {"a": 1}, "output": "y"}\n```', 3, "has the shape"),
        ('a\n```demo\n{"input": {"a": "1", "a": "2"}, "output": "y"}\n```', 3, "key 'a' stands twice"),
        ("a\n```demo\n" + "[" * 100_000 + "\n```", 3, "cannot be read"),
        ('a\n```demo\n{"input": {}, "output": "y"}\n```\n\nmore', 6, "move the text above"),
        ("```instruction\n3\n```", 1, "holds one JSON string"),
    ],
)
def test_wrong_files_are_refused_with_line_and_remedy(text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "prompt.md")
    assert str(caught.value).startswith(f"prompt.md:{line}: ")
    assert said in str(caught.value)


def test_empty_text_is_refused() -> None:
    for text in ("", "\n \n", "\ufeff"):
        with pytest.raises(ConfigError, match=r"^p\.md: is empty; write the prompt into it"):
            parse(text, "p.md")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; write"),
        (
            b"ok\n\xff",
            ":2: byte 0xff at position 3 is not UTF-8 (in Windows-1252 it is 'ÿ'); save the file as UTF-8",
        ),
        ("text".encode("utf-16-le"), "binary or UTF-16; save it as UTF-8"),
        (b"a" * (MAX_BYTES + 1), "at most 1000000. Is it the data?"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "prompt.md"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; name the prompt file"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"no\.md: no such file; check the path"):
        read(tmp_path / "no.md")
    for name in ("a\x00b", "x" * 5000):
        with pytest.raises(ConfigError, match="check the path"):
            read(Path(name))


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prompt.md"
    path.write_bytes("\ufeff".encode() + FULL.replace("\n", "\r\n").encode())
    assert read(path) == parse(FULL)


@given(st.text(alphabet='-`demo\n{}"%#: []a<!k>/', max_size=60))
def test_parse_raises_nothing_but_config_errors(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse(text)
