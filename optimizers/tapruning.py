"""TAPruning: threshold-accepting hill climbing that deletes tokens of a few-shot prompt.

The first of the two searches of "Evolving Prompts In-Context: An Open-ended, Self-replicating Perspective",
ICML 2025, arXiv 2506.17930. Token by token it tries the prompt without it, and goes on from there if the fitness
stays above a threshold: .96 of the best so far. Passes are repeated until one changes nothing; the answer is the
last of all accepted prompts with the highest fitness.

Deviations from the paper, all switchable where they change results; `preset=paper` takes the published settings:
- Passes go from coarse to fine: stretches of tokens first, half as long in each pass, within a line or a
  demonstration; then single tokens. A pass over 150 tokens takes 150 prompts where single tokens are tried,
  which most budgets do not afford (`chunk=1`: single tokens only, as published).
- The user's prompt is the start where it is better than with demonstrations (`start`).
- When nothing changes any more, the search starts anew from other demonstrations, or from the user's prompt in
  another order (`has_restarts`).
- Margin rewards may be zero or negative, where a ratio to the best means nothing: there the threshold lies
  (1 - threshold) * 200 below the best. Published: the ratio, whatever the sign.
- The prompt is cut into tokens once, not again in each pass, so that it stays a subsequence of the start. Tokens
  are those of the model where they are known, else words.
- Paper and code differ: the paper accepts above the threshold, the code at it; here as in the code.
- The start shows eight demonstrations, or those of the user's prompt; published: one or more for each label.
- A reply that scored nothing counts as wrong, even if its first token is the right label.
- Search and held set are disjoint parts of dev, the search set at most half of it. The best accepted prompts
  meet the user's prompt on the held set; published: one set of 200 for both, and no check.

What bounds its wall time: each decision hangs on the one before, so at any time only one prompt is asked about, on
all examples of the search set at once. `n_ahead` scores further prompts of the likeliest course at the same time,
at the price of those that were in vain; `n_blocks` stops those that cannot reach the threshold any more. Neither
changes a decision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from promptopt.option import check_range
from promptopt.pruning import (
    Entry,
    Fitness,
    Mask,
    choose_best,
    few_shot,
    fitness_for,
    mean_fitness,
    sections,
    split_dev,
)
from promptopt.study import Study
from promptopt.tokens import TokenizedPrompt
from promptopt.types import Candidate, Example, Role

# Prompts to score from a start: itself, the user's and a shorter one.
_FEWEST = 3
# Stretches of the first pass: their number, about. Each costs one prompt on the search set.
_N_FIRST = 8
# Blocks in which accuracy is counted: a hopeless prompt is stopped after the first of them.
_N_BLOCKS = 4


@dataclass(frozen=True)
class TaPruning:
    """Threshold-accepting deletion of tokens (TAPruning, arXiv 2506.17930).

    Args:
        fitness: margin = from log-probabilities of labels; accuracy = the score; auto = margin where possible.
        n_shots: demonstrations of the start; None = those of the user's prompt, else 8.
        max_start_tokens: estimated tokens of the start at most; demonstrations are left out above it.
        n_search: dev examples that prompts are scored on, at most half of dev (paper: 200); None =
            max(16, sqrt(n)) for a search of n calls.
        threshold: share of the best fitness that a prompt must keep to be accepted, in (0, 1].
        start: few-shot = the prompt with its demonstrations (paper); better = the user's prompt as it is where
            that has the higher fitness on the search set.
        order: left-to-right, or shuffled anew in each pass.
        chunk: tokens that are dropped at a time in the first pass (paper: 1); None = an eighth of all.
        has_restarts: start anew from other demonstrations when nothing more can be dropped (paper: false).
        n_ahead: prompts scored at a time; 1 = none in vain.
        n_blocks: parts in which a prompt is scored, stopping when it cannot be accepted any more; None = 4 for
            accuracy, 1 for margins, which seldom rule a prompt out early.
        rerank_share: share of the calls that is kept for the choice at the end, in (0, 1).
        n_elites: accepted prompts that the choice is among (paper: 1).
    """

    fitness: Literal["auto", "margin", "accuracy"] = "auto"
    n_shots: int | None = None
    max_start_tokens: int = 1000
    n_search: int | None = None
    threshold: float = 0.96
    start: Literal["better", "few-shot"] = "better"
    order: Literal["left-to-right", "shuffled"] = "left-to-right"
    chunk: int | None = None
    has_restarts: bool = True
    n_ahead: int = 1
    n_blocks: int | None = None
    rerank_share: float = 0.25
    n_elites: int = 8

    source: ClassVar[str] = "TAPruning, ICML 2025, arXiv 2506.17930"
    requires: ClassVar[frozenset[str]] = frozenset({"labels"})
    usual_calls: ClassVar[str] = "from 150; tokens x passes x 200 at the paper's settings"
    when: ClassVar[str] = "no optimizer model at hand; a long or few-shot prompt that should become short"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType(
        {
            "paper": MappingProxyType(
                {
                    **{"fitness": "accuracy", "n_search": 200, "start": "few-shot", "chunk": 1},
                    **{"has_restarts": False, "n_elites": 1},
                }
            )
        }
    )

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        check_range(self, "n_search", "chunk", "n_ahead", "n_blocks", "n_elites", at_least=1)
        check_range(self, "n_shots", "max_start_tokens", at_least=0)
        check_range(self, "threshold", above=0, at_most=1)
        check_range(self, "rerank_share", above=0, below=1)

    @property
    def prefers(self) -> frozenset[str]:
        """Log-probabilities, unless the score is wanted as fitness."""
        return frozenset() if self.fitness == "accuracy" else frozenset({"log-probabilities"})

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense: the start and four others, then a choice."""
        n_scored = 5 * min(16, self.n_search or 16)
        return math.ceil(n_scored / (1 - self.rerank_share)) + 1

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role for a search of `n_calls`."""
        return {"task": n_calls}

    async def optimize(self, study: Study) -> Candidate:
        """Climb from one start after the other; return the best accepted prompt on held examples."""
        reserve = int(self.rerank_share * study.size.n_calls)
        study.propose(study.initial)
        fitness = await fitness_for(study, self.fitness)
        n_search = self.n_search or max(16, round(math.sqrt(study.size.n_calls)))
        search, held = split_dev(study, n_search)
        climb = _Climb(self, study, fitness, search, reserve)
        while climb.can_go_on(_FEWEST):
            n_before = len(climb.known)
            is_first = not climb.known
            await climb.run(few_shot(study, self.n_shots, self.max_start_tokens, keeps_own=is_first))
            if not self.has_restarts or len(climb.known) == n_before:
                break
        best = last_maxima(climb.traces)[: self.n_elites]
        chosen = await choose_best(study, fitness, [entry.candidate for entry in best], held)
        study.propose(chosen)
        return chosen


@dataclass(frozen=True)
class _Step:
    """A prompt of the course that decisions will most likely take.

    Args:
        stretch: the tokens that it lacks besides those gone before.
    """

    stretch: tuple[int, ...]
    mask: Mask
    candidate: Candidate | None


@dataclass(eq=False)
class _Climb:
    """The state of a search: the accepted prompts of each start, and what may still be used.

    Args:
        reserve: answers that are kept for the choice at the end.
        traces: accepted prompts in order, the start first, one after the other.
        known: ids of all prompts that were scored, be it in part.
        tokens: of the start, with their sections.
        reference: float[E], the start's fitness on each example.
        bar: the fitness of the user's prompt.
        now: the prompt accepted last; `best` = the highest fitness accepted from this start.
        expects: whether the next prompt will be accepted, as far as the last decision tells.
    """

    options: TaPruning
    study: Study
    fitness: Fitness
    examples: tuple[Example, ...]
    reserve: int
    traces: list[Entry] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    tokens: TokenizedPrompt = field(init=False)
    sections: tuple[tuple[int, ...], ...] = field(init=False)
    reference: NDArray[np.float64] = field(init=False)
    bar: float = field(init=False)
    now: Entry = field(init=False)
    best: float = field(init=False)
    expects: bool = field(init=False)

    def can_go_on(self, n_prompts: int) -> bool:
        """Return whether so many more prompts may be scored."""
        room = self.study.remaining_calls - self.reserve
        return n_prompts * len(self.examples) <= room

    async def run(self, start: Candidate) -> None:
        """Drop tokens from one start until a pass over single tokens changes nothing, or the calls are used."""
        pair = [start, self.study.initial]
        self.reference, initial = await self.fitness.values(self.study, pair, self.examples)
        value, self.bar = mean_fitness(np.array([self.reference, initial]), self.reference).tolist()
        self.known.add(start.id)
        if self.options.start == "better" and self.bar > value:
            start, self.reference, value = self.study.initial, initial, self.bar
        self.tokens = self.study.tokenized(start.prompt)
        self.sections = sections(self.tokens)
        is_again = any(entry.candidate.id == start.id for entry in self.traces)
        is_shuffled = is_again or self.options.order == "shuffled"
        self.now = Entry(start, (True,) * len(self.tokens.tokens), value)
        self.best = value
        self.traces.append(self.now)
        self.expects = True
        chunk = self.options.chunk or self._first_chunk()
        while self.can_go_on(1):
            n_before = self.now.n_kept
            await self._pass(self._stretches(chunk, is_shuffled))
            self._report(chunk)
            if chunk == 1 and self.now.n_kept == n_before:
                break
            chunk = max(1, chunk // 2)

    def _first_chunk(self) -> int:
        """Return the greatest power of two with which the first pass takes at least `_N_FIRST` stretches."""
        return 1 << int(math.log2(max(1, len(self.tokens.mutable) / _N_FIRST)))

    def _stretches(self, chunk: int, is_shuffled: bool) -> list[tuple[int, ...]]:
        """Return the kept mutable tokens in stretches of at most `chunk`, none across sections."""
        kept = [[i for i in section if self.now.mask[i]] for section in self.sections]
        parts = [tuple(part[i : i + chunk]) for part in kept for i in range(0, len(part), chunk)]
        return [parts[i] for i in self.study.rng.permutation(len(parts))] if is_shuffled else parts

    async def _pass(self, stretches: Sequence[tuple[int, ...]]) -> None:
        """Try to drop each stretch, in order; `n_ahead` prompts are scored at a time."""
        left = list(stretches)
        while left:
            steps = self._course(left)
            n_scored = sum(step.candidate is not None for step in steps)
            if not self.can_go_on(n_scored):
                return
            values = await self._values(steps)
            for step, value in zip(steps, values, strict=True):
                left.pop(0)
                was_accepted = self._decide(step, value)
                if step.candidate is not None and was_accepted != self.expects:
                    self.expects = was_accepted
                    break  # what comes after it was asked about another prompt

    def _course(self, stretches: Sequence[tuple[int, ...]]) -> list[_Step]:
        """Return the next prompts if all decisions are as the last one was, `n_ahead` of them to be scored."""
        steps: list[_Step] = []
        mask, parent, n_scored = self.now.mask, self.now.candidate, 0
        for stretch in stretches:
            if n_scored == self.options.n_ahead:
                break
            shorter = tuple(keeps and i not in stretch for i, keeps in enumerate(mask))
            candidate = self._candidate(shorter, parent)
            steps.append(_Step(stretch, shorter, candidate))
            if candidate is not None:
                n_scored += 1
                mask, parent = (shorter, candidate) if self.expects else (mask, parent)
        return steps

    def _candidate(self, mask: Mask, parent: Candidate) -> Candidate | None:
        """Return the prompt of the kept tokens; None if the gate refuses it."""
        prompt = self.tokens.prompt(mask)
        return self.study.candidate(prompt.instruction, prompt.demos, parents=[parent], operator="pruning")

    async def _values(self, steps: Sequence[_Step]) -> list[float]:
        """Return the fitness of each step's prompt; -inf where there is none, or it cannot be accepted."""
        candidates = [step.candidate for step in steps if step.candidate is not None]
        if not candidates:
            return [-math.inf] * len(steps)
        self.known.update(candidate.id for candidate in candidates)
        if len(candidates) == 1:
            fitness = [await self._blockwise(candidates[0])]
        else:
            values = await self.fitness.values(self.study, candidates, self.examples)
            fitness = mean_fitness(values, self.reference).tolist()
        scored = iter(fitness)
        return [-math.inf if step.candidate is None else next(scored) for step in steps]

    async def _blockwise(self, candidate: Candidate) -> float:
        """Return a prompt's fitness; -inf once even the best answers to the rest cannot get it accepted."""
        n = len(self.examples)
        n_blocks = min(n, self.options.n_blocks or (_N_BLOCKS if self.fitness.kind == "accuracy" else 1))
        for i_block in range(1, n_blocks + 1):
            end = n * i_block // n_blocks
            values = await self.fitness.values(self.study, [candidate], self.examples[:end])
            at_most = np.full((1, n), self.fitness.top)
            at_most[:, :end] = values
            bound = float(mean_fitness(at_most, self.reference)[0])
            if i_block < n_blocks and not self._accepts(bound):
                return -math.inf
        return bound

    def _accepts(self, value: float) -> bool:
        """Return whether a fitness is near enough to the best so far, or above it."""
        return accepts(value, self.best, self.options.threshold, self.fitness)

    def _decide(self, step: _Step, value: float) -> bool:
        """Go on without a stretch if its prompt is accepted; return whether it is."""
        if step.candidate is None or not self._accepts(value):
            return False
        self.now = Entry(step.candidate, step.mask, value)
        self.best = max(self.best, value)
        self.traces.append(self.now)
        return True

    def _report(self, chunk: int) -> None:
        """Journal a pass, and propose the best prompt so far if it beats the user's on the search set."""
        best = last_maxima(self.traces)[0]
        self.study.note("pass", chunk=chunk, n_kept=self.now.n_kept, best=best.fitness, fitness=self.now.fitness)
        if best.fitness > self.bar:
            self.study.propose(best.candidate)


def accepts(value: float, best: float, threshold: float, fitness: Fitness) -> bool:
    """Return whether `value` is accepted: by its ratio to the best, or its distance where that may be negative."""
    if fitness.kind == "accuracy":
        return value >= threshold * best
    return value >= best - (1 - threshold) * fitness.top


def last_maxima(trace: Sequence[Entry]) -> list[Entry]:
    """Return accepted prompts, the fittest first; of equals the last accepted first, each prompt once."""
    order = sorted(enumerate(trace), key=lambda row: (-row[1].fitness, -row[0]))
    found: dict[str, Entry] = {}
    for _, entry in order:
        found.setdefault(entry.candidate.id, entry)
    return list(found.values())
