"""The inputs that a simulator was told, and how to find them in a conversation quickly.

Texts are looked up by their first characters, then by bisection in the sorted list of all texts: of
the known texts that start at a place, the longest is the greatest one not beyond the text there, or
one of its own known prefixes. So a place costs O(log n), and most places cost one failed dict lookup.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from promptopt.simulator.landscapes import ErrorType, Landscape
from promptopt.types import Example

_KEY_LENGTH = 12
_UNIT = 2.0**-64


class Hit(NamedTuple):
    """A known text at [start, end) of some other text."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """A learnt example.

    Args:
        texts: the columns' texts, stripped, empty ones left out.
        target: the right answer; None = never told, all answers are as good.
        kind: index of its error type.
        difficulty: in [0, 1), uniform; right if below the competence.
        unruliness: in [0, 1), uniform; the reply is malformed if below the prompt's share of such replies.
        key: digest of the texts.
    """

    texts: tuple[str, ...]
    target: str | None
    kind: int
    difficulty: float
    unruliness: float
    key: bytes


def uniforms(*parts: bytes, n: int = 2) -> list[float]:
    """Return `n` (at most 8) numbers, uniform in [0, 1), that depend on the parts alone."""
    raw = hashlib.blake2b(b"\x1f".join(parts), digest_size=8 * n).digest()
    return [int.from_bytes(raw[8 * i : 8 * i + 8], "big") * _UNIT for i in range(n)]


def make_row(example: Example, landscape: Landscape, seed: int) -> Row:
    """Return the row of an example: its latent error type and difficulty are digests of its texts."""
    texts = tuple(text for text in (value.strip() for value in example.inputs.values()) if text)
    key = hashlib.blake2b("\x1f".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    own, difficulty, unruliness, tied = uniforms(str(seed).encode(), landscape.name.encode(), key, n=4)
    if landscape.affinity != "none" and tied < landscape.affinity_share:
        # Bands of 48 characters: coarse enough that several examples share one.
        group = example.target if landscape.affinity == "target" else str(sum(map(len, texts)) // 48)
        own = uniforms(str(seed).encode(), b"group", (group or "").encode("utf-8", "surrogatepass"))[0]
    kind = _pick(landscape.error_types, own)
    return Row(texts, example.target, kind, difficulty, unruliness, key)


def _pick(kinds: tuple[ErrorType, ...], draw: float) -> int:
    left = draw * sum(kind.weight for kind in kinds)
    for index, kind in enumerate(kinds):
        left -= kind.weight
        if left < 0:
            return index
    return len(kinds) - 1


class Index:
    """Finds learnt texts in other texts; immutable once built."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """Index the rows' telling texts; takes time in proportion to all their characters."""
        self._rows: dict[str, list[Row]] = {}
        rows = tuple(rows)
        counts = Counter(text for row in rows for text in row.texts)
        common = max(3, len(rows) // 50)
        for row in rows:
            # A value that many rows share (a language code) does not tell which row is asked.
            telling = [text for text in row.texts if counts[text] <= common]
            for text in telling or sorted(row.texts, key=len)[-1:]:
                self._rows.setdefault(text, []).append(row)
        self._sorted = sorted(self._rows)
        self._keys = {text[:_KEY_LENGTH] for text in self._sorted}
        self._lengths = sorted({len(key) for key in self._keys}, reverse=True)
        self._parents = self._find_parents()
        self._containers = self._find_containers()

    def rows(self, text: str) -> list[Row]:
        """Return the rows that have `text` as a column; empty if it is unknown."""
        return self._rows.get(text, [])

    def is_plain(self, text: str, start: int, known: str) -> bool:
        """Return whether `known`, at `start` of `text`, stands on its own and is part of no longer known text."""
        if known in self._containers or _is_cut(text, start + len(known)):
            return False
        return not (start and text[start].isalnum() and text[start - 1].isalnum())

    def last(self, text: str, before: int | None = None) -> Hit | None:
        """Return the known text that starts last in `text` (before a position), standing on its own.

        One that is part of a longer known text there yields to the longer one.
        """
        keys, lengths = self._keys, self._lengths
        for start in range(len(text) - 1 if before is None else before, -1, -1):
            for length in lengths:
                if text[start : start + length] in keys:
                    hit = self._at(text, start)
                    if hit is not None:
                        return self._widest(text, hit)
                    break
        return None

    def hits(self, text: str) -> Iterator[Hit]:
        """Yield the known texts in `text` from left to right, the longest at each place."""
        keys, lengths = self._keys, self._lengths
        start = 0
        while start < len(text):
            hit = None
            for length in lengths:
                if text[start : start + length] in keys:
                    hit = self._at(text, start)
                    break
            if hit is None:
                start += 1
            else:
                yield hit
                start = hit.end

    def _at(self, text: str, start: int) -> Hit | None:
        if start and text[start].isalnum() and text[start - 1].isalnum():
            return None
        place = bisect_right(self._sorted, text[start:]) - 1
        known = self._sorted[place] if place >= 0 else None
        while known is not None:
            end = start + len(known)
            if text.startswith(known, start) and not _is_cut(text, end):
                return Hit(start, end, known)
            known = self._parents.get(known)
        return None

    def _widest(self, text: str, hit: Hit) -> Hit:
        for offset, longer in self._containers.get(hit.text, ()):
            start = hit.start - offset
            end = start + len(longer)
            if start >= 0 and text.startswith(longer, start) and not _is_cut(text, end):
                return Hit(start, end, longer)
        return hit

    def _find_parents(self) -> dict[str, str]:
        parents: dict[str, str] = {}
        stack: list[str] = []
        for text in self._sorted:
            while stack and not text.startswith(stack[-1]):
                stack.pop()
            if stack:
                parents[text] = stack[-1]
            stack.append(text)
        return parents

    def _find_containers(self) -> dict[str, list[tuple[int, str]]]:
        found: dict[str, list[tuple[int, str]]] = {}
        for text in self._sorted:
            for start in range(1, len(text)):
                if any(text[start : start + length] in self._keys for length in self._lengths):
                    hit = self._at(text, start)
                    if hit is not None:
                        found.setdefault(hit.text, []).append((start, text))
            parent = self._parents.get(text)
            while parent is not None:
                found.setdefault(parent, []).append((0, text))
                parent = self._parents.get(parent)
        for places in found.values():
            places.sort(key=lambda place: -len(place[1]))
        return found


def _is_cut(text: str, end: int) -> bool:
    return end < len(text) and text[end].isalnum() and text[end - 1].isalnum()


def find_whole(text: str, part: str) -> int:
    """Return the last position where `part` stands on its own in `text`; -1 if it does not."""
    end = len(text)
    while True:
        start = text.rfind(part, 0, end)
        if start < 0:
            return -1
        is_inside = start > 0 and text[start].isalnum() and text[start - 1].isalnum()
        if not is_inside and not _is_cut(text, start + len(part)):
            return start
        end = start + len(part) - 1


_ANSWER_TAG = re.compile(r"<(final_answer|answer)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_ANSWER_CUE = re.compile(r"(?:answer:|####|\\boxed\{)[ \t*]*(.*)", re.IGNORECASE)
_SECTION = re.compile(r"\[\[ ## (\w+) ## \]\]\s*(.*?)(?=\n*\[\[ ##|$)", re.DOTALL)


def answer_in(output: str) -> str:
    """Return the answer that `output` ends in, by the project's rule; used to judge demonstrations."""
    sections = [text for name, text in _SECTION.findall(output) if name != "completed"]
    if sections:
        return str(sections[-1]).strip()
    tags = _ANSWER_TAG.findall(output)
    if tags:
        return str(tags[-1][1]).strip()
    cues = _ANSWER_CUE.findall(output)
    return str(cues[-1]).strip(" .}*") if cues else output.strip()
