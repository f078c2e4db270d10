"""Finds examples in texts where they must not be: by words of their own, and by targets of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from promptopt.types import Example

_WORD = re.compile(r"\w+")
# Words in a row that tell an example if one of them is its own; a single word may come from a vocabulary.
_SHORT = 3
# Words in a row that tell an example that has no word of its own.
_LONG = 6
_TELLING = 6  # characters of a target that is no common word

_Run = tuple[str, ...]


class Leaks:
    """Finds forbidden examples in texts.

    Args:
        forbidden: the examples to find.
        allowed: texts that may be shown; what forbidden examples share with them is no sign of a leak.
    """

    def __init__(self, forbidden: Iterable[Example], allowed: Iterable[str]) -> None:
        shared = {run for text in allowed for run in _runs(text)}
        self._ids: dict[_Run, str] = {}
        for example in forbidden:
            signs = [run for text in example.inputs.values() for run in _signs(text, shared)]
            signs += [_words(target) for target in example.targets if len(target) >= _TELLING]
            self._ids |= {run: example.id for run in signs if run not in shared}

    @property
    def n_signs(self) -> int:
        """How many signs there are to find; 0 = nothing could ever be found."""
        return len(self._ids)

    def find(self, text: str) -> str:
        """Say which example stands in `text`, and by which words; "" = none."""
        for run in _runs(text):
            if run in self._ids:
                return f"example {self._ids[run]!r} ({' '.join(run)!r})"
        return ""


def texts_of(examples: Iterable[Example]) -> Iterator[str]:
    """Yield the inputs and targets of examples."""
    for example in examples:
        yield from example.inputs.values()
        yield from example.targets


def _signs(text: str, shared: set[_Run]) -> list[_Run]:
    """Return the runs by which a text is known: short ones with a word of its own, else long ones."""
    words = _words(text)
    own = [run for run in _windows(words, min(_SHORT, len(words))) if any((word,) not in shared for word in run)]
    return own or _windows(words, min(_LONG, len(words)))


def _runs(text: str) -> set[_Run]:
    """Return all runs of up to `_LONG` words in a text."""
    words = _words(text)
    return {run for n in range(1, _LONG + 1) for run in _windows(words, n)}


def _words(text: str) -> _Run:
    return tuple(_WORD.findall(text.casefold()))


def _windows(words: _Run, n: int) -> list[_Run]:
    return [words[i : i + n] for i in range(len(words) - n + 1)] if n else []
