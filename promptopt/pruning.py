"""What searches that prune a prompt stand on: the few-shot start, the split of dev, the fitness, the last choice.

Glossary: a *section* is a stretch of a prompt that reads as one: a line of the instruction, or a demonstration.
The *search set* scores prompts during a search; the *held set*, disjoint from it, chooses among the best.
The *fitness* of a prompt is its mean gap reward (-180 to 200) or its mean score (0 to 1); higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from promptopt.demonstration import demonstrate, not_shown, plain_output
from promptopt.reward import gap_reward
from promptopt.study import Study
from promptopt.tokens import TokenizedPrompt
from promptopt.types import Candidate, Example

Kind = Literal["margin", "accuracy"]
Mask = tuple[bool, ...]

# With fewer, half of them could neither guide a search nor tell prompts apart.
MIN_DEV_TO_SPLIT = 20
# Held examples on which prompts must meet at least, before more prompts than one may meet.
_MIN_HELD = 40
_N_FINALISTS = 3
_N_SHOTS = 8


@dataclass(frozen=True)
class Entry:
    """A pruned prompt that was scored.

    Args:
        mask: which tokens of the start it keeps.
        fitness: on the search set; comparable only between entries that are `is_full`.
        first_half: its fitness on the first half of the search set, where halving looks.
        is_full: whether it was scored on all of the search set.
    """

    candidate: Candidate
    mask: Mask
    fitness: float
    first_half: float = math.nan
    is_full: bool = True

    @property
    def n_kept(self) -> int:
        """How many tokens it keeps."""
        return sum(self.mask)


@dataclass(frozen=True)
class Fitness:
    """How good prompts are on examples.

    Args:
        kind: margin = the piecewise gap reward, from log-probabilities of labels; accuracy = the task's score.
    """

    kind: Kind

    @property
    def top(self) -> float:
        """The most that an example can give."""
        return 200.0 if self.kind == "margin" else 1.0

    async def values(
        self, study: Study, candidates: Sequence[Candidate], examples: Sequence[Example]
    ) -> NDArray[np.float64]:
        """Return float[C, E]; NaN where the answer is missing. One batch of task calls, known cells free."""
        table = await study.evaluate(candidates, examples)
        if self.kind == "accuracy":
            return table.values
        labels = [study.task.i_label(example) for example in examples]
        gold = np.array([-1 if label is None else label for label in labels], dtype=np.intp)
        logprobs = await study.label_logprobs(candidates, examples)
        reward = gap_reward(logprobs, gold, is_wrong=table.values == 0)
        return np.where(np.isnan(table.values), np.nan, reward)


async def fitness_for(study: Study, wanted: Literal["auto", "margin", "accuracy"]) -> Fitness:
    """Return the fitness that is wanted; auto = margin where the endpoint gives log-probabilities of labels."""
    if wanted != "auto":
        return Fitness(wanted)
    return Fitness("margin" if await study.offers_label_logprobs() else "accuracy")


def mean_fitness(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return float[C], the means of float[C, E]; -inf where nothing is known.

    Args:
        reference: float[E], the start's values. They stand in for missing ones, so that no gap decides.
    """
    filled = np.where(np.isnan(values), reference, values)
    known = ~np.isnan(filled).any(axis=0)
    if not known.any():
        return np.full(len(values), -np.inf)
    return np.array([row[known].mean() for row in filled])  # row by row: the same sum in any batch


def few_shot(study: Study, n_shots: int | None, max_tokens: int, *, keeps_own: bool = True) -> Candidate:
    """Return the user's prompt with demonstrations from train, balanced over the labels where there are some.

    A demonstration that would make the prompt too long, or that the gate refuses, is left out.

    Args:
        n_shots: demonstrations in all; those of the user's own stand first and count. None = as many as the
            user's prompt has, else eight.
        max_tokens: estimated tokens that the prompt may have without an example's input.
        keeps_own: False leaves those of the user's own out, where the instruction may stand alone.
    """
    best, text = study.initial, study.initial.prompt.instruction
    if n_shots is None:
        n_shots = len(best.prompt.demos) or _N_SHOTS
    if not keeps_own:
        best = study.candidate(text, parents=[best], operator="bare instruction") or best
    for row in balanced(study, not_shown(study.task, study.task.train, best.prompt.demos)):
        if len(best.prompt.demos) >= n_shots:
            break
        demos = (*best.prompt.demos, demonstrate(study.task, row, plain_output(text, row)))
        longer = study.candidate(text, demos, parents=[study.initial], operator="few-shot start")
        if longer is not None and study.tokens(longer) <= max_tokens:
            best = longer
    return best


def balanced(study: Study, examples: Sequence[Example]) -> list[Example]:
    """Return examples in random order, the labels taking turns where there are some."""
    shuffled = [examples[i] for i in study.rng.permutation(len(examples))]
    if not study.task.labels:
        return shuffled
    n_of: dict[str | None, int] = {}
    turns = []
    for example in shuffled:
        turns.append(n_of.get(example.target, 0))
        n_of[example.target] = turns[-1] + 1
    return [shuffled[i] for i in np.argsort(turns, kind="stable")]


def split_dev(study: Study, n_search: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return a search set, balanced over the labels where there are some, and the held set: the rest of dev.

    At most half of dev is searched on. Of fewer than 20 dev examples, all are in both sets: the choice among
    the best is then no check of its own.
    """
    order = tuple(balanced(study, study.task.dev))
    if len(order) < MIN_DEV_TO_SPLIT:
        return order, order
    n = min(n_search, len(order) // 2)
    return order[:n], order[n:]


def sections(tokens: TokenizedPrompt) -> tuple[tuple[int, ...], ...]:
    """Return the mutable tokens of each line of the instruction and of each demonstration; no empty ones."""
    n = len(tokens.tokens)
    n_instruction = (*tokens.starts, n)[1]
    ends = [i + 1 for i in range(n_instruction) if "\n" in tokens.tokens[i]]
    mutable = set(tokens.mutable)
    cuts = sorted({*tokens.starts, *ends, n})
    parts = (tuple(i for i in range(start, end) if i in mutable) for start, end in pairwise(cuts))
    return tuple(part for part in parts if part)


async def choose_best(
    study: Study, fitness: Fitness, elites: Sequence[Candidate], held: Sequence[Example]
) -> Candidate:
    """Return the best on held examples by the task's score, of the elites and the user's prompt; then the shorter.

    Log-probabilities, where there are some, first choose three of the elites on the same examples.

    Args:
        elites: best first; the last are left out where the calls that are left would afford few examples.
    """
    n_calls = study.remaining_calls
    fewest = min(len(held), _MIN_HELD)
    n_elites = max(1, min(len(elites), n_calls // fewest - 1))
    finalists = list(elites[:n_elites])
    examples = held[: max(1, n_calls // (n_elites + 1))]
    if fitness.kind == "margin" and n_elites > 1:
        values = await fitness.values(study, finalists, examples)
        means = mean_fitness(values, np.full(len(examples), np.nan))
        finalists = [finalists[i] for i in np.argsort(-means, kind="stable")[:_N_FINALISTS]]
    return await study.choose(finalists, examples)
