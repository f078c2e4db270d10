"""Rewording of prompts: other phrasings of the same advice, with placeholders and marks kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TypeVar

from promptopt.simulator.concepts import CONCEPTS, concepts_of_sentence
from promptopt.simulator.landscapes import Landscape

T = TypeVar("T")

_KEPT = re.compile(r"<!-- keep -->.*?<!-- /keep -->", re.DOTALL)
_MARK = re.compile(r"\ue000(\d+)\ue001")
_PART = re.compile(r"^(?:system|user|assistant):[ \t]*$")
_SLOT = re.compile(r"\{\{?[\w .\-]+\}\}?|\ue000")
_STRUCTURE = re.compile(r"\{|\}|</?[A-Za-z][\w-]*>|```|\[\[|####|\\boxed|\ue000")
_SPLIT = re.compile(r"((?<=[.!?])[ \t]+)")
# Swaps that leave the meaning alone; each pair works in both directions.
_SWAPS = (
    ("Classify", "Categorise"),
    ("Decide", "Determine"),
    ("Read", "Look at"),
    ("the following", "this"),
    ("You must", "You have to"),
    ("Make sure", "Be sure"),
    ("Find", "Work out"),
    ("Extract", "Pull out"),
    ("Use", "Make use of"),
    ("question", "query"),
    ("message", "note"),
)
_IMPERATIVE = re.compile(
    r"(?:Classify|Categorise|Read|Decide|Determine|Answer|Give|Extract|Find|Label|Assign|Choose|Pick|Solve|Sort|"
    r"Work|Write|Tell|State|Say|Keep|Use) "
)


class Draws:
    """Random draws that depend on a digest alone."""

    def __init__(self, digest: bytes) -> None:
        """Start the sequence that belongs to the digest."""
        self._digest = digest
        self._count = 0

    def uniform(self) -> float:
        """Return the next number, uniform in [0, 1)."""
        self._count += 1
        raw = hashlib.blake2b(self._digest + self._count.to_bytes(4, "big"), digest_size=8).digest()
        return int.from_bytes(raw, "big") * 2.0**-64

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.uniform() < probability

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items, all equally likely."""
        return items[int(self.uniform() * len(items))]

    def weighted_sample(self, items: Sequence[T], weights: Sequence[float], k: int) -> list[T]:
        """Return `k` distinct items in the order drawn, likelier ones with greater weight."""
        # Efraimidis and Spirakis (2006): the k greatest of u^(1/w) are a weighted sample.
        keys = [self.uniform() ** (1 / weight) for weight in weights]
        order = sorted(range(len(items)), key=lambda place: -keys[place])
        return [items[place] for place in order[:k]]


def say(name: str, draws: Draws) -> str:
    """Return a sentence that gives this advice."""
    return draws.choice(CONCEPTS[name].phrasings)


def rewrite(text: str, habits: Landscape, draws: Draws) -> str:
    """Return `text` in other words; each passage to be kept survives but for a slip.

    Placeholders, kept passages, tags and part lines stay as they are; each piece of advice may be
    dropped or said otherwise; other sentences change by a word at most.
    """
    kept = _KEPT.findall(text)
    marks = iter(range(len(kept)))
    text = _KEPT.sub(lambda match: f"\ue000{next(marks)}\ue001", text)
    lines = [_line(line, habits, draws) for line in text.split("\n")]
    new = "\n".join(line for line in lines if line is not None).strip()
    return _MARK.sub(lambda match: kept[int(match.group(1))], new) or text


def _line(line: str, habits: Landscape, draws: Draws) -> str | None:
    if not line.strip():
        return line
    if _PART.match(line):
        return None if draws.chance(habits.sloppiness) else line
    pieces = _SPLIT.split(line)
    kept: list[str] = []
    for place in range(0, len(pieces), 2):
        sentence = _sentence(pieces[place], habits, draws)
        if sentence:
            gap = pieces[place - 1] if kept else ""
            kept.append(gap + sentence)
    # A line that lost all its advice goes as a whole.
    return "".join(kept) if kept else None


def _sentence(sentence: str, habits: Landscape, draws: Draws) -> str:
    if _STRUCTURE.search(sentence):
        return "" if draws.chance(habits.sloppiness) else sentence
    names = concepts_of_sentence(sentence.strip())
    if not names:
        return _reworded(sentence, draws) if draws.chance(0.5) else sentence
    if len(names) == 1 and len(sentence) < 160:
        if draws.chance(habits.drop):
            return ""
        if draws.chance(0.5):
            lead = re.match(r"^\s*(?:[-*•]|\d+[.)])?\s*", sentence)
            return (lead.group() if lead else "") + say(min(names), draws)
    return _reworded(sentence, draws)


def _reworded(sentence: str, draws: Draws) -> str:
    swaps = [(a, b) for pair in _SWAPS for a, b in (pair, pair[::-1]) if re.search(rf"\b{a}\b", sentence)]
    if swaps:
        old, new = draws.choice(swaps)
        reworded = re.sub(rf"\b{old}\b", new, sentence, count=1)
    elif sentence.lower().startswith("please "):
        reworded = sentence[7:8].upper() + sentence[8:]
    elif _IMPERATIVE.match(sentence):
        reworded = f"Please {sentence[0].lower()}{sentence[1:]}"
    else:
        return sentence
    # A swap must not turn a plain sentence into advice or the other way round.
    same = concepts_of_sentence(reworded.strip()) == concepts_of_sentence(sentence.strip())
    return reworded if same else sentence


def insert(text: str, additions: list[str]) -> str:
    """Return `text` with sentences added to its instructions: before the first placeholder, if any."""
    if not additions:
        return text
    addition = " ".join(additions)
    lines = text.split("\n")
    stop = next((place for place, line in enumerate(lines) if _is_end(lines, place, line)), len(lines))
    while stop > 0 and not lines[stop - 1].strip():
        stop -= 1
    if stop == 0:
        return f"{addition}\n{text}"
    before = lines[stop - 1]
    if before.rstrip().endswith((".", "!", "?")) and not _PART.match(before):
        lines[stop - 1] = f"{before.rstrip()} {addition}"
    else:
        lines.insert(stop, addition)
    return "\n".join(lines)


def _is_end(lines: list[str], place: int, line: str) -> bool:
    if _PART.match(line):
        return place > 0
    return _SLOT.search(line) is not None or "<!-- keep -->" in line
