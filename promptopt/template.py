"""Prompt text to chat messages: placeholders, parts, kept passages. Nothing is ever evaluated.

Placeholders: `{{column}}` is strict (an unknown column is an error), `{column}` is lenient (literal
unless it names a column); a backslash before either makes it literal. Double braces whose text starts
with neither a letter, a digit nor an underscore, such as `{{"a": 1}}`, are literal unless they name a
column. A line `system:` or `user:` starts a part. `<!-- keep -->`...`<!-- /keep -->` marks text that
candidates must carry verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from promptopt.errors import ConfigError
from promptopt.types import KEEP_MARK, Demo, Message, Prompt

_SLOT = re.compile(r"(\\?)(?:\{\{([^{}\n]+)\}\}|\{([^{}\n]+)\})")
_WORD = re.compile(r"\w")
_PART = re.compile(r"^(system|user):[ \t]*$", re.MULTILINE)
_KEPT = re.compile(r"<!-- keep -->(.*?)<!-- /keep -->", re.DOTALL)


def placeholders(text: str, columns: Collection[str]) -> tuple[str, ...]:
    """Return the columns that `text` has placeholders for, in order of first appearance.

    Raises:
        ConfigError: a strict placeholder names no column.
    """
    found: dict[str, None] = {}
    for match in _SLOT.finditer(text):
        name = _column(match, columns)
        if name is not None:
            found[name] = None
    return tuple(found)


def fill(text: str, inputs: Mapping[str, str]) -> str:
    """Return `text` with its placeholders replaced literally by the columns of `inputs`."""

    def value(match: re.Match[str]) -> str:
        name = _column(match, inputs)
        if name is not None:
            return inputs[name]
        is_escape = match.group(1) and _is_slot(match, inputs)
        return match.group()[1:] if is_escape else match.group()

    return _SLOT.sub(value, text)


def kept(text: str) -> tuple[str, ...]:
    """Return the passages between keep marks, verbatim and in order.

    Raises:
        ConfigError: marks are unbalanced or nested.
    """
    marks = KEEP_MARK.findall(text)
    if marks != ["<!-- keep -->", "<!-- /keep -->"] * (len(marks) // 2):
        raise ConfigError(
            "keep marks are unbalanced; write <!-- keep --> before and <!-- /keep --> after each passage"
        )
    return tuple(_KEPT.findall(text))


def parts(instruction: str) -> tuple[Message, ...]:
    """Split an instruction into its `system:` and `user:` parts; none named = one part without a role.

    The role of an unnamed single part is "", since it depends on where the input goes. Where text stands
    before the first such line, it starts no part: the lines are text (dialogues within a prompt).

    Raises:
        ConfigError: a part is named twice, or user: stands before system:.
    """
    heads = list(_PART.finditer(instruction))
    if not heads or instruction[: heads[0].start()].strip():
        return (Message("", instruction.strip()),)
    roles = [head.group(1) for head in heads]
    if roles not in (["system"], ["user"], ["system", "user"]):
        raise ConfigError(
            f"parts {', '.join(roles)}; a prompt has at most one system: part, then one user: part; "
            "indent a line that is meant as text"
        )
    ends = [head.start() for head in heads[1:]] + [len(instruction)]
    return tuple(
        Message(role, instruction[head.end() : end].strip())
        for role, head, end in zip(roles, heads, ends, strict=True)
    )


def render(prompt: Prompt, inputs: Mapping[str, str], input_column: str) -> tuple[Message, ...]:
    """Return the chat messages for one example.

    Without a placeholder the instruction is the system message and `inputs[input_column]` the user
    message. Demonstrations end the system message; in a prompt with no system message they stand
    before the paragraph of the first placeholder.
    """
    sections = parts(KEEP_MARK.sub("", prompt.instruction))
    demos = "\n\n".join(render_demo(demo) for demo in prompt.demos)
    system = next((part.content for part in sections if part.role == "system"), None)
    user = next((part.content for part in sections if part.role in ("user", "")), None)
    if needs_input(prompt.instruction, inputs) or user is None:
        instruction = "\n\n".join(text for text in (system, user) if text)
        content = _join(fill(instruction, inputs), demos)
        question = Message("user", inputs[input_column])
        return (Message("system", content), question) if content else (question,)
    if system is not None:
        return (Message("system", _join(fill(system, inputs), demos)), Message("user", fill(user, inputs)))
    before, question_text = _split_before_placeholder(user, inputs)
    return (Message("user", _join(fill(before, inputs), demos, fill(question_text, inputs))),)


def needs_input(instruction: str, columns: Collection[str]) -> bool:
    """Return whether the input column is the user message, as no part for the user has a placeholder."""
    sections = parts(KEEP_MARK.sub("", instruction))
    return not any(placeholders(part.content, columns) for part in sections if part.role != "system")


def render_demo(demo: Demo) -> str:
    """Return a demonstration as text; its inputs are shown as they are, never substituted into."""
    if len(demo.inputs) == 1:
        shown = demo.inputs[0][1]
    else:
        shown = "\n".join(f"{column}: {text}" for column, text in demo.inputs)
    return f"Input:\n{shown}\nOutput:\n{demo.output}"


def _column(match: re.Match[str], columns: Collection[str]) -> str | None:
    escape, strict, lenient = match.groups()
    if escape or not _is_slot(match, columns):
        return None
    name = str(lenient if strict is None else strict.strip(" \t"))
    if name not in columns:
        known = ", ".join(columns)
        raise ConfigError(
            f"placeholder {{{{{name}}}}} names no column (columns: {known}); "
            f"correct it, or write \\{{{{{name}}}}} for literal text"
        )
    return name


def _is_slot(match: re.Match[str], columns: Collection[str]) -> bool:
    _, strict, lenient = match.groups()
    if strict is None:
        return lenient in columns
    name = strict.strip(" \t")
    return name in columns or _WORD.match(name) is not None


def _split_before_placeholder(text: str, columns: Collection[str]) -> tuple[str, str]:
    first = next(m.start() for m in _SLOT.finditer(text) if _column(m, columns) is not None)
    cut = text.rfind("\n\n", 0, first)
    return (text[:cut], text[cut + 2 :]) if cut >= 0 else ("", text)


def _join(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
