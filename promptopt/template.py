"""Prompt text to chat messages: placeholders, parts, kept passages. Nothing is ever evaluated.

Placeholders: `{{column}}` is strict (an unknown column is an error), `{column}` is lenient (literal
unless it names a column); a backslash before either makes it literal. Double braces whose text starts
with neither a letter, a digit nor an underscore, such as `{{"a": 1}}`, are literal unless they name a
column. A line `system:`, `user:` or `assistant:` starts a part; a backslash before it makes it text.
`<!-- keep -->`...`<!-- /keep -->` marks text that candidates must carry verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from promptopt.errors import ConfigError
from promptopt.types import KEEP_MARK, Demo, Message, Prompt

_SLOT = re.compile(r"(\\?)(?:\{\{([^{}\n]+)\}\}|\{([^{}\n]+)\})")
_WORD = re.compile(r"\w")
_FIELD = re.compile(r"\{(\w+)\}")
_PART = re.compile(r"^(system|user|assistant):[ \t]*$", re.MULTILINE)
_ESCAPED_PART = re.compile(r"^\\(\\*(?:system|user|assistant):[ \t]*)$", re.MULTILINE)
_LIKE_PART = re.compile(r"\\*(?:system|user|assistant):[ \t]*")
# The same with the blank lines around it, and the keep marks on it, which are taken off before parts are found.
_PART_LINE = re.compile(
    r"(?:(?<!\n)\n+)?^(?:<!-- /?keep -->)*(?:system|user|assistant):[ \t]*(?:<!-- /?keep -->[ \t]*)*$\n*",
    re.MULTILINE,
)
_KEPT = re.compile(r"<!-- keep -->(.*?)<!-- /keep -->", re.DOTALL)
_BRACE = re.compile(r"[{}\\]")
_LINE = re.compile(r"[^\n]+")


def placeholders(text: str, columns: Collection[str]) -> tuple[str, ...]:
    """Return the columns that `text` has placeholders for, in order of first appearance.

    Raises:
        ConfigError: a strict placeholder names no column.
    """
    return _placeholders(text, tuple(columns))


@lru_cache(maxsize=1000)  # a prompt is rendered for every example
def _placeholders(text: str, columns: tuple[str, ...]) -> tuple[str, ...]:
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


def jinja_tag(text: str) -> tuple[int, str] | None:
    """Return where the first Jinja tag of `text` stands, and why it is refused; None = there is none."""
    for start, end in (("{%", "%}"), ("{#", "#}")):
        position = text.find(start)
        if position >= 0 and text.find(end, position) >= 0:
            return position, (
                f"template tag {start} ... {end}; only {{{{column}}}} works, support for Jinja tags comes "
                "later; take it out, or render that part of the prompt beforehand"
            )
    return None


def segments(instruction: str, columns: Collection[str]) -> list[tuple[str, bool]]:
    """Cut an instruction into (text, is_protected); joined, they are the instruction.

    Protected are placeholders, kept passages with their marks, and the lines that start parts. So is, on a line
    with other braces or backslashes, all from the first to the last of them, and the ends of that line: without
    what stands between, they could make a placeholder, or make one literal.

    Raises:
        ConfigError: a strict placeholder names no column, or keep marks are unbalanced.
    """
    kept(instruction)
    spans = [match.span() for match in _KEPT.finditer(instruction)]
    slots = [match.span() for match in _SLOT.finditer(instruction) if _column(match, columns) is not None]
    spans += slots + _literal_spans(instruction, slots)
    if parts(KEEP_MARK.sub("", instruction))[0].role:
        spans += [match.span() for match in _PART_LINE.finditer(instruction)]
    pieces, end = [], 0
    for start, stop in _merged(spans):
        pieces += [(instruction[end:start], False), (instruction[start:stop], True)]
        end = stop
    return [piece for piece in (*pieces, (instruction[end:], False)) if piece[0]]


def _literal_spans(instruction: str, slots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans with literal braces and backslashes, and those of the line ends around them."""
    bare = list(instruction)
    for start, stop in slots:
        bare[start:stop] = " " * (stop - start)
    spans = []
    for line in _LINE.finditer("".join(bare)):
        if _BRACE.search(line.group()):
            marks = [match.start() for match in _BRACE.finditer(instruction, *line.span())]
            before, after = line.start() - 1, line.end()
            spans += [(marks[0], marks[-1] + 1), (max(before, 0), line.start()), (after, after + 1)]
    return [(start, stop) for start, stop in spans if start < stop <= len(instruction)]


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of spans as spans, in order; those that only touch stay apart."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def prefixed(instruction: str, text: str) -> str:
    """Return an instruction with `text` on a line of its own before all else, behind the first part heading.

    A kept passage around that heading stays whole: `text` then follows it.
    """
    if not parts(KEEP_MARK.sub("", instruction))[0].role:
        return f"{text}\n{instruction}"
    head = _PART_LINE.search(instruction)
    assert head is not None
    cut = max([head.end(), *(m.end() for m in _KEPT.finditer(instruction) if m.start() < head.end() < m.end())])
    before = instruction[:cut].rstrip("\n")
    return f"{before}\n{text}\n{instruction[cut:]}"


