"""The text of an answer: right or plausibly wrong, well formed or not."""

from __future__ import annotations

import json
import math
import re

from promptopt.simulator.index import Row, uniforms
from promptopt.simulator.reading import Reading

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_OPTION = re.compile(r"\(?[A-Ja-j]\)?$")


class Targets:
    """What the targets of a task look like, and which wrong ones are near.

    `labels` holds all of them, sorted, if they are few (at most 20, each standing twice on average);
    () for free answers. `is_json` says whether they are JSON objects or lists.
    """

    def __init__(self, targets: list[str]) -> None:
        """Look at the targets; their order is no matter."""
        distinct = sorted(set(targets))
        is_closed = 2 <= len(distinct) <= 20 and 2 * len(distinct) <= len(targets)
        self.is_json = bool(distinct) and all(_json(target) is not None for target in distinct)
        self.labels = tuple(distinct) if is_closed and not self.is_json else ()
        self._all = distinct

    def wrong(self, row: Row, draws: list[float]) -> str:
        """Return a plausible wrong answer to `row`; `draws` are two uniform numbers."""
        target = row.target or ""
        if _OPTION.match(target) and not self.labels:
            letters = [letter for letter in "ABCD" if letter not in target.upper()]
            return re.sub(r"[A-Ja-j]", letters[int(draws[0] * len(letters))], target)
        if self.labels:
            others = [label for label in self.labels if label != target]
            return others[int(draws[0] * len(others))]
        if _NUMBER.fullmatch(target):
            return _near(target, draws)
        if self.is_json:
            return self._altered(target, draws)
        others = [other for other in self._all if other.lower() != target.lower()]
        return others[int(draws[0] * len(others))] if others else target + " or so"

    def _altered(self, target: str, draws: list[float]) -> str:
        value, other = _json(target), _json(self._all[int(draws[1] * len(self._all))])
        if isinstance(value, dict) and value:
            field = sorted(value)[int(draws[0] * len(value))]
            new = other.get(field) if isinstance(other, dict) else None
            value[field] = new if new is not None and new != value[field] else _bent(value[field])
            return json.dumps(value, ensure_ascii=False)
        return json.dumps([*value, None] if isinstance(value, list) else None)


def _json(text: str) -> dict[str, object] | list[object] | None:
    if text[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict | list) else None


def _bent(value: object) -> object:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value} etc." if isinstance(value, str) else None


def _near(target: str, draws: list[float]) -> str:
    plain = target.replace(",", "")
    decimals = len(plain.partition(".")[2])
    value = float(plain)
    step = 10.0**-decimals
    changes = (
        step,
        -step,
        10 * step,
        2 * step,
        value if value else 3 * step,
        -value / 2 if value else 4 * step,
    )
    wrong = f"{value + changes[int(draws[0] * len(changes))]:.{decimals}f}"
    return wrong if wrong != f"{value:.{decimals}f}" else f"{value + step:.{decimals}f}"


_THOUGHTS = (
    "Let me go through this. {head} The details that matter are clear enough, and the rest adds nothing.",
    "First, the input says: {head} Next, I look at what is asked. Taking both together settles it.",
    "Looking at it in order: {head} I weigh what speaks for each possibility and keep the best one.",
)


def write_answer(row: Row, answer: str, other: str, reading: Reading, *, is_malformed: bool) -> str:
    """Return the reply that gives `answer`; a malformed one names `other` too, or hides it in prose."""
    form = reading.format
    thought = ""
    if reading.is_reasoning:
        head = row.texts[0][:80].rsplit(" ", 1)[0].strip(" .") + "." if row.texts else ""
        thought = _THOUGHTS[row.key[0] % len(_THOUGHTS)].format(head=head)
    if is_malformed:
        if thought:
            return f"{thought}\n\nSo I would go for {answer}, though {other} cannot be ruled out."
        return f"It could be {answer}, but also {other}; hard to say."
    if form.thought:
        return f"{form.thought}{thought or 'This follows from the input.'}\n\n{form.before}{answer}{form.after}"
    if thought:
        before = form.before or ("" if form.source == "shown" else "Answer: ")
        return f"{thought}\n\n{before}{answer}{form.after}"
    return f"{form.before}{answer}{form.after}"


def label_logprobs(
    answer: str, labels: tuple[str, ...], margin: float, row: Row, n: int
) -> tuple[tuple[str, float], ...]:
    """Return (label, natural log-probability), best first; `answer` is always the best.

    Args:
        margin: how clear the decision was, in [0, 1]; 0 = a coin's toss.
        n: how many to give at most.
    """
    draws = [uniforms(row.key, label.encode("utf-8", "surrogatepass"), n=1)[0] for label in labels]
    # 6 x margin makes the clearest decisions about 0.99 sure; others' logits lie within one unit.
    logits = {
        label: (0.05 + 6 * margin + 1 if label == answer else draw)
        for label, draw in zip(labels, draws, strict=True)
    }
    total = math.log(sum(math.exp(value) for value in logits.values()))
    ranked = sorted(logits.items(), key=lambda item: (-item[1], item[0]))
    return tuple((label, value - total) for label, value in ranked[:n])
