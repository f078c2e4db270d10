"""The gate that every candidate passes before it may cost a task call."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from promptopt import template
from promptopt.errors import ConfigError
from promptopt.task import Task
from promptopt.types import KEEP_MARK, Example, Prompt

COPIED_WORDS = 8
_WORD = re.compile(r"\w+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


class Gate:
    """Checks candidates against the user's prompt and data.

    Args:
        task: gives the placeholders and kept passages to preserve, and the train examples.
        max_prompt_tokens: longest prompt, demonstrations included, in estimated tokens.
    """

    def __init__(self, task: Task, max_prompt_tokens: int) -> None:
        self._task = task
        self.max_prompt_tokens = max_prompt_tokens
        self._required = set(task.placeholders)
        self._kept = template.kept(task.initial.instruction)
        self._roles = tuple(part.role for part in template.parts(KEEP_MARK.sub("", task.initial.instruction)))
        self._own = set(_word_runs(task.initial.instruction))
        self._copied = {run for example in task.train for run in _example_runs(example)} - self._own

    @property
    def demands(self) -> str:
        """What a written prompt must keep, in words for the model that writes it."""
        words = [f"Stay below about {self.max_prompt_tokens * 3 // 4} words."]
        words.append("State general rules; do not copy sentences of examples.")
        if self._required:
            slots = ", ".join(f"{{{{{name}}}}}" for name in self._task.placeholders)
            words.append(f"Keep exactly these placeholders, each as it is written here: {slots}.")
        else:
            words.append("Do not write placeholders in braces; the input is added afterwards.")
        if self._kept:
            words.append("Keep every passage between <!-- keep --> and <!-- /keep --> with its marks, unchanged.")
        if "assistant" in self._roles:
            parts = ", ".join(f"`{role}:`" for role in self._roles)
            words.append(f"Keep the part headings, in this order and each alone on its line: {parts}.")
        elif self._roles != ("",):
            parts = " and ".join(f"`{role}:`" for role in self._roles)
            words.append(f"Keep the part headings, each alone on its line: {parts}.")
        return " ".join(words)

    def refusal(self, prompt: Prompt) -> str | None:
        """Return why `prompt` may not be tried; None if it may."""
        text = prompt.instruction
        if not text.strip():
            return "the instruction is empty"
        if _CONTROL.search(text):
            return "the instruction holds control characters"
        try:
            found = set(template.placeholders(text, self._task.columns))
            kept = template.kept(text)
            roles = tuple(part.role for part in template.parts(KEEP_MARK.sub("", text)))
        except ConfigError as error:
            return str(error)
        if found != self._required:
            lost, new = sorted(self._required - found), sorted(found - self._required)
            return f"placeholders changed (lost: {lost}, new: {new})"
        if kept != self._kept:
            return "a kept passage was changed or lost"
        if roles != self._roles:
            return f"the parts changed from {self._roles} to {roles}"
        if (n := prompt_tokens(prompt)) > self.max_prompt_tokens:
            return f"too long: about {n} tokens, limit {self.max_prompt_tokens}"
        copied = next((run for run in _word_runs(text) if run in self._copied), None)
        if copied is not None:
            return f"{COPIED_WORDS} words in a row copied from a train example: {' '.join(copied)!r}"
        return None


def unfit(prompt: Prompt) -> str:
    """Return in words which character of a user's prompt can be sent to no model; "" = all can."""
    shown = [(_CONTROL, prompt.instruction)]
    shown += [(_NO_TEXT, text) for demo in prompt.demos for text in (*dict(demo.inputs).values(), demo.output)]
    for pattern, text in shown:
        if match := pattern.search(text):
            code, start = ord(match.group()), match.start()
            kind = "half a surrogate pair" if code >= 0xD800 else "NUL" if not code else "a control character"
            before = f" after {text[max(0, start - 20) : start]!r}" if start else ""
            return f"holds {kind} (U+{code:04X}){before}; take it out"
    return ""


def normal_form(instruction: str) -> str:
    """Return an instruction as it is stored: LF line ends, no blank margin."""
    return instruction.replace("\r\n", "\n").replace("\r", "\n").strip()


def prompt_tokens(prompt: Prompt) -> int:
    """Estimate the tokens of a prompt without an example's input, at four UTF-8 bytes a token."""
    n_bytes = len(KEEP_MARK.sub("", prompt.instruction).encode("utf-8", "replace"))
    n_bytes += sum(len(template.render_demo(demo).encode("utf-8", "replace")) + 2 for demo in prompt.demos)
    return -(-n_bytes // 4)


def _example_runs(example: Example) -> Iterator[tuple[str, ...]]:
    for text in (*example.inputs.values(), *example.targets):
        yield from _word_runs(text)


def _word_runs(text: str) -> Iterable[tuple[str, ...]]:
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return (tuple(words[i : i + COPIED_WORDS]) for i in range(len(words) - COPIED_WORDS + 1))