@lru_cache(maxsize=1000)
def parts(instruction: str) -> tuple[Message, ...]:
    """Split an instruction into its parts: system:, then user: and assistant: in turn; none = one without a role.

    The role of an unnamed single part is "", since it depends on where the input goes. Where text stands
    before the first such line, it starts no part: the lines are text (dialogues within a prompt).

    Raises:
        ConfigError: the parts are out of order, or one between the first and the last holds no text.
    """
    heads, texts = _cut(instruction)
    if not heads:
        return (Message("", instruction.strip()),)
    fault = _fault(heads, texts)
    if fault is not None:
        raise ConfigError(fault[1])
    return tuple(Message(head.group(1), text) for head, text in zip(heads, texts, strict=True))


def faulty_heading(instruction: str) -> int:
    """Return where the heading stands that `parts` complains of; 0 if it does not complain."""
    heads, texts = _cut(instruction)
    fault = _fault(heads, texts)
    return 0 if fault is None else heads[fault[0]].start()


def escape_headings(text: str) -> str:
    """Return the text of a message with a backslash before each line that would start a part."""
    lines = text.split("\n")
    is_head = [_LIKE_PART.fullmatch(KEEP_MARK.sub("", line)) is not None for line in lines]
    return "\n".join(f"\\{line}" if like else line for line, like in zip(lines, is_head, strict=True))


def _cut(instruction: str) -> tuple[list[re.Match[str]], list[str]]:
    """Return the headings of an instruction, and the text below each; none if text stands above them."""
    heads = list(_PART.finditer(instruction))
    if not heads or instruction[: heads[0].start()].strip():
        return [], []
    ends = [head.start() for head in heads[1:]] + [len(instruction)]
    texts = [instruction[head.end() : end].strip() for head, end in zip(heads, ends, strict=True)]
    return heads, [_ESCAPED_PART.sub(r"\1", text) for text in texts]


_AFTER = {"": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}


def _fault(heads: Sequence[re.Match[str]], texts: Sequence[str]) -> tuple[int, str] | None:
    """Return the index of the first heading that is wrong, and why; None if all are right."""
    roles = [head.group(1) for head in heads]
    wrong = [i for i, role in enumerate(roles) if role not in _AFTER[roles[i - 1] if i else ""]]
    if not wrong and roles[-1:] == ["assistant"]:
        wrong = [len(roles) - 1]
    if wrong:
        return wrong[0], (
            f"parts {', '.join(roles)}; a prompt has at most one system: part, then user: and assistant: parts in "
            "turn, the last of them user:; indent a line that is meant as text, or write a backslash before it"
        )
    if "assistant" in roles:
        empty = [i for i in range(len(roles) - 1) if roles[i] != "system" and not texts[i]]
        if empty:
            return empty[0], f"part {empty[0] + 1}, {roles[empty[0]]}:, is empty; write what is said there"
    return None


def render(prompt: Prompt, inputs: Mapping[str, str], input_column: str) -> tuple[Message, ...]:
    """Return the chat messages for one example.

    Without a placeholder the instruction is the system message and `inputs[input_column]` the user
    message; in a conversation it ends the last user message. Demonstrations end the system message; in a
    prompt with no system message they stand before the paragraph of the first placeholder of the last user
    message. A system message that would be empty is left out, since providers refuse such.
    """
    instruction = KEEP_MARK.sub("", prompt.instruction)
    demos = "\n\n".join(render_demo(demo) for demo in prompt.demos)

    def question() -> str:
        return inputs[input_column] if inputs else ""  # an example may be images alone

    return _messages(instruction, inputs, question, demos, lambda text: fill(text, inputs))


