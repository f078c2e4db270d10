"""Prompt files that are a JSON or YAML list of messages, as other tools keep them: read, and written back.

    [{"role": "system", "content": "Sort the message."}, {"role": "user", "content": "{{message}}"}]

Within promptopt such a prompt is one instruction with a heading line for each message (see `template`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from promptopt import template
from promptopt.decoding import unique
from promptopt.errors import ConfigError
from promptopt.types import KEEP_MARK, Message, Prompt

SUFFIXES = (".json", ".yaml", ".yml")
_ROLES = ("system", "user", "assistant")
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_SHAPE = '[{"role": "user", "content": "..."}]'


class _Loader(yaml.SafeLoader):
    """Reads YAML without aliases, with which a few lines make gigabytes; refuses a key that stands twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # its stubs lack it
            raise ComposerError(None, None, "aliases are not read: write each text out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (LookupError, AttributeError, TypeError, ValueError) as error:  # within PyYAML's constructors
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"found a value that is no {kind}", node.start_mark) from error


def parse_chat(text: str, source: str, suffix: str) -> Prompt:
    """Return the prompt that a file holds; `source` names it in messages.

    Raises:
        ConfigError: it is no list of messages, or their roles are out of order; with the place and a remedy.
    """
    value = _json(text, source) if suffix == ".json" else _yaml(text, source)
    if not isinstance(value, list) or not value:
        has_list = isinstance(value, dict) and isinstance(value.get("messages"), list)
        hint = "; write the list under 'messages' alone" if has_list else ""
        raise ConfigError(f"{source}: a prompt in {suffix} is a list of messages, {_SHAPE}{hint}")
    messages = [_message(item, f"{source}: message {i}") for i, item in enumerate(value, start=1)]
    instruction = "\n\n".join(
        f"{message.role}:\n{template.escape_headings(message.content.strip())}" for message in messages
    )
    try:
        template.kept(instruction)
        template.parts(KEEP_MARK.sub("", instruction))
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return Prompt(instruction)


def format_chat(prompt: Prompt, columns: Sequence[str], input_column: str, suffix: str) -> str:
    """Return the content of a file that holds a prompt's messages, demonstrations within them.

    What is read back renders to the same messages; where the input column goes, its placeholder is written.
    """
    messages = [message._asdict() for message in template.unfilled(prompt, columns, input_column)]
    if suffix == ".json":
        return json.dumps(messages, ensure_ascii=False, indent=2) + "\n"
    return yaml.safe_dump(messages, allow_unicode=True, sort_keys=False, width=110)


def _json(text: str, source: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"{source}:{error.lineno}:{error.colno}"
        raise ConfigError(f"{place}: not JSON ({error.msg}); write a list of messages, {_SHAPE}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: cannot be read ({error}); write a list of messages, {_SHAPE}") from error


def _yaml(text: str, source: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # a safe one, and narrower
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).split("\n", 1)[0]
        place = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{place}: not YAML ({reason}); put texts with braces or colons in quotes") from error


def _message(item: object, place: str) -> Message:
    if not isinstance(item, dict) or set(item) != {"role", "content"}:
        found = f"has the keys {', '.join(map(str, item))}" if isinstance(item, dict) else "is no object"
        raise ConfigError(f"{place} {found}; write role and content, and no others")
    role, content = item["role"], item["content"]
    if not isinstance(role, str):
        raise ConfigError(f"{place}: role is a {type(role).__name__}; write one of {', '.join(_ROLES)}")
    if role not in _ROLES:
        hint = "; write system" if role == "developer" else ""
        raise ConfigError(f"{place}: role {role!r} is none of {', '.join(_ROLES)}{hint}")
    if isinstance(content, list):
        content = _joined(content, place)
    if not isinstance(content, str):
        raise ConfigError(f"{place}: content is a {type(content).__name__}; write it as text, in quotes")
    text = content.replace("\r\n", "\n").replace("\r", "\n")
    if _NO_TEXT.search(text):
        raise ConfigError(f"{place}: holds a NUL character or half a surrogate pair; take it out")
    tag = template.jinja_tag(text)
    if tag is not None:
        raise ConfigError(f"{place}: {tag[1]}")
    return Message(role, text)


def _joined(parts: Sequence[object], place: str) -> str:
    """Return the text of content that is a list of parts, which must all be text."""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{place}: content has parts that are no text; images are columns, named with --image")
    return "\n\n".join(str(text) for text in texts)
