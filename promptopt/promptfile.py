"""Prompt files: front matter, instruction, demonstrations; what is written is read back unchanged.

    ---                      optional YAML front matter: name, description, options of the command line
    metric: label
    ---
    Answer {{question}}      the instruction, up to the first demonstration
    ```demo                  demonstrations at the end, one JSON object a block
    {"input": {"question": "..."}, "output": "..."}
    ```

Normal form: an instruction read from plain text has LF line ends and neither starts nor ends with a
newline. Instructions that plain text cannot carry are written as one JSON string in a block marked
`instruction`, so that every prompt can be written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from promptopt import chatfile, template
from promptopt.decoding import decode, unique
from promptopt.errors import ConfigError, nearest
from promptopt.types import KEEP_MARK, Demo, Prompt

MAX_BYTES = 1_000_000
KEYS = ("name", "description", "metric", "input", "target", "answer-pattern")
# Every option of `optimize` and `evaluate` that a file may give, as it is called there.
OPTION_KEYS = (
    *("prompt-file", "data", "model", "optimizer", "set", "set-model", "metric", "answer-pattern", "description"),
    *("input", "target", "image"),
    *("optimizer-model", "judge-model", "embedding-model", "api-base", "price-in", "price-out"),
    *("auto", "budget-usd", "budget-calls", "budget-tokens", "budget-seconds", "confirm-above", "proof-examples"),
    *("seed", "concurrency", "rpm", "tpm", "max-tokens", "max-prompt-tokens", "out", "probe"),
    *("race", "objectives", "dry-run", "json", "quiet", "split", "examples", "fail-under", "failures"),
)
_NOT_IN_PROMPTS = ("prompt-file",)

_FENCE = "```"
_DEMO = "```demo"
_CODED = "```instruction"
_ESCAPABLE = re.compile(r"^(\\*```demo[ \t]*)$", re.MULTILINE)
_ESCAPED = re.compile(r"^\\(\\*```demo[ \t]*)$", re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARK = re.compile(r"<!-- (/?)keep -->")


@dataclass(frozen=True)
class PromptFile:
    """What a prompt file says.

    Args:
        prompt: instruction and demonstrations.
        settings: what the front matter says of the data; empty without front matter.
        options: what it says of the command line's other options: text, or texts where one may be repeated.
        front_matter: the raw block with its `---` lines and the newline after it; "" = none.
    """

    prompt: Prompt
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)
    front_matter: str = ""
    options: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class _Place:
    """Lines of a file: `lines[0]` is line `first` of `source`."""

    source: str
    first: int
    lines: tuple[str, ...]

    def error(self, i_line: int, message: str) -> ConfigError:
        return ConfigError(f"{self.source}:{self.first + i_line}: {message}")

    def error_at(self, text: str, position: int, message: str) -> ConfigError:
        return self.error(text.count("\n", 0, position), message)


def read(path: Path) -> PromptFile:
    """Return what the prompt file at `path` says.

    Raises:
        ConfigError: the file cannot be read or is not a prompt; the message names file, line and remedy.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; name the prompt file within it")
        if not path.exists():
            raise ConfigError(f"{path}: no such file; check the path of the prompt file")
        if not path.is_file():
            raise ConfigError(f"{path}: is no regular file; save the prompt as a text file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(
                f"{path}: {size} bytes; a prompt file has at most {MAX_BYTES}. "
                "Is it the data? Examples go into --data, not into the prompt"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    text, suffix = decode(raw, path), path.suffix.lower()
    if suffix in chatfile.SUFFIXES:
        return PromptFile(chatfile.parse_chat(text, str(path), suffix))
    return parse(text, str(path))


def parse(text: str, source: str = "prompt") -> PromptFile:
    """Return what `text`, the content of a prompt file, says; `source` names it in messages.

    Raises:
        ConfigError: with source, line and remedy.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise ConfigError(f"{source}:{line}: holds a NUL character; save the prompt as plain UTF-8 text")
    if not text.strip():
        raise ConfigError(f"{source}: is empty; write the prompt into it, with {{{{column}}}} for the input")
    front_matter = _front_matter(text, source)
    said = _settings(front_matter, source) if front_matter else {}
    settings = {key: value for key, value in said.items() if key in KEYS and isinstance(value, str)}
    options = {key: value for key, value in said.items() if key not in KEYS}
    first = front_matter.count("\n") + 1
    prompt = _parse_body(text[len(front_matter) :], source, first)
    return PromptFile(prompt, settings, front_matter, options)


def format_prompt(prompt: Prompt, front_matter: str = "") -> str:
    """Return the content of a prompt file that `parse` reads back to an equal prompt.

    Never raises: a prompt that rendering itself refuses (parts out of order, unbalanced keep marks)
    is written all the same, and refused when it is read.
    """
    if front_matter and not front_matter.endswith("\n"):
        front_matter += "\n"
    body = _ESCAPABLE.sub(r"\\\1", prompt.instruction)
    if not _is_read_back(body, prompt.instruction):
        body = f"{_CODED}\n{_dump(prompt.instruction)}\n{_FENCE}"
    if not front_matter and body.split("\n", 1)[0].rstrip() == "---":
        front_matter = "---\n---\n"
    blocks = [f"{_DEMO}\n{_dump({'input': dict(d.inputs), 'output': d.output})}\n{_FENCE}" for d in prompt.demos]
    return front_matter + "\n\n".join([body, *blocks]) + "\n"


def _is_read_back(body: str, instruction: str) -> bool:
    if "\r" in body or "\x00" in body or body.startswith("\ufeff") or _SURROGATE.search(body):
        return False
    try:
        return _parse_body(body + "\n", "prompt", 1).instruction == instruction
    except ConfigError:
        return False


def _dump(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if _SURROGATE.search(text) else text


def _front_matter(text: str, source: str) -> str:
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return ""
    for i_line, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return text[: sum(len(line) + 1 for line in lines[: i_line + 1])]
    raise ConfigError(
        f"{source}:1: front matter starts with --- and never ends; close it with a line ---, "
        "or put an empty line above a rule that belongs to the prompt"
    )


def _settings(front_matter: str, source: str) -> dict[str, str | tuple[str, ...]]:
    block = "\n".join(front_matter.split("\n")[1:-2])
    try:
        node = yaml.compose(block, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = 2 + (mark.line if mark else 0)
        reason = getattr(error, "problem", None) or str(error).split("\n", 1)[0]
        message = f"front matter is not YAML ({reason}); write lines like `metric: label`"
        raise ConfigError(f"{source}:{line}: {message}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        line = 2 + node.start_mark.line
        raise ConfigError(f"{source}:{line}: front matter is no mapping; write lines like `metric: label`")
    settings: dict[str, str | tuple[str, ...]] = {}
    valid = [key for key in (*KEYS, *OPTION_KEYS) if key not in _NOT_IN_PROMPTS]
    for key_node, value_node in node.value:
        said, place = str(key_node.value), f"{source}:{2 + key_node.start_mark.line}"
        key = said.replace("_", "-")
        if not isinstance(key_node, yaml.ScalarNode) or key not in valid:
            raise ConfigError(f"{place}: unknown front matter key {said!r}; {nearest(said, valid)}")
        if key in settings:
            raise ConfigError(f"{place}: front matter key {said!r} stands twice; remove one")
        settings[key] = _setting(key, value_node, place)
    return settings


def _setting(key: str, node: yaml.Node, place: str) -> str | tuple[str, ...]:
    """Return a value of the front matter: one text, or for options that may be repeated several."""
    if key in ("set", "set-model", "image"):
        if isinstance(node, yaml.SequenceNode):
            return tuple(_text(key, part, place) for part in node.value)
        if isinstance(node, yaml.MappingNode) and key != "image":
            return tuple(f"{_text(key, name, place)}={_text(key, part, place)}" for name, part in node.value)
    return _text(key, node, place)


def _text(key: str, node: yaml.Node, place: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise ConfigError(f"{place}: front matter key {key!r} needs one text; write `{key}: ...`")
    return str(node.value).strip()


def _parse_body(body: str, source: str, first: int) -> Prompt:
    lines = tuple(body.split("\n"))
    place = _Place(source, first, lines)
    i_start = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    is_coded = i_start < len(lines) and lines[i_start].rstrip() == _CODED
    if is_coded:
        value, i_demos = _block(place, i_start)
        if not isinstance(value, str):
            raise place.error(i_start, f"a block {_CODED} holds one JSON string; correct it")
        instruction = value
    else:
        i_demos = next((i for i, line in enumerate(lines) if line.rstrip() == _DEMO), len(lines))
        plain = "\n".join(lines[:i_demos])
        if not plain.strip():
            raise place.error(0, "there is no prompt text; write the instruction above the demonstrations")
        tag = template.jinja_tag(plain)
        if tag is not None:
            raise place.error_at(plain, *tag)
        instruction = _ESCAPED.sub(r"\1", plain).strip("\n")
        i_start = 0
    _check(place, instruction, None if is_coded else "\n".join(lines[:i_demos]), i_start)
    return Prompt(instruction, _demos(place, i_demos))


def _check(place: _Place, instruction: str, plain: str | None, i_start: int) -> None:
    """Check keep marks and parts; `plain` is the text as it stands in the file, None = coded."""
    try:
        template.kept(instruction)
    except ConfigError as error:
        i_line = i_start if plain is None else _unbalanced_line(plain)
        raise place.error(i_line, str(error)) from error
    try:
        template.parts(KEEP_MARK.sub("", instruction))
    except ConfigError as error:
        bare = KEEP_MARK.sub("", plain or "")
        i_line = i_start if plain is None else bare.count("\n", 0, template.faulty_heading(bare))
        raise place.error(i_line, str(error)) from error


def _unbalanced_line(plain: str) -> int:
    """Return the index of the line with the first keep mark that has no partner."""
    open_at: int | None = None
    for mark in _MARK.finditer(plain):
        is_open = not mark.group(1)
        if is_open == (open_at is not None):
            return plain.count("\n", 0, mark.start())
        open_at = mark.start() if is_open else None
    return plain.count("\n", 0, open_at or 0)


def _block(place: _Place, i_start: int) -> tuple[object, int]:
    """Return the JSON value in the fenced block at `i_start`, and the index of the line after it."""
    marker = place.lines[i_start].strip()
    rest = enumerate(place.lines[i_start + 1 :], start=i_start + 1)
    i_end = next((i for i, line in rest if line.rstrip() == _FENCE), None)
    if i_end is None:
        raise place.error(i_start, f"block {marker} is not closed; end it with a line {_FENCE}")
    text = "\n".join(place.lines[i_start + 1 : i_end])
    try:
        return json.loads(text, object_pairs_hook=unique), i_end + 1
    except json.JSONDecodeError as error:
        message = f"block {marker} holds no JSON ({error.msg}, column {error.colno}); correct it"
        raise place.error(i_start + error.lineno, message) from error
    except (ValueError, RecursionError) as error:
        raise place.error(i_start + 1, f"block {marker} cannot be read ({error}); correct it") from error


def _demos(place: _Place, i_line: int) -> tuple[Demo, ...]:
    demos: list[Demo] = []
    while i_line < len(place.lines):
        line = place.lines[i_line]
        if not line.strip():
            i_line += 1
        elif line.rstrip() == _DEMO:
            value, i_next = _block(place, i_line)
            demos.append(_demo(value, place, i_line))
            i_line = i_next
        else:
            raise place.error(
                i_line,
                f"text {line.strip()[:40]!r} after a block {_DEMO}; demonstrations end the file: "
                f"move the text above them (a line \\{_DEMO} is literal text)",
            )
    return tuple(demos)


def _demo(value: object, place: _Place, i_line: int) -> Demo:
    if isinstance(value, dict) and value.keys() == {"input", "output"}:
        inputs, output = value["input"], value["output"]
        if isinstance(inputs, dict) and isinstance(output, str):
            pairs = tuple((str(column), text) for column, text in inputs.items())
            if all(isinstance(text, str) for _, text in pairs):
                return Demo(pairs, output)
    shape = '{"input": {"column": "text"}, "output": "text"}'
    raise place.error(i_line + 1, f"a demonstration has the shape {shape}, all values text; correct it")
