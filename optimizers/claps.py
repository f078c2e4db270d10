"""ClaPS: search over a few words before the prompt, in a vocabulary that is clustered and pruned first.

Zhou, Wan, Vulić, Korhonen: "Survival of the Most Influential Prompts: Efficient Black-Box Prompt Search via
Clustering and Pruning", Findings of EMNLP 2023, arXiv 2310.12774.
Words are clustered to representatives; each of these is put alone before the prompt to measure its influence on
the labels' probabilities; the most influential ones remain, and a simple search over strings of K of them
follows. No model writes anything. The words stand on a line of their own before the user's prompt, which stays.

Deviations, also of `preset=paper`:
- Words, not token ids: vocabulary entries of letters alone, joined by blanks, so that what was scored is what is
  returned. They come from the task's own text and a word list (the tokenizer's where it is known, see
  promptopt.vocabulary); the paper takes the tokenizer's alone.
- Clusters are of the words' vectors from an embedding endpoint or of their spelling, not of the model's own.
- Few-shot examples are drawn from train by seed; dev validates; the published code validates on train.
- Cross-entropy is that of the log-probabilities; `reward=double_softmax` is the published code's.
- Crossover mixes two parents by position; `crossover=copy` returns one of them, as the published code does.
  Mutation reaches every position. What an epoch records is its own best string.
- Who was scored is not scored again; particles are moved together, an epoch at a time, on copies.
- Where no influence lies above the percentile, for all are the same, the first words by rank are kept.
- The chosen string must beat the user's own prompt on dev; ties go to the shorter prompt.
- Calibration is reported only: z-scores of log-probabilities cannot be part of a prompt.

Further deviations of the defaults, each with its option:
- Sizes scale to the budget of n calls: 0.3 sqrt(n) few-shot examples, at least 8; 40% of the calls for influence;
  20%, at most, for the choice on dev; the rest for the search.
- Words are screened on half of the few-shot examples, and the best quarter is measured on all.
- Greedy search, as in the published demonstration; its first step is known from the influence.
- The gap is the reward: it tells near misses from far ones, and its bounds keep single examples from deciding.
- The mean reward on dev, not the accuracy, tells finalists apart, since it is less noisy.

Words can tip a small model's balance between labels, and do so little else: on the simulator, whose model wants
advice in sentences, the search ends where it began.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptopt import reward as rewards
from promptopt.embedding import representatives
from promptopt.option import check_range
from promptopt.prefix import Floats, Ids, PrefixScorer, RewardKind, mean_rewards, reward_rows
from promptopt.pruning import balanced
from promptopt.study import Study
from promptopt.types import Candidate, Example, Role

_INFLUENCE_SHARE = 0.4  # of the calls; the rest but for the choice goes to the search
_CHOICE_SHARE = 0.2
_PROMOTED = 4  # one of so many words is measured on all few-shot examples
_LEAST_ITEMS, _LEAST_WORDS, _LEAST_STRINGS, _LEAST_CHOICE = 8, 24, 15, 12
# Published limits of the swarm: velocities of the start, pulls, and where its weights begin and end.
_START_VELOCITY = _PULL = 3.0
_INERTIA, _OWN, _GLOBAL = (0.8, 0.2), (0.8, 0.2), (0.2, 0.8)


class Sizes(NamedTuple):
    """How large each stage is.

    Args:
        n_words: representatives whose influence is measured.
        n_items: few-shot examples, of train.
        n_strings: strings of words that the search may score.
        n_kept: words that pruning leaves where no percentile is given.
        n_choice: dev examples that choose among the finalists.
    """

    n_words: int
    n_items: int
    n_strings: int
    n_kept: int
    n_choice: int


@dataclass(frozen=True)
class Claps:
    """Search over words before the prompt, in a clustered and pruned vocabulary (ClaPS, arXiv 2310.12774).

    Args:
        n_tokens: words before the prompt, K.
        search: greedy appends the best word, K times; genetic, swarm and random score strings of K words.
        reward: of a string on an example: gap = RLPrompt's margin of the right label, cross_entropy (paper) = its
            log-probability, entropy = certainty of any label, double_softmax = cross_entropy as published.
        influence: of a word: reward = what it adds, signed; kl = how far it moves the labels, either way.
        percentile: words strictly above this percentile of influence remain (paper: 99); None = as many as the
            search affords, at most a fifth.
        n_words: representatives, clusters of the vocabulary (paper: 2000); None = scaled to the budget.
        n_shots: few-shot examples per label (paper: 16); None = scaled to the budget, 8 or more in all.
        screens: measure all words on half of the examples, the best quarter on all; False = all on all (paper).
        clusters: False = representatives are drawn at random, as a control.
        population_size: strings of a first generation, or particles (paper: 128); None = scaled.
        n_mutants: of a generation (paper: 64); None = half the population.
        n_crossovers: of a generation (paper: 64); None = half the population.
        n_epochs: generations at most (paper: 30); None = until the search's share is used.
        elite_share: of a generation that survives and has children (paper: 0.1).
        mutation_rate: chance of each word of a mutant to change (paper: 0.1).
        crossover: uniform = each word from either parent; copy = one parent unchanged (published code).
        patience: epochs without a better string after which the search ends; None = never (paper).
        select: what tells finalists apart on dev: their mean reward, or their accuracy (paper).
        n_finalists: best strings of epochs that are compared on dev (paper: all).
        n_choice: dev examples for that; None = scaled to the budget.
        calibrates: journal the accuracy on dev if each label's log-probability were standardised by its mean and
            deviation over dev inputs; changes nothing that is returned.
    """

    n_tokens: int = 5
    search: Literal["greedy", "genetic", "swarm", "random"] = "greedy"
    reward: RewardKind = "gap"
    influence: Literal["reward", "kl"] = "reward"
    percentile: float | None = None
    n_words: int | None = None
    n_shots: int | None = None
    screens: bool = True
    clusters: bool = True
    population_size: int | None = None
    n_mutants: int | None = None
    n_crossovers: int | None = None
    n_epochs: int | None = None
    elite_share: float = 0.25
    mutation_rate: float = 0.3
    crossover: Literal["uniform", "copy"] = "uniform"
    patience: int | None = 5
    select: Literal["reward", "accuracy"] = "reward"
    n_finalists: int = 3
    n_choice: int | None = None
    calibrates: bool = False

    source: ClassVar[str] = "Zhou et al. 2023, arXiv 2310.12774"
    requires: ClassVar[frozenset[str]] = frozenset({"labels", "log-probabilities"})
    prefers: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    usual_calls: ClassVar[str] = "1,000 to 10,000; the paper's sizes take 200,000"
    when: ClassVar[str] = "classification by a small model that reports log-probabilities; odd prompts are fine"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType(
        {
            "paper": MappingProxyType(
                {
                    **{"search": "genetic", "reward": "cross_entropy", "percentile": 99.0, "n_words": 2000},
                    **{"n_shots": 16, "screens": False, "population_size": 128, "n_mutants": 64},
                    **{"n_crossovers": 64, "n_epochs": 30, "elite_share": 0.1, "mutation_rate": 0.1},
                    **{"patience": None, "select": "accuracy", "n_finalists": 10**9, "n_choice": 10**9},
                }
            )
        }
    )

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        check_range(self, "n_words", "population_size", at_least=2)
        check_range(self, "n_tokens", "n_shots", "n_epochs", "patience", "n_finalists", "n_choice", at_least=1)
        check_range(self, "n_mutants", "n_crossovers", at_least=0)
        check_range(self, "percentile", at_least=0, below=100)
        check_range(self, "elite_share", above=0, at_most=1)
        check_range(self, "mutation_rate", at_least=0, at_most=1)

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense: few words, few strings, on few examples."""
        n_items = _LEAST_ITEMS if self.n_shots is None else 2 * self.n_shots
        n_strings = _LEAST_STRINGS
        if self.search in ("genetic", "swarm"):
            n_strings = self.population_size or _LEAST_STRINGS
        n_probes = self._influence_calls(self.n_words or _LEAST_WORDS, n_items)
        return n_probes + n_strings * n_items + 4 * _LEAST_CHOICE

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role for a search of `n_calls`; embeddings are not counted."""
        return {"task": n_calls}

    async def optimize(self, study: Study) -> Candidate:
        """Cluster the vocabulary, prune it, search in what is left; return the string that wins on dev."""
        study.propose(study.initial)
        sizes = self._sizes(study)
        items = tuple(balanced(study, study.task.train)[: sizes.n_items])
        words = await self._representatives(study, sizes.n_words)
        study.note("representatives", sizes=sizes._asdict(), words=words)
        base = (await reward_rows(study, [study.initial], items, self.reward))[0]
        scorer = PrefixScorer(study, words, items, self.reward, base)
        kept = await self._prune(scorer, sizes.n_kept)
        await self._search(scorer, kept, sizes.n_strings)
        order = study.rng.permutation(len(study.task.dev))[: sizes.n_choice]
        dev = [study.task.dev[i] for i in sorted(order)]
        best = await self._select(scorer, dev)
        study.propose(best)
        if self.calibrates:
            await _report_calibration(study, best, dev)
        return best

    # Sizes ------------------------------------------------------------------------------------------

    def _sizes(self, study: Study) -> Sizes:
        """Return the sizes for the search that the study affords."""
        n, task = study.size.n_calls, study.task
        n_items = max(_LEAST_ITEMS, round(0.3 * math.sqrt(n)))
        if self.n_shots is not None:
            n_items = self.n_shots * len(task.labels)
        n_items = min(n_items, len(task.train))
        per_word = self._influence_calls(1000, n_items) / 1000
        n_words = self.n_words or max(_LEAST_WORDS, int(_INFLUENCE_SHARE * n / per_word))
        n_prompts = min(self.n_finalists, self.n_tokens if self.search == "greedy" else 10) + 1
        n_choice = self.n_choice or max(_LEAST_CHOICE, int(_CHOICE_SHARE * n) // n_prompts)
        n_choice = min(n_choice, len(task.dev))
        left = n - self._influence_calls(n_words, n_items) - n_prompts * n_choice
        n_strings = max(_LEAST_STRINGS, left // max(1, n_items))
        # Greedy search has the rewards of single words from their influence: K - 1 steps remain.
        n_kept = min(max(2, n_strings // max(1, self.n_tokens - 1)), max(2, n_words // 5))
        return Sizes(n_words, n_items, n_strings, n_kept, n_choice)

    def _influence_calls(self, n_words: int, n_items: int) -> int:
        """Return the calls that measuring `n_words` takes, with the bare prompt's."""
        if not self.screens:
            return (n_words + 1) * n_items
        half = n_items // 2
        return n_words * half + -(-n_words // _PROMOTED) * (n_items - half) + n_items

    # Vocabulary -------------------------------------------------------------------------------------

    async def _representatives(self, study: Study, k: int) -> tuple[str, ...]:
        """Return at most `k` words that stand for the vocabulary; all of it where it has no more."""
        words = study.words()
        if k >= len(words):
            return words
        if not self.clusters:
            return tuple(words[i] for i in sorted(study.rng.permutation(len(words))[:k]))
        seed = int(study.rng.integers(2**31))
        return tuple(words[i] for i in representatives(await study.embed(words), k, seed))

    async def _prune(self, scorer: PrefixScorer, n_kept: int) -> Ids:
        """Return the words of most influence."""
        ids = np.arange(len(scorer.words))
        n_items = len(scorer.items)
        if self.percentile is not None:
            n_kept = max(1, math.ceil((1 - self.percentile / 100) * len(ids)))
        if self.screens:
            first = await self._influence(scorer, ids, n_items // 2)
            n_promoted = max(n_kept, -(-len(ids) // _PROMOTED))
            ids = ids[np.argsort(-first, kind="stable")[:n_promoted]]
        values = await self._influence(scorer, ids, n_items)
        is_strict = self.percentile is not None and not self.screens
        order = (
            above_percentile(values, self.percentile or 0.0) if is_strict else np.argsort(-values, kind="stable")
        )
        kept = order if is_strict else order[:n_kept]
        scorer.study.note("pruned", words=[scorer.words[i] for i in ids[kept]], influence=values[kept].tolist())
        return tuple(int(i) for i in ids[kept])

    async def _influence(self, scorer: PrefixScorer, ids: NDArray[np.intp], n_items: int) -> Floats:
        """Return float[len(ids)], the influence of single words on the first `n_items` examples."""
        strings = [(int(i),) for i in ids]
        if self.influence == "kl":
            return await scorer.divergences(strings, n_items)
        return await scorer.rewards(strings, n_items) - scorer.bare(n_items)

    # Search -----------------------------------------------------------------------------------------

    async def _search(self, scorer: PrefixScorer, kept: Ids, n_strings: int) -> None:
        """Score strings of `kept`; `scorer.found` gets the best of each epoch."""
        if self.search == "greedy":
            await self._greedy(scorer, kept)
        elif self.search == "genetic":
            await self._genetic(scorer, kept, n_strings)
        elif self.search == "swarm":
            await self._swarm(scorer, kept, n_strings)
        else:
            n = n_strings if self.n_epochs is None else self.n_epochs * self._population_size(n_strings)
            strings = list(dict.fromkeys(_random_strings(scorer.study, kept, self.n_tokens, n)))
            values = await scorer.means(strings)
            for i in np.argsort(-values, kind="stable"):
                scorer.record(strings[i], float(values[i]))

    async def _greedy(self, scorer: PrefixScorer, kept: Ids) -> None:
        """Append the word that gives the most, K times."""
        best: Ids = ()
        for _ in range(self.n_tokens):
            strings = [(*best, word) for word in kept]
            values = await scorer.means(strings)
            best = strings[int(np.argmax(values))]
            scorer.record(best, float(values.max()))

    async def _genetic(self, scorer: PrefixScorer, kept: Ids, n_strings: int) -> None:
        """Evolve strings: an elite, its mutants and its crossovers make the next generation."""
        size = self._population_size(n_strings)
        population = _random_strings(scorer.study, kept, self.n_tokens, size)
        n_mutants = size // 2 if self.n_mutants is None else self.n_mutants
        n_crossovers = size // 2 if self.n_crossovers is None else self.n_crossovers
        while self._goes_on(scorer, population, n_strings):
            values = await scorer.means(population)
            order = np.argsort(-values, kind="stable")
            scorer.record(population[order[0]], float(values[order[0]]))
            elite = [population[i] for i in order[: max(1, int(self.elite_share * len(population)))]]
            mutants = [self._mutated(scorer.study, elite, kept) for _ in range(n_mutants)]
            crossed = [self._crossed(scorer.study, elite) for _ in range(n_crossovers)]
            population = [*elite, *mutants, *crossed]

    def _mutated(self, study: Study, elite: Sequence[Ids], kept: Ids) -> Ids:
        """Return a random member with each word replaced, by chance, by another of `kept`."""
        parent = elite[int(study.rng.integers(len(elite)))]
        child = []
        for word in parent:
            others = [other for other in kept if other != word]
            is_replaced = bool(others) and study.rng.random() < self.mutation_rate
            child.append(others[int(study.rng.integers(len(others)))] if is_replaced else word)
        return tuple(child)

    def _crossed(self, study: Study, elite: Sequence[Ids]) -> Ids:
        """Return a child of two random members, distinct if there are two: each word from one of them."""
        n_parents = min(2, len(elite))
        mother, *rest = [elite[int(i)] for i in study.rng.permutation(len(elite))[:n_parents]]
        father = rest[0] if rest else mother
        if self.crossover == "copy":
            return mother
        is_hers = study.rng.random(len(mother)) < 0.5
        return tuple(a if hers else b for a, b, hers in zip(mother, father, is_hers, strict=True))

    async def _swarm(self, scorer: PrefixScorer, kept: Ids, n_strings: int) -> None:
        """Move particles towards the best string of each and of all (discrete particle swarm)."""
        rng, size = scorer.study.rng, self._population_size(n_strings)
        n_epochs = self.n_epochs or max(2, n_strings // size)
        place = np.array(_random_strings(scorer.study, kept, self.n_tokens, size))
        velocity = np.repeat(rng.uniform(-_START_VELOCITY, _START_VELOCITY, (size, 1)), self.n_tokens, axis=1)
        own, own_value = place.copy(), np.full(size, -np.inf)
        i_epoch = 0
        while self._goes_on(scorer, _strings(place), n_strings):
            values = await scorer.means(_strings(place))
            is_better = values > own_value
            own[is_better], own_value[is_better] = place[is_better], values[is_better]
            leader = int(np.argmax(own_value))
            scorer.record(_strings(own)[leader], float(own_value[leader]))
            best = np.broadcast_to(own[leader], place.shape)
            time = min(1.0, i_epoch / max(1, n_epochs - 1))
            inertia, p_own, p_global = (a + (b - a) * time for a, b in (_INERTIA, _OWN, _GLOBAL))
            pull = np.where(place == own, -_PULL, _PULL) + np.where(place == best, -_PULL, _PULL)
            velocity = inertia * velocity + (1 - inertia) * pull
            place = _moved(rng, place, ((own, p_own), (best, p_global)), velocity)
            is_mutant = rng.random(size) < self.mutation_rate
            at = rng.integers(self.n_tokens, size=size)
            place[is_mutant, at[is_mutant]] = rng.choice(kept, int(is_mutant.sum()))
            i_epoch += 1

    def _population_size(self, n_strings: int) -> int:
        return self.population_size or max(4, min(128, round(1.2 * math.sqrt(n_strings))))

    def _goes_on(self, scorer: PrefixScorer, population: Sequence[Ids], n_strings: int) -> bool:
        """Return whether a generation is to be scored: it is within the share, and there was progress."""
        n_epochs = len(scorer.found)
        if n_epochs >= (n_strings if self.n_epochs is None else self.n_epochs):
            return False
        if self.patience is not None and n_epochs - 1 - scorer.i_best >= self.patience:
            return False
        # A share is for sizes that scale to it; given numbers of epochs are kept.
        n_new = len(set(population) - set(scorer.known))
        return self.n_epochs is not None or n_epochs == 0 or scorer.n_scored + n_new <= n_strings

    # Choice -----------------------------------------------------------------------------------------

    async def _select(self, scorer: PrefixScorer, dev: Sequence[Example]) -> Candidate:
        """Return the finalist that is best on dev, or the user's prompt if that is better."""
        study = scorer.study
        # Later records first: of equals the last one wins.
        distinct = dict(reversed(scorer.found))
        ranked = sorted(distinct, key=lambda ids: -distinct[ids])[: self.n_finalists]
        finalists = [candidate for ids in ranked if (candidate := scorer.candidate(ids)) is not None]
        if self.select == "reward" and len(finalists) > 1:
            values = await reward_rows(study, finalists, dev, self.reward)
            means = mean_rewards(values, np.full(len(dev), np.nan))
            study.note("finalists", candidates=[c.id for c in finalists], rewards=means.tolist())
            finalists = [finalists[int(np.argmax(means))]]
        return await study.choose(finalists, dev)


def above_percentile(values: Floats, percentile: float) -> NDArray[np.intp]:
    """Return where `values` lie strictly above their percentile, the highest first.

    Where none does, since the highest are all the same: the first ones by rank, that share of them.
    """
    order = np.argsort(-values, kind="stable")
    n = int((values > np.percentile(values, percentile, method="lower")).sum())
    return order[: n or max(1, math.ceil((1 - percentile / 100) * len(values)))]


async def _report_calibration(study: Study, best: Candidate, dev: Sequence[Example]) -> None:
    """Journal the accuracy on dev with and without standardised log-probabilities, and the statistics."""
    logprobs = (await study.label_logprobs([best], dev))[0]
    known = ~np.isnan(logprobs).any(axis=1)
    if not known.any():
        return
    logprobs = logprobs[known]
    right = np.array([study.task.i_label(example) for example in dev], dtype=np.float64)[known]
    standard = rewards.standardised(logprobs, logprobs)
    study.note(
        "calibration",
        candidate=best.id,
        accuracy=float((logprobs.argmax(axis=1) == right).mean()),
        calibrated=float((standard.argmax(axis=1) == right).mean()),
        means=logprobs.mean(axis=0).tolist(),
        deviations=logprobs.std(axis=0).tolist(),
    )


def _random_strings(study: Study, kept: Ids, n_tokens: int, n: int) -> list[Ids]:
    return _strings(study.rng.choice(kept, (n, n_tokens)))


def _strings(rows: NDArray[np.int_]) -> list[Ids]:
    return [tuple(row) for row in rows.tolist()]


def _moved(
    rng: np.random.Generator,
    place: NDArray[np.int_],
    targets: Sequence[tuple[NDArray[np.int_], float]],
    velocity: Floats,
) -> NDArray[np.int_]:
    """Return particles moved to each target in turn: who moves, by its chance, copies a word by its velocity.

    Args:
        place: int[P, K], words of P particles; stays as it is.
        targets: (int[P, K], chance of a particle to move there).
        velocity: float[P, K]; a word is copied with chance 1 / (1 + exp(-velocity)).
    """
    copied = 1 / (1 + np.exp(-velocity))
    for target, chance in targets:
        moves = (rng.random(len(place)) < chance)[:, None] & (rng.random(place.shape) < copied)
        place = np.where(moves, target, place)
    return place
