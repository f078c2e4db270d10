"""A prompt as tokens, some of which are protected: what token-level strategies search over.

Glossary: a *token* is a piece of text; the tokens of a text join to exactly that text. A *mask* says for each
token of a prompt whether it is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from promptopt import template
from promptopt.providers import ModelSpec, load_litellm
from promptopt.task import Task
from promptopt.types import Demo, Prompt

Tokenizer = Callable[[str], tuple[str, ...]]

# Line ends are tokens of their own, since delimiters matter; a word or a mark takes the blanks before it.
_PIECE = re.compile(r"\n+|[^\S\n]*\w+|[^\S\n]*[^\w\s]|[^\S\n]+")
# Providers whose tokenizer litellm carries within its package; others' would be fetched from the network.
_KNOWN_PROVIDERS = ("openai", "azure", "anthropic")
# Most tokens that parts of characters are spread over before the tokenizer counts as one that alters text.
_MOST_PARTS = 16


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt cut into tokens, which a mask can drop.

    Args:
        source: the whole prompt.
        tokens: of the instruction, then of each demonstration.
        is_protected: per token; True for placeholders, kept passages and part headings.
        starts: index of the first token of the instruction and of each demonstration.
    """

    source: Prompt
    tokens: tuple[str, ...]
    is_protected: tuple[bool, ...]
    starts: tuple[int, ...]

    @property
    def mutable(self) -> tuple[int, ...]:
        """Indices of the tokens that may be dropped."""
        return tuple(i for i, is_protected in enumerate(self.is_protected) if not is_protected)

    def prompt(self, mask: Sequence[bool]) -> Prompt:
        """Return the prompt of the kept tokens; protected ones are always kept.

        A demonstration that lost tokens becomes a block of text of its own; one that lost all is dropped.
        `study.candidate` refuses the rare prompt in which what is left of a line reads like a part heading.

        Args:
            mask: one value a token; all True gives `source`.
        """
        kept = [bool(keep) or fixed for keep, fixed in zip(mask, self.is_protected, strict=True)]
        if all(kept):
            return self.source
        texts, is_whole = [], []
        for start, end in pairwise((*self.starts, len(self.tokens))):
            texts.append("".join(token for i, token in enumerate(self.tokens[start:end], start) if kept[i]))
            is_whole.append(all(kept[start:end]))
        demos = [
            demo if whole else Demo((), text.strip())
            for demo, text, whole in zip(self.source.demos, texts[1:], is_whole[1:], strict=True)
            if whole or text.strip()
        ]
        return Prompt(texts[0].strip(), tuple(demos))


def tokenized(prompt: Prompt, task: Task, tokenize: Tokenizer) -> TokenizedPrompt:
    """Return a prompt's tokens; each protected passage is one token, so that none is merged with neighbours."""
    pieces: list[tuple[str, bool]] = []
    for text, is_protected in template.segments(prompt.instruction, task.columns):
        pieces += [(text, True)] if is_protected else [(token, False) for token in tokenize(text)]
    starts = [0]
    for demo in prompt.demos:
        starts.append(len(pieces))
        pieces += [(token, False) for token in tokenize(template.render_demo(demo))]
    return TokenizedPrompt(
        prompt, tuple(text for text, _ in pieces), tuple(fixed for _, fixed in pieces), tuple(starts)
    )


def split_words(text: str) -> tuple[str, ...]:
    """Return words and marks with the blanks before them, and line ends; they join to `text`."""
    return tuple(_PIECE.findall(text))


def tokenizer_of(spec: ModelSpec) -> Tokenizer:
    """Return the tokenizer of a model where litellm carries it, else `split_words`; nothing is fetched."""
    if spec.is_simulated or spec.api_base is not None:
        return split_words
    litellm = load_litellm()
    if litellm.get_llm_provider(spec.name)[1] not in _KNOWN_PROVIDERS:
        return split_words
    return lambda text: _pieces(litellm.encode(model=spec.name, text=text), text, litellm, spec.name)


def _pieces(ids: Sequence[int], text: str, litellm: object, model: str) -> tuple[str, ...]:
    """Return the text of each token; tokens that hold parts of one character are joined.

    A tokenizer that alters the text, so that its tokens do not join to it, gives way to `split_words`.
    """
    pieces: list[str] = []
    start = held = 0
    for i in range(1, len(ids) + 1):
        piece: str = litellm.decode(model=model, tokens=list(ids[held:i]))  # type: ignore[attr-defined]
        if piece and text.startswith(piece, start):
            pieces.append(piece)
            start, held = start + len(piece), i
        elif i - held == _MOST_PARTS:
            break
    return tuple(pieces) if start == len(text) else split_words(text)
