"""CAPO: cost-aware prompt optimization by evolution, racing and a length penalty.

Zehle, Schlager, Heiß, Feurer: "CAPO: Cost-Aware Prompt Optimization", AutoML 2025, arXiv 2504.16005.
A population of (instruction, demonstrations) pairs is crossed over and mutated by a model; parents and
children race on blocks of dev examples, where longer prompts carry a penalty.

Deviations from the paper, all switchable where they change results:
- The race is the sound one of `promptopt.stats`; `race="paired-t"` takes the paper's test at alpha = .2.
- One initial prompt instead of a written pool: the model writes the other members from it.
- Sizes scale to the budget unless they are given; `preset=paper` takes the published ones. With few calls
  many children on few examples found more than few on many (benchmarks/landscapes.py, seeds 100 to 115).
- The model that writes the first population sees five examples of train (`n_shown=0`: the paper's way).
- The first members get 0 to `max_shots` demonstrations, evenly spread; the paper draws each number at random.
- The incumbent is chosen by mean score over all evaluated dev examples, shrunk towards the population's
  mean, since a newcomer with one lucky block would otherwise win; the paper does not shrink.
- A reply without tags is asked for once more and then discarded, never taken as an instruction.
- No prompt shows an example twice; a wrong or unparseable answer is never mapped to a class.
- With several objectives (`--objectives`), survivors are chosen by non-dominated sorting and crowding distance
  (NSGA-II: Deb et al., IEEE Transactions on Evolutionary Computation 6, 2002, 182-197) instead of by mean score; a
  prompt leaves a race only when as many others as survive dominate it, there is no length penalty, and the
  incumbent is the front's prompt with the best score.
- The run stops when `patience` steps brought no new prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np

from promptopt.demonstration import demonstrate, not_shown, plain_output
from promptopt.option import check_range
from promptopt.stats import RULES, Betting, Predictive, Rule
from promptopt.study import Study
from promptopt.template import render_demo
from promptopt.types import Candidate, Demo, Example, Role

VARY = """You improve instructions for a language model.
Task: {description}

Here is an instruction for this task:
<prompt>
{instruction}
</prompt>
{examples}
Write another instruction for the same task that might work better: clear, complete, your own approach.
{demands}
Put the instruction between <prompt> and </prompt>."""

CROSSOVER = """You combine instructions for a language model.
Task: {description}

First instruction:
<prompt>
{mother}
</prompt>

Second instruction:
<prompt>
{father}
</prompt>

Merge both into one coherent instruction that keeps the helpful wording of each.
{demands}
Put the merged instruction between <prompt> and </prompt>."""

MUTATION = """You rephrase instructions for a language model.
Task: {description}

Here is an instruction for this task:
<prompt>
{instruction}
</prompt>

