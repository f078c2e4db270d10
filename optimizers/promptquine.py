"""PromptQuine: evolution of few-shot prompts by deleting tokens.

"Evolving Prompts In-Context: An Open-ended, Self-replicating Perspective", ICML 2025, arXiv 2506.17930. A
population of masks over the tokens of a few-shot prompt loses tokens by tournament selection and mutation, in
generations (GGA) or one child at a time (SSGA). Fitness is the piecewise margin of the labels' probabilities, or
the score. The best of all prompts ever scored meet on examples that the search did not see.

Deviations from the paper, all switchable where they change results; `preset=paper` takes the published settings:
- Sizes scale to the budget. Published: 30 members, 50 children, 10,000 prompts, 8 examples of each label to score
  them on; that is 100,000 calls and more, of which the usual budget affords a hundredth.
- The first members keep few to nearly all tokens, evenly on a logarithmic scale, every second one by whole lines
  and demonstrations (`init="spread"`); mutations drop up to half of the tokens, scattered, in a row, or a whole
  section (`max_bits`, `p_run`, `p_section`). In steps of 1 to 4, a search of 50 prompts would not leave the start.
- The best survive whatever their age (`survival="elitist"`). Published: only the last `n_offspring` may.
- When no member can lose more, the search starts anew from other demonstrations (`has_restarts`).
- A prompt that was scored before is not scored again, nor does it become a member again; published: unless it is
  a member now. The search ends when `patience` generations brought nothing new; published: it may run for ever.
- Halving compares a child's half with the same half of the members, by actual sizes, and a child that was stopped
  half-way ranks below all others; published: half and full scores are ranked together.
- The choice at the end is by the task's score, among the elites and the user's prompt, which is returned unless
  one of them is better; where elites are many, log-probabilities first choose three of them.
- Tokens are those of the model where they are known, else words; a prompt's length is counted in these.
- The start shows eight demonstrations, or those of the user's prompt; published: one or more for each label.
- A reply that scored nothing counts as wrong, even if its first token is the right label.
- Search and held set are disjoint parts of dev; the search set takes at most half of it.

SSGA is sequential by nature: a child may be a parent at once. Yet a tournament that draws no unscored child does
not hang on its score; so children are scored together until one is drawn. Nothing is scored in vain, and the
outcome is that of one child at a time. What bounds SSGA is how often one is drawn: for about each third child.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from promptopt.errors import ConfigError
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

_FEWEST = 3  # prompts to score from a start: itself, the user's and a shorter one
_MOST_TRIES = 10  # draws of a number of tokens to drop; the paper's
_RATES = np.linspace(0.05, 0.2, 10)  # deletion rates of init="random"; the paper's


@dataclass(frozen=True)
class PromptQuine:
    """Evolution of few-shot prompts by deleting tokens (PromptQuine, arXiv 2506.17930).

    Sizes that are None scale to a search of n calls: examples to score on, max(16, sqrt(n)); with n_prompts,
    the number of prompts that three quarters of n then afford, children per generation are a sixth of it (4 to
    50), and members six tenths of the children (4 to 30).

    Args:
        mode: gga = a generation of children at once; ssga = one at a time, each may be a parent at once.
        fitness: margin = from log-probabilities of labels; accuracy = the score; auto = margin where possible.
        n_shots: demonstrations of the start; None = those of the user's prompt, else 8.
        max_start_tokens: estimated tokens of the start at most; demonstrations are left out above it.
        population_size: members that survive a generation (paper: 30); None = scaled to the budget.
        n_offspring: children per generation (paper: 50); None = scaled to the budget.
        n_search: dev examples that prompts are scored on, at most half of dev; None = scaled to the budget.
        search_per_label: examples of each label instead (paper: 8); None = as `n_search` says.
        init: spread = from few to nearly all tokens; duplicates = all tokens; random = 80 to 95% of them.
        tournament: share of the population that is drawn to choose a parent.
        max_bits: most tokens that a mutation drops (paper: 4); None = up to half, fewer are likelier.
        p_run: share of mutations that drop neighbours (paper: 0).
        p_section: share of mutations that drop a whole line or demonstration (paper: 0).
        survival: elitist = the best of all; aging = the best of the last `n_offspring` (paper).
        is_halving: score children on half of the examples first; for gga with fitness=accuracy.
        max_prompts: prompts to score at most.
        min_tokens: the search ends when members have so many tokens on average (paper: 15).
        has_restarts: start anew from other demonstrations when nothing more can be dropped.
        rerank_share: share of the calls that is kept for the choice at the end, in (0, 1).
        elite_share: share of all scored prompts that the choice is among, in (0, 1] (paper: .05 to .1).
        patience: generations without a new prompt after which the search ends.
    """

    mode: Literal["gga", "ssga"] = "gga"
    fitness: Literal["auto", "margin", "accuracy"] = "auto"
    n_shots: int | None = None
    max_start_tokens: int = 1000
    population_size: int | None = None
    n_offspring: int | None = None
    n_search: int | None = None
    search_per_label: int | None = None
    init: Literal["spread", "duplicates", "random"] = "spread"
    tournament: float = 0.2
    max_bits: int | None = None
    p_run: float = 0.33
    p_section: float = 0.33
    survival: Literal["elitist", "aging"] = "elitist"
    is_halving: bool = False
    max_prompts: int = 10_000
    min_tokens: int = 2
    has_restarts: bool = True
    rerank_share: float = 0.25
    elite_share: float = 0.1
    patience: int = 3

    source: ClassVar[str] = "PromptQuine, ICML 2025, arXiv 2506.17930"
    requires: ClassVar[frozenset[str]] = frozenset({"labels"})
    usual_calls: ClassVar[str] = "from 150; 16,000 and more at the paper's settings"
    when: ClassVar[str] = "no optimizer model at hand; a few labels with log-probabilities; few-shot prompts"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType(
        {
            "paper": MappingProxyType(
                {
                    **{"population_size": 30, "n_offspring": 50, "search_per_label": 8, "n_search": 100},
                    **{"init": "duplicates", "max_bits": 4, "p_run": 0.0, "p_section": 0.0, "survival": "aging"},
                    **{"min_tokens": 15, "has_restarts": False},
                }
            )
        }
    )

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        sizes = ("population_size", "n_offspring", "n_search", "search_per_label", "max_bits", "max_prompts")
        check_range(self, *sizes, "patience", at_least=1)
        check_range(self, "n_shots", "max_start_tokens", "min_tokens", "p_run", "p_section", at_least=0)
        check_range(self, "tournament", "elite_share", above=0, at_most=1)
        check_range(self, "rerank_share", above=0, below=1)
        if self.p_run + self.p_section > 1:
            raise ConfigError(f"p_run={self.p_run} and p_section={self.p_section}; together at most 1")
        if self.is_halving and (self.mode, self.fitness) != ("gga", "accuracy"):
            raise ConfigError(
                f"is_halving with mode={self.mode} and fitness={self.fitness}; it is defined for generations and "
                "scores: set mode=gga and fitness=accuracy, or leave it out"
            )

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
        """Evolve pruned prompts until the budget's share is used; return the best on held examples."""
        reserve = int(self.rerank_share * study.size.n_calls)
        study.propose(study.initial)
        fitness = await fitness_for(study, self.fitness)
        search, held = split_dev(study, self._n_search(study))
        p, q = self._sizes(study.size.n_calls, len(search))
        evolution = _Evolution(self, study, fitness, search, p, q, reserve)
        while evolution.n_affordable >= _FEWEST:
            n_before = len(evolution.history)
            is_first = not evolution.history
            await evolution.run(few_shot(study, self.n_shots, self.max_start_tokens, keeps_own=is_first))
            if not self.has_restarts or len(evolution.history) == n_before:
                break
        best = elites(evolution.history, self.elite_share)
        chosen = await choose_best(study, fitness, [entry.candidate for entry in best], held)
        study.propose(chosen)
        return chosen

    def _n_search(self, study: Study) -> int:
        if self.search_per_label and study.task.labels:
            return self.search_per_label * len(study.task.labels)
        return self.n_search or max(16, round(math.sqrt(study.size.n_calls)))

    def _sizes(self, n_calls: int, n_search: int) -> tuple[int, int]:
        """Return members and children per generation for a search of `n_calls`."""
        n_prompts = (1 - self.rerank_share) * n_calls / n_search
        q = self.n_offspring or min(50, max(4, round(n_prompts / 6)))
        p = self.population_size or min(30, max(4, round(0.6 * q)))
        return p, q