def unfilled(prompt: Prompt, columns: Collection[str], input_column: str) -> tuple[Message, ...]:
    """Return the messages that `render` fills: with placeholders, also where the input goes, and demonstrations.

    Keep marks stay where none stands on a heading.
    """
    instruction = KEEP_MARK.sub("", prompt.instruction)
    if len(_cut(prompt.instruction)[0]) == len(_cut(instruction)[0]):
        instruction = prompt.instruction
    demos = "\n\n".join(_escaped(render_demo(demo), columns) for demo in prompt.demos)
    return _messages(instruction, columns, lambda: f"{{{{{input_column}}}}}", demos, lambda text: text)


def _escaped(text: str, columns: Collection[str]) -> str:
    """Return `text` with a backslash before all that would be a placeholder, or the escape of one."""
    return _SLOT.sub(lambda match: f"\\{match.group()}" if _is_slot(match, columns) else match.group(), text)


def _messages(
    instruction: str,
    columns: Collection[str],
    question: Callable[[], str],
    demos: str,
    filled: Callable[[str], str],
) -> tuple[Message, ...]:
    """Return an instruction's messages; `question()` stands where the input goes that no placeholder shows."""
    sections = parts(instruction)
    system = next((part.content for part in sections if part.role == "system"), None)
    *turns, last = [part for part in sections if part.role != "system"] or [Message("", "")]
    asks = not any(placeholders(part.content, columns) for part in sections if part.role != "system")
    if asks and not turns:
        content = _join(filled("\n\n".join(text for text in (system, last.content) if text)), demos)
        return (*_system(content), Message("user", question()))
    head = () if system is None else _system(_join(filled(system), demos))
    said = tuple(Message(turn.role, filled(turn.content)) for turn in turns)
    if system is not None:
        asked = [filled(last.content)]
    elif placeholders(last.content, columns):
        before, question_text = _split_before_placeholder(last.content, tuple(columns))
        asked = [filled(before), demos, filled(question_text)]
    else:
        asked = [demos, filled(last.content)]
    return (*head, *said, Message("user", _join(*asked, question() if asks else "")))


def _system(content: str) -> tuple[Message, ...]:
    return (Message("system", content),) if content else ()


def needs_input(instruction: str, columns: Collection[str]) -> bool:
    """Return whether the input column is the user message, as no part for the user has a placeholder."""
    sections = parts(KEEP_MARK.sub("", instruction))
    return not any(placeholders(part.content, columns) for part in sections if part.role != "system")


def render_demo(demo: Demo) -> str:
    """Return a demonstration as text; its inputs are shown as they are, never substituted into.

    One without inputs is a block of text, such as pruning leaves: its output alone.
    """
    if not demo.inputs:
        return demo.output
    return f"Input:\n{render_inputs(demo.inputs)}\nOutput:\n{demo.output}"


def render_inputs(inputs: Sequence[tuple[str, str]]) -> str:
    """Return (column, text) pairs as they are shown: a single one bare, several with their names."""
    if len(inputs) == 1:
        return inputs[0][1]
    return "\n".join(f"{column}: {text}" for column, text in inputs)


def substitute(text: str, fields: Mapping[str, object]) -> str:
    """Return `text` with each `{name}` of `fields` replaced literally, once; others stay as they are."""
    return _FIELD.sub(lambda match: str(fields.get(match.group(1), match.group())), text)


def tagged(reply: str, tag: str) -> str | None:
    """Return the text after the last `<tag>` that is closed, up to its `</tag>`; None if there is none."""
    end = reply.rfind(f"</{tag}>")
    start = reply.rfind(f"<{tag}>", 0, end) if end >= 0 else -1
    if start < 0:
        return None
    return reply[start + len(tag) + 2 : end].strip() or None


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


@lru_cache(maxsize=1000)
def _split_before_placeholder(text: str, columns: tuple[str, ...]) -> tuple[str, str]:
    first = next(m.start() for m in _SLOT.finditer(text) if _column(m, columns) is not None)
    cut = text.rfind("\n\n", 0, first)
    return (text[:cut], text[cut + 2 :]) if cut >= 0 else ("", text)


def _join(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
