"""Strings of words before a prompt, scored by the labels' log-probabilities on few-shot examples.

Glossary: a *string* is a tuple of *ids*, places in a list of words; the *bare* prompt has no words before it.
Rewards are those of `promptopt.reward`; higher is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from promptopt import reward as rewards
from promptopt import template
from promptopt.study import Study
from promptopt.types import Candidate, Example

Ids = tuple[int, ...]
Floats = NDArray[np.float64]
RewardKind = Literal["gap", "cross_entropy", "entropy", "double_softmax"]


@dataclass(eq=False)
class PrefixScorer:
    """Scores strings of words on the few-shot examples, each once.

    Args:
        words: the representatives that ids point to.
        items: few-shot examples of train.
        kind: which reward.
        base: float[E], the rewards of the bare prompt.
        known: mean reward on all items by string.
        found: the best string of each epoch, with its mean reward.
        i_best: the first epoch with the best reward of all.
        n_scored: strings that the search had scored.
    """

    study: Study
    words: tuple[str, ...]
    items: tuple[Example, ...]
    kind: RewardKind
    base: Floats
    known: dict[Ids, float] = field(default_factory=dict)
    found: list[tuple[Ids, float]] = field(default_factory=list)
    i_best: int = 0
    n_scored: int = 0

    def candidate(self, ids: Ids) -> Candidate | None:
        """Return the user's prompt with the words before it; None if the gate refuses it."""
        initial = self.study.initial
        text = template.prefixed(initial.prompt.instruction, " ".join(self.words[i] for i in ids))
        return self.study.candidate(text, initial.prompt.demos, parents=[initial], operator="words before")

    def bare(self, n_items: int) -> float:
        """Return the bare prompt's mean reward on the first `n_items` examples; 0 if none was answered."""
        known = self.base[:n_items][~np.isnan(self.base[:n_items])]
        return float(known.mean()) if known.size else 0.0

    async def means(self, strings: Sequence[Ids]) -> Floats:
        """Return the mean rewards of strings on all few-shot examples; those known already are free."""
        new = [ids for ids in dict.fromkeys(strings) if ids not in self.known]
        self.n_scored += len(new)
        if new:
            await self.rewards(new, len(self.items))
        return np.array([self.known[ids] for ids in strings])

    async def rewards(self, strings: Sequence[Ids], n_items: int) -> Floats:
        """Return float[len(strings)], mean rewards on the first `n_items` examples; -inf = refused."""
        made = [self.candidate(ids) for ids in strings]
        usable = [candidate for candidate in made if candidate is not None]
        values = await reward_rows(self.study, usable, self.items[:n_items], self.kind)
        means = np.full(len(strings), -np.inf)
        means[[i for i, candidate in enumerate(made) if candidate]] = mean_rewards(values, self.base[:n_items])
        if n_items == len(self.items):
            self.known.update(zip(strings, means.tolist(), strict=True))
        return means

    async def divergences(self, strings: Sequence[Ids], n_items: int) -> Floats:
        """Return float[len(strings)], how far each string moves the labels from the bare prompt's; in all."""
        made = [self.candidate(ids) for ids in strings]
        usable = [candidate for candidate in made if candidate is not None]
        logprobs = await self.study.label_logprobs([self.study.initial, *usable], self.items[:n_items])
        moved = np.full(len(strings), -np.inf)
        found = rewards.divergence(logprobs[1:], logprobs[0]).sum(axis=1)
        moved[[i for i, candidate in enumerate(made) if candidate]] = found
        return moved

    def record(self, ids: Ids, value: float) -> None:
        """Note the best string of an epoch; name it the best so far if none was better, nor the bare prompt."""
        is_first = not self.found
        if is_first or value > self.found[self.i_best][1]:
            self.i_best = len(self.found)
            candidate = self.candidate(ids)
            if candidate is not None and value > self.bare(len(self.items)):
                self.study.propose(candidate)
        self.found.append((ids, value))
        self.study.note("epoch", words=[self.words[i] for i in ids], reward=value)


async def reward_rows(
    study: Study, candidates: Sequence[Candidate], examples: Sequence[Example], kind: RewardKind
) -> Floats:
    """Return float[C, E], rewards from the labels' log-probabilities; NaN where an answer is missing."""
    table = await study.evaluate(candidates, examples)
    logprobs = await study.label_logprobs(candidates, examples)
    places = [study.task.i_label(example) for example in examples]
    gold = np.array([-1 if place is None else place for place in places], dtype=np.intp)
    if kind == "entropy":
        values = rewards.negative_entropy(logprobs)
    elif kind == "gap":
        values = rewards.gap_reward(logprobs, gold)
    elif kind == "cross_entropy":
        values = rewards.cross_entropy(logprobs, gold)
    else:
        values = rewards.double_softmax(logprobs, gold)
    return np.where(np.isnan(table.values), np.nan, values)


def mean_rewards(values: Floats, base: Floats) -> Floats:
    """Return float[C], means of float[C, E]; the base stands in for missing answers; -inf = none is known."""
    filled = np.where(np.isnan(values), base, values)
    known = ~np.isnan(filled).any(axis=0)
    return np.array(filled[:, known].mean(axis=1) if known.any() else np.full(len(values), -np.inf))