Write an instruction with the same meaning in a clearly different style.
{demands}
Put the instruction between <prompt> and </prompt>."""


@dataclass(frozen=True)
class Capo:
    """Evolution of instructions and demonstrations with racing (CAPO, arXiv 2504.16005).

    Args:
        population_size: members kept after each step (paper: 10); None = scaled to the budget.
        n_crossovers: children per step (paper: 4); None = scaled to the budget.
        max_shots: most demonstrations of a prompt; 0 = none at all.
        n_shown: examples of train that the model sees when it writes the first population (paper: 0).
        n_dev: dev examples to race on; None = scaled to the budget, at most all.
        block_size: examples per block of a race (paper: 30); None = chosen from their number.
        max_blocks: most blocks of a race (paper: 10); None = all.
        length_penalty: score that a prompt of the reference length loses in races (gamma).
        alpha: chance of losing a given survivor in a race, for the rules predictive and betting.
        eps: score difference in such a race below which it does not matter who survives.
        race: rule of the races, see docs/racing.md; paired-t = the paper's, alpha = .2, no correction.
        shuffles_blocks: False = the same order in every race, the last incomplete block left out (paper).
        has_reasoning: demonstrations carry the model's own reply where it is right.
        shrinkage: weight of the population's mean in an incumbent's score, in examples; 0 = none (paper).
            30: scores differ by less than .001 between 10 and 60, and lucky first blocks lead less often.
        patience: steps without a new prompt after which the search ends.
    """

    population_size: int | None = None
    n_crossovers: int | None = None
    max_shots: int = 5
    n_shown: int = 5
    n_dev: int | None = None
    block_size: int | None = None
    max_blocks: int | None = None
    length_penalty: float = 0.05
    alpha: float = 0.2
    eps: float = 0.02
    race: Literal["predictive", "betting", "paired-t", "halving"] = "predictive"
    shuffles_blocks: bool = True
    has_reasoning: bool = True
    shrinkage: float = 30.0
    patience: int = 5

    source: ClassVar[str] = "Zehle et al. 2025, arXiv 2504.16005"
    requires: ClassVar[frozenset[str]] = frozenset({"labels", "optimizer model"})
    objectives: ClassVar[frozenset[str]] = frozenset({"score", "prompt_tokens", "cost"})
    usual_calls: ClassVar[str] = "from 150; about 20,000 at the paper's settings"
    when: ClassVar[str] = "labels at hand; demonstrations and wording matter; short prompts wanted"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType(
        {
            "paper": MappingProxyType(
                {
                    **{"population_size": 10, "n_crossovers": 4, "block_size": 30, "max_blocks": 10},
                    **{
                        "race": "paired-t",
                        "shuffles_blocks": False,
                        "shrinkage": 0.0,
                        "n_dev": 10**9,
                        "n_shown": 0,
                    },
                }
            )
        }
    )

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        check_range(self, "population_size", at_least=2)
        check_range(self, "n_crossovers", "n_dev", "block_size", "max_blocks", "patience", at_least=1)
        check_range(self, "max_shots", "n_shown", "length_penalty", "shrinkage", at_least=0)
        check_range(self, "alpha", above=0, below=0.5)
        check_range(self, "eps", at_least=0, below=1)

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense: one step of the smallest population."""
        mu, c, n_dev = self._sizes(1)
        return (mu - 1) + 2 * c + (mu + c) * min(n_dev, 12)

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role for a search of `n_calls`."""
        mu, c, n_dev = self._sizes(n_calls)
        per_step = 2 * c + c * n_dev // 2
        n_steps = max(1, (n_calls - mu * n_dev) // max(1, per_step))
        n_written = min(n_calls, mu - 1 + 2 * c * n_steps)
        return {"optimizer": n_written, "task": n_calls - n_written}

    async def optimize(self, study: Study) -> Candidate:
        """Evolve a population until the budget ends or nothing new appears; return its best member."""
        mu, c, n_dev = self._sizes(study.size.n_calls)
        dev = _sample(study, study.task.dev, n_dev)
        study.propose(study.initial)
        population = await self._initial_population(study, mu)
        longest = max(study.tokens(member) for member in population)
        study.note("length reference", tokens=longest)
        seen = {member.id for member in population}
        n_idle, best = 0, study.initial
        while n_idle < self.patience:
            children = await self._mutate(study, await self._crossover(study, population, c))
            new = {child.id: child for child in children if child.id not in seen}
            seen.update(new)
            n_idle = 0 if new else n_idle + 1
            population = await self._race(study, [*population, *new.values()], mu, dev, longest)
            best = self._best(study, population, dev)
            study.propose(best)
        return best

    def _sizes(self, n_calls: int) -> tuple[int, int, int]:
        """Return population size, children per step and dev examples for a search of `n_calls`."""
        mu = self.population_size or min(10, max(4, round(math.sqrt(n_calls) / 6)))
        c = self.n_crossovers or mu
        n_dev = self.n_dev or max(20, round(math.sqrt(n_calls)))
        return mu, c, n_dev

    async def _initial_population(self, study: Study, mu: int) -> list[Candidate]:
        """Return the user's prompt, and members that the model writes from it, with demonstrations."""
        initial = study.initial

        async def member(branch: Study, i_member: int) -> Candidate | None:
            text = await branch.write(
                VARY,
                "prompt",
                description=_description(branch),
                instruction=initial.prompt.instruction,
                examples=self._shown_examples(branch),
                demands=branch.demands,
            )
            if text is None:
                return None
            n_shots = round(self.max_shots * i_member / (mu - 1))
            shots = await self._make_shots(branch, text, n_shots, ())
            return branch.candidate(text, shots, parents=[initial], operator="variation")

        written = await study.map(member, range(1, mu))
        members = {initial.id: initial} | {child.id: child for child in written if child is not None}
        if len(members) < 2:  # a model that only echoes: demonstrations still make a second member
            shots = await self._make_shots(study, initial.prompt.instruction, self.max_shots, ())
            second = study.candidate(initial.prompt.instruction, shots, parents=[initial], operator="shots")
            members |= {second.id: second} if second else {}
        return list(members.values())

    def _shown_examples(self, study: Study) -> str:
        """Return examples of train for the model that writes the first population; "" if none are wanted."""
        rows = [study.task.train[i] for i in study.rng.permutation(len(study.task.train))[: self.n_shown]]
        shown = (render_demo(demonstrate(study.task, row, row.target or "")) for row in rows)
        return "\n\n".join(["\nExamples with their right outputs:", *shown, ""]) if rows else ""

    async def _crossover(self, study: Study, population: Sequence[Candidate], c: int) -> list[_Draft]:
        """Return `c` drafts merged from random pairs, with half of both parents' demonstrations."""

        async def child(branch: Study, _: int) -> _Draft | None:
            pair = branch.rng.choice(len(population), 2, replace=len(population) < 2)
            mother, father = (population[i] for i in pair)
            text = await branch.write(
                CROSSOVER,
                "prompt",
                description=_description(branch),
                mother=mother.prompt.instruction,
                father=father.prompt.instruction,
                demands=branch.demands,
            )
            if text is None:
                return None
            n_shots = (len(mother.prompt.demos) + len(father.prompt.demos)) // 2
            shots = _distinct((*mother.prompt.demos, *father.prompt.demos))
            picked = branch.rng.permutation(len(shots))[:n_shots]
            return _Draft(text, tuple(shots[i] for i in picked), (mother, father))

        drafts = await study.map(child, range(c))
        return [draft for draft in drafts if draft is not None]

    async def _mutate(self, study: Study, drafts: Sequence[_Draft]) -> list[Candidate]:
        """Return the drafts rephrased, with a demonstration added, dropped or neither, in random order."""

        async def child(branch: Study, draft: _Draft) -> Candidate | None:
            text = await branch.write(
                MUTATION,
                "prompt",
                description=_description(branch),
                instruction=draft.instruction,
                demands=branch.demands,
            )
            if text is None:
                return None
            shots, u = list(draft.shots), branch.rng.random()
            if u < 1 / 3 and len(shots) < self.max_shots:
                shots += await self._make_shots(branch, text, 1, shots)
            elif 1 / 3 <= u < 2 / 3 and shots:
                del shots[int(branch.rng.integers(len(shots)))]
            shots = [shots[i] for i in branch.rng.permutation(len(shots))]
            return branch.candidate(text, shots, parents=draft.parents, operator="crossover and mutation")

        children = await study.map(child, drafts)
        return [child for child in children if child is not None]

    async def _make_shots(self, study: Study, instruction: str, n: int, shots: Sequence[Demo]) -> list[Demo]:
        """Return `n` new demonstrations from train, with the model's own reply where it is right."""
        pool = not_shown(study.task, study.task.train, shots)
        rows = [pool[i] for i in study.rng.permutation(len(pool))[:n]]
        outputs = [plain_output(instruction, row) for row in rows]
        bare = study.candidate(instruction, operator="bare instruction") if rows else None
        if self.has_reasoning and bare is not None:
            table = await study.evaluate([bare], rows)
            replies = zip(table.values[0], table.outputs[0], outputs, strict=True)
            outputs = [reply if score == 1 and reply else plain for score, reply, plain in replies]
        return [demonstrate(study.task, row, output.strip()) for row, output in zip(rows, outputs, strict=True)]

    def _rule(self) -> Rule:
        """Return who has to leave a race."""
        if self.race == "predictive":
            return Predictive(self.alpha, self.eps)
        return Betting(self.alpha, self.eps, protect="each") if self.race == "betting" else RULES[self.race]

    async def _race(
        self, study: Study, members: Sequence[Candidate], mu: int, dev: Sequence[Example], longest: int
    ) -> list[Candidate]:
        has_front = len(study.objectives) > 1
        penalty = 0.0 if has_front else self.length_penalty
        survivors = await study.race(
            members,
            keep=mu,
            examples=dev,
            rule=self._rule(),
            penalties=[penalty * study.tokens(member) / max(1, longest) for member in members],
            block=self.block_size,
            max_blocks=self.max_blocks,
            is_shuffled=self.shuffles_blocks,
            drops_remainder=not self.shuffles_blocks,
            by_fronts=has_front,
        )
        return list(survivors.candidates)

    def _best(self, study: Study, population: Sequence[Candidate], dev: Sequence[Example]) -> Candidate:
        """Return the member with the best shrunk mean over its evaluated examples; ties to the first.

        Who was evaluated on less than half as many examples as another cannot lead yet.
        """
        if len(study.objectives) > 1:
            return study.front(population)[0]
        values = study.scores(population, dev).values
        seen = ~np.isnan(values)
        if not seen.any():
            return population[0]
        prior = float(values[seen].mean())
        sums = np.where(seen, values, 0).sum(axis=1) + self.shrinkage * prior
        counts = seen.sum(axis=1) + self.shrinkage
        is_seen_enough = 2 * seen.sum(axis=1) >= seen.sum(axis=1).max()
        means = np.where(is_seen_enough, sums / np.maximum(counts, 1e-9), -1.0)
        return population[int(np.argmax(means))]


@dataclass(frozen=True)
class _Draft:
    """A crossed-over child before its mutation."""

    instruction: str
    shots: tuple[Demo, ...]
    parents: tuple[Candidate, ...]


def _description(study: Study) -> str:
    return study.task.description or "see the instruction"


def _sample(study: Study, examples: Sequence[Example], n: int) -> list[Example]:
    order = study.rng.permutation(len(examples))[: min(n, len(examples))]
    return [examples[i] for i in sorted(order)]


def _distinct(shots: Sequence[Demo]) -> tuple[Demo, ...]:
    return tuple({shot.inputs: shot for shot in shots}.values())