@dataclass(eq=False)
class _Evolution:
    """The state of a search: what was scored, and what it may still use.

    Args:
        p: members that survive a generation.
        q: children per generation.
        reserve: answers that are kept for the choice at the end.
        history: every prompt scored, of all starts.
        known: the same by id.
        start: the prompt whose tokens are dropped, with its tokens, and their sections.
        reference: float[E], the start's fitness on each example.
        bar: the fitness of the user's prompt.
    """

    options: PromptQuine
    study: Study
    fitness: Fitness
    examples: tuple[Example, ...]
    p: int
    q: int
    reserve: int
    history: list[Entry] = field(default_factory=list)
    known: dict[str, Entry] = field(default_factory=dict)
    start: Candidate = field(init=False)
    tokens: TokenizedPrompt = field(init=False)
    sections: tuple[tuple[int, ...], ...] = field(init=False)
    reference: NDArray[np.float64] = field(init=False)
    bar: float = field(init=False)
    population: list[Entry] = field(init=False)

    @property
    def n_affordable(self) -> int:
        """How many prompts may still be scored."""
        room = self.study.remaining_calls - self.reserve
        return min(room // len(self.examples), self.options.max_prompts - len(self.history))

    async def run(self, start: Candidate) -> None:
        """Evolve a population from one start, until it cannot lose more or the calls are used."""
        await self.begin(start)
        n_idle = n_generations = 0
        while n_idle < self.options.patience and self.n_affordable > 0:
            if np.mean([member.n_kept for member in self.population]) <= self.options.min_tokens:
                break
            breed = self._generation if self.options.mode == "gga" else self._steady_state
            children = await breed(min(self.q, self.n_affordable))
            n_idle = 0 if children else n_idle + 1
            n_generations += 1
            self.population = survivors(self.population, children, self.p, self.q, self.options.survival)
            self._report(n_generations, len(children))

    async def begin(self, start: Candidate) -> None:
        """Score a start and the user's prompt, and make the first population."""
        self.start, self.tokens = start, self.study.tokenized(start.prompt)
        self.sections = sections(self.tokens)
        pair = [start, self.study.initial]
        self.reference, initial = await self.fitness.values(self.study, pair, self.examples)
        self.bar = float(mean_fitness(initial[None], self.reference)[0])
        self.population = await self._first_members()

    def _report(self, n_generations: int, n_children: int) -> None:
        """Journal a generation, and propose the best prompt so far if it beats the user's on the search set."""
        best = elites(self.history, 1e-9)[0]
        n_kept = float(np.mean([member.n_kept for member in self.population]))
        self.study.note(
            "generation", n=n_generations, best=best.fitness, n_children=n_children, mean_tokens=round(n_kept, 1)
        )
        if best.fitness > self.bar:
            self.study.propose(best.candidate)

    # The first population --------------------------------------------------------------------------

    async def _first_members(self) -> list[Entry]:
        """Return the first population; the start is scored already."""
        masks: list[Mask] = [(True,) * len(self.tokens.tokens)]
        if self.options.init == "random":
            masks += [self._thinned(1 - float(self.study.rng.choice(_RATES)), False) for _ in range(self.p)]
        elif self.options.init == "spread":
            masks += self._spread(2 * self.p)
        masks = masks[: max(1, self.n_affordable)]
        named = [(mask, self._candidate(mask, self.start)) for mask in masks]
        drafts = list({c.id: _Draft(c, mask) for mask, c in named if c is not None}.values())
        await self._score([draft for draft in drafts if draft.candidate.id not in self.known])
        members = [replace(self.known[draft.candidate.id], mask=draft.mask) for draft in drafts]
        if self.options.init == "duplicates":
            return members * self.p
        if self.options.init == "random":
            return members[1:] or members
        return survivors(members, (), self.p, self.q, "elitist")

    def _spread(self, n: int) -> list[Mask]:
        """Return masks from nearly all tokens to few, every second one by sections; first, no demonstrations."""
        n_mutable = max(1, len(self.tokens.mutable))
        shares = np.geomspace(0.8, max(1, self.options.min_tokens) / n_mutable, n)
        masks = [self._thinned(float(share), i % 2 == 1) for i, share in enumerate(shares)]
        if len(self.tokens.starts) > 1:
            masks = [tuple(i < self.tokens.starts[1] for i in range(len(self.tokens.tokens))), *masks]
        return masks

    def _thinned(self, share: float, by_section: bool) -> Mask:
        """Return a mask that keeps about a share of the mutable tokens: whole sections, or single tokens."""
        rng = self.study.rng
        units = self.sections if by_section else tuple((i,) for i in self.tokens.mutable)
        n_kept = max(1, round(share * len(units)))
        gone = {i for unit in rng.permutation(len(units))[n_kept:] for i in units[unit]}
        return tuple(i not in gone for i in range(len(self.tokens.tokens)))

    # Breeding --------------------------------------------------------------------------------------

    async def _generation(self, q: int) -> list[Entry]:
        """Return the scored children of a generation (GGA): one batch, or two by halving."""
        drafts: dict[str, _Draft] = {}
        for _ in range(q):
            draft = self._child(tournament(self.population, self._draws(len(self.population))), drafts)
            if draft is not None:
                drafts[draft.candidate.id] = draft
        if self.options.is_halving:
            return await self._score_by_halves(list(drafts.values()))
        return await self._score(list(drafts.values()))

    async def _steady_state(self, q: int) -> list[Entry]:
        """Return the scored children of q slots, each of which may be a parent at once (SSGA)."""
        pool = list(self.population)
        pending: dict[str, _Draft] = {}
        for _ in range(q):
            draws = self._draws(len(pool) + len(pending))
            if max(draws) >= len(pool):
                pool += await self._score(list(pending.values()))
                pending = {}
            draft = self._child(tournament(pool, draws), pending)
            if draft is not None:
                pending[draft.candidate.id] = draft
        pool += await self._score(list(pending.values()))
        return pool[len(self.population) :]

    def _draws(self, n: int) -> list[int]:
        """Return the indices of a tournament among n, drawn with replacement."""
        n_draws = max(1, int(self.options.tournament * n))
        return [int(i) for i in self.study.rng.integers(n, size=n_draws)]

    def _child(self, parent: Entry, pending: Mapping[str, _Draft]) -> _Draft | None:
        """Return a child with fewer tokens; None if none can go, it is not new, or the gate refuses it."""
        gone = self._dropped([i for i in self.tokens.mutable if parent.mask[i]])
        if not gone:
            return None
        mask = tuple(keeps and i not in gone for i, keeps in enumerate(parent.mask))
        child = self._candidate(mask, parent.candidate)
        if child is None or child.id in self.known or child.id in pending:
            return None
        return _Draft(child, mask)

    def _dropped(self, kept: Sequence[int]) -> set[int]:
        """Return which of the kept mutable tokens a mutation drops, never all of them; empty = none can go."""
        rng = self.study.rng
        kind = rng.random()
        if kind < self.options.p_section:
            parts = [part for part in (set(kept) & set(section) for section in self.sections) if part]
            part = parts[int(rng.integers(len(parts)))] if parts else set()
            return part if len(part) < len(kept) else set()
        n = self._n_dropped(len(kept))
        if kind < self.options.p_section + self.options.p_run:
            start = int(rng.integers(len(kept) - n + 1))
            return set(kept[start : start + n])
        return {kept[i] for i in rng.permutation(len(kept))[:n]}

    def _n_dropped(self, n_kept: int) -> int:
        """Return how many of the kept mutable tokens to drop, fewer than all; 0 = none can go."""
        rng = self.study.rng
        if self.options.max_bits is None:
            most = n_kept // 2
            return min(most, int(math.exp(rng.random() * math.log(most + 1))))
        tries = (int(rng.integers(1, self.options.max_bits + 1)) for _ in range(_MOST_TRIES))
        return next((n for n in tries if n < n_kept), 0)

    def _candidate(self, mask: Mask, parent: Candidate) -> Candidate | None:
        """Return the prompt of the kept tokens; None if the gate refuses it."""
        if all(mask):
            return self.start
        prompt = self.tokens.prompt(mask)
        return self.study.candidate(prompt.instruction, prompt.demos, parents=[parent], operator="pruning")

    # Scoring ---------------------------------------------------------------------------------------

    async def _score(self, drafts: Sequence[_Draft]) -> list[Entry]:
        """Return entries for new prompts, scored in one batch on all of the search set."""
        if not drafts:
            return []
        values = await self.fitness.values(self.study, [draft.candidate for draft in drafts], self.examples)
        return self._record(drafts, mean_fitness(values, self.reference), self._first_halves(values))

    async def _score_by_halves(self, drafts: Sequence[_Draft]) -> list[Entry]:
        """Return entries; those that are worse on the first half than every member get no second one."""
        if not drafts:
            return []
        candidates = [draft.candidate for draft in drafts]
        bar = min(member.first_half for member in self.population)
        first = self._first_halves(await self.fitness.values(self.study, candidates, self.examples[: self._half]))
        is_full = first >= bar
        fitness = first.copy()
        if is_full.any():
            promoted = [candidates[i] for i in np.flatnonzero(is_full)]
            values = await self.fitness.values(self.study, promoted, self.examples)
            fitness[is_full] = mean_fitness(values, self.reference)
        return self._record(drafts, fitness, first, is_full)

    @property
    def _half(self) -> int:
        return math.ceil(len(self.examples) / 2)

    def _first_halves(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return mean_fitness(values[:, : self._half], self.reference[: self._half])

    def _record(
        self,
        drafts: Sequence[_Draft],
        fitness: NDArray[np.float64],
        first: NDArray[np.float64],
        is_full: NDArray[np.bool_] | None = None,
    ) -> list[Entry]:
        whole = np.ones(len(drafts), dtype=bool) if is_full is None else is_full
        rows = zip(drafts, fitness.tolist(), first.tolist(), whole.tolist(), strict=True)
        entries = [Entry(draft.candidate, draft.mask, *row) for draft, *row in rows]
        self.history += entries
        self.known.update((entry.candidate.id, entry) for entry in entries)
        return entries


@dataclass(frozen=True)
class _Draft:
    """A child that is not scored yet."""

    candidate: Candidate
    mask: Mask


def tournament(population: Sequence[Entry], draws: Sequence[int]) -> Entry:
    """Return the fittest of the members drawn, the first drawn on ties."""
    return max((population[i] for i in draws), key=_rank)


def survivors(
    population: Sequence[Entry], children: Sequence[Entry], p: int, q: int, survival: str
) -> list[Entry]:
    """Return the next population, fittest first: the best p of all, or of the last q where members age."""
    pool = [*population, *children]
    return sorted(pool[-q:] if survival == "aging" else pool, key=_rank, reverse=True)[:p]


def elites(history: Sequence[Entry], share: float) -> list[Entry]:
    """Return the best share of all fully scored prompts, rounded up, with ties; fittest first, then shorter."""
    order = sorted((e for e in history if e.is_full), key=lambda e: (-e.fitness, e.n_kept))
    n = math.ceil(share * len(order))
    return [e for e in order if e.fitness >= order[n - 1].fitness]


def _rank(entry: Entry) -> tuple[bool, float]:
    return entry.is_full, entry.fitness
