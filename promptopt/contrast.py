"""Statistics on a comparison of strategies: means with intervals, ranks, paired tests.

Pure functions, no random numbers. What varies: a run is repeated over *seeds*, and its prompt is scored on *test
examples*; both are samples. The data sets are those that were given. So every figure speaks of these data sets,
with other seeds and other examples of theirs; only where data sets are the blocks of a test, of others too.

Symbols:

    y       score of one run's prompt on one test example, or a difference of two such scores
    s, e    seed, example; crossed where runs of several seeds are scored on the same examples
    w       weight of y in the mean: 1 / (data sets x seeds of its data set x examples of its run)
    k, N    number of strategies, number of blocks
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from promptopt.stats import LEVEL, SAME, Interval, score_interval, sign_flip_p, wilson_interval

Floats = NDArray[np.float64]
Row = Mapping[str, float]
"""Scores of one run, by test example."""
Block = tuple[str, int]
"""Name of a data set, and seed."""
Verdict = Literal["better", "worse", "undecided"]

# With fewer data sets the exact test on them can prove nothing: 2 / 2^5 = .063.
LEAST_DATA_BLOCKS = 6


# ------------------------------------------------------------------------------- a mean with its interval


@dataclass(frozen=True)
class Estimate:
    """A mean over data sets of the mean over seeds of the mean over test examples.

    Args:
        ci95: 95% interval, over seeds and test examples; over the examples alone where each data set has one seed.
        n_data: data sets.
        n_runs: runs, one for each data set and seed.
        n_answers: scores behind it.
    """

    value: float
    ci95: Interval
    n_data: int
    n_runs: int
    n_answers: int


def estimate(rows: Mapping[Block, Row], least: float = 0.0) -> Estimate | None:
    """Return the mean of scores with a t interval for two crossed samples; None = there are no scores.

    In each data set, y = mean + effect of the seed + effect of the example + rest, all independent. Their
    variances are estimated by the method of moments from half the mean squared difference of pairs (same seed,
    same example, neither), whichever examples the runs have in common; those below 0 count as 0. The variance of
    the mean follows from the weights, the degrees of freedom are Satterthwaite's. Where no score differs there is
    no variance to see: Wilson's interval, with the examples as the sample. One data set and one seed: the interval
    of that run's scores.
    References: Searle, Casella & McCulloch, Variance Components (1992) ch. 5; Satterthwaite, Biometrics Bulletin 2
    (1946) 110-114; examples as a crossed random effect: Clark, J. Verbal Learning 12 (1973) 335-359.

    Args:
        rows: of one strategy; or differences of two, with `least` -1.
        least: what y can be at least; 1 is the most.
    """
    rows = {block: row for block, row in rows.items() if row}
    if not rows:
        return None
    data = sorted({name for name, _ in rows})
    parts = [_Part.of([row for (name, _), row in rows.items() if name == own]) for own in data]
    value = math.fsum(part.mean for part in parts) / len(parts)
    variance = math.fsum(part.by_seed + part.by_example for part in parts) / len(parts) ** 2
    n_answers = sum(map(len, rows.values()))
    if len(rows) == 1 and least == 0.0:
        low, high = score_interval(list(next(iter(rows.values())).values()))
    elif variance <= SAME**2:
        low, high = _without_variance(value, sum(part.n_examples for part in parts), least)
    else:
        half = _t_quantile(variance, parts) * math.sqrt(variance)
        low, high = value - half, value + half
    return Estimate(value, (max(least, low), min(1.0, high)), len(data), len(rows), n_answers)


@dataclass(frozen=True)
class _Part:
    """One data set: its mean, and what seeds and examples add to the variance of it.

    Args:
        by_seed: the part whose degrees of freedom are the seeds', `n_seeds` - 1.
        by_example: the part whose degrees of freedom are the examples'.
    """

    mean: float
    by_seed: float
    by_example: float
    n_seeds: int
    n_examples: int

    @staticmethod
    def of(rows: Sequence[Row]) -> _Part:
        means = [math.fsum(row.values()) / len(row) for row in rows]
        weights: dict[str, float] = defaultdict(float)
        for row in rows:
            for example in row:
                weights[example] += 1 / (len(rows) * len(row))
        of_seed, of_example, rest = _components(rows)
        rest_weight = math.fsum(1 / (len(rows) ** 2 * len(row)) for row in rows)
        return _Part(
            mean=math.fsum(means) / len(means),
            by_seed=(of_seed / len(rows) + rest * rest_weight) if len(rows) > 1 else 0.0,
            by_example=of_example * math.fsum(w * w for w in weights.values())
            + (rest * rest_weight if len(rows) == 1 else 0.0),
            n_seeds=len(rows),
            n_examples=len(weights),
        )


def _components(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Return the variances of the seeds' effects, of the examples' effects, and of the rest, none below 0."""
    by_example: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for example, value in row.items():
            by_example[example].append(value)
    all_pairs = _pairs([[value for row in rows for value in row.values()]])
    same_seed = _pairs([list(row.values()) for row in rows])
    same_example = _pairs(by_example.values())
    neither = (all_pairs[0] - same_seed[0] - same_example[0], all_pairs[1] - same_seed[1] - same_example[1])
    within_seed, within_example, apart = (
        total / (2 * n) if n else math.nan for total, n in (same_seed, same_example, neither)
    )
    if math.isnan(apart):  # one seed
        return 0.0, 0.0, 0.0 if math.isnan(within_seed) else within_seed
    if math.isnan(within_seed):  # one example a run
        return apart, 0.0, 0.0
    if math.isnan(within_example):  # no example in common
        return max(0.0, apart - within_seed), 0.0, within_seed
    rest = max(0.0, within_seed + within_example - apart)
    return max(0.0, apart - within_seed), max(0.0, apart - within_example), rest


def _pairs(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Return the sum of squared differences of all pairs within groups, and how many pairs there are."""
    total, n_pairs = 0.0, 0
    for group in groups:
        row = np.asarray(group, dtype=np.float64)
        centred = row - row.mean()
        total += row.size * float((centred**2).sum())
        n_pairs += row.size * (row.size - 1) // 2
    return total, n_pairs


def _t_quantile(variance: float, parts: Sequence[_Part]) -> float:
    """Return the two-sided quantile at Satterthwaite's degrees of freedom; `variance` is of the mean of parts."""
    from scipy import stats

    scale = len(parts) ** 2
    shares = [(part.by_seed / scale, part.n_seeds - 1) for part in parts]
    shares += [(part.by_example / scale, part.n_examples - 1) for part in parts]
    spread = math.fsum(share**2 / max(1, freedom) for share, freedom in shares)
    return float(stats.t.ppf(1 - LEVEL / 2, variance**2 / spread))


def _without_variance(value: float, n: int, least: float) -> Interval:
    """Return an interval of a mean of equal scores."""
    if least == 0.0:
        return wilson_interval(min(value * n, n), n)
    reach = wilson_interval(0, n)[1]
    return value - reach, value + reach


def difference(a: Mapping[Block, Row], b: Mapping[Block, Row]) -> dict[Block, Row]:
    """Return a's scores minus b's, on the examples and blocks that both have."""
    return {
        block: {example: a[block][example] - b[block][example] for example in a[block] if example in b[block]}
        for block in a
        if block in b
    }


def common(rows: Mapping[str, Mapping[Block, Row]]) -> dict[str, dict[Block, Row]]:
    """Return each strategy's rows cut to the examples that all strategies with scores in a block have there."""
    shared: dict[Block, set[str]] = {}
    for own in rows.values():
        for block, row in own.items():
            if row:
                shared[block] = shared[block] & set(row) if block in shared else set(row)
    return {
        name: {block: {e: v for e, v in row.items() if e in shared[block]} for block, row in own.items() if row}
        for name, own in rows.items()
    }


# ------------------------------------------------------------------------------- blocks


def blocks_of(rows: Mapping[Block, Row], *, are_data: bool) -> dict[Hashable, float]:
    """Return the score of each block: of a data set (the mean over its seeds), or of a data set and seed."""
    means = {block: math.fsum(row.values()) / len(row) for block, row in rows.items() if row}
    if not are_data:
        return dict(means)
    return {
        name: math.fsum(own) / len(own)
        for name in sorted({name for name, _ in means})
        if (own := [mean for (other, _), mean in means.items() if other == name])
    }


def blocks_needed(n_strategies: int) -> int:
    """Return how many blocks the paired tests need at least, so that one pair of strategies can be told apart.

    With N blocks that all point the same way, the exact test gives 2 / 2^N; Holm's correction multiplies the
    smallest of m p-values by m.
    """
    n_pairs = n_strategies * (n_strategies - 1) // 2
    return math.ceil(1 + math.log2(max(1, n_pairs) / LEVEL))


@dataclass(frozen=True)
class Ranks:
    """Average ranks of strategies, 1 = best.

    Args:
        average: by strategy.
        n_blocks: blocks in which every strategy has a score.
        statistic: Friedman's chi-squared; None = there are fewer than three strategies or two blocks.
        p_value: of Friedman's test that all strategies are alike; None likewise.
        critical_difference: two strategies whose average ranks differ by it, or more, differ significantly; None =
            there is one block.
        groups: longest sets of strategies that do not differ so, in the order of their ranks.
    """

    average: Mapping[str, float]
    n_blocks: int
    statistic: float | None
    p_value: float | None
    critical_difference: float | None
    groups: tuple[tuple[str, ...], ...]


def ranks(scores: Mapping[str, Mapping[Hashable, float]]) -> Ranks | None:
    """Return average ranks with Friedman's test and Nemenyi's critical difference; None = nothing to rank.

    Equal scores share the mean of their ranks. Both are large-sample methods, and with few blocks rather too
    careful; both assume independent blocks. Seeds of one data set share its examples and its nature: as blocks
    they say how strategies differ on these data sets, nothing of others.
    References: Friedman, JASA 32 (1937) 675-701; Nemenyi (1963); Demsar, JMLR 7 (2006) 1-30, sections 3.2.2-3.2.4.

    Args:
        scores: of each strategy by block; only blocks that all have count.
    """
    names = list(scores)
    blocks = [block for block in scores[names[0]] if all(block in scores[name] for name in names)] if names else []
    if len(names) < 2 or not blocks:
        return None
    from scipy import stats

    table = np.array([[round(scores[name][block], 9) for name in names] for block in blocks])  # SAME scores tie
    placed = stats.rankdata(-table, axis=1)
    average = dict(zip(names, placed.mean(axis=0).tolist(), strict=True))
    statistic = p_value = None
    if len(names) > 2 and len(blocks) > 1:
        statistic, p_value = 0.0, 1.0
        if bool((placed != placed[:, :1]).any()):
            found = stats.friedmanchisquare(*table.T)
            statistic, p_value = float(found.statistic), float(found.pvalue)
    distance = critical_difference(len(names), len(blocks)) if len(blocks) > 1 else None
    return Ranks(average, len(blocks), statistic, p_value, distance, _groups(average, distance))


def critical_difference(n_strategies: int, n_blocks: int) -> float:
    """Return Nemenyi's critical difference of average ranks at level .05.

    q sqrt(k (k + 1) / 6 N), with q the studentized range's quantile for k groups and endless degrees of freedom,
    divided by sqrt(2) (Demsar 2006, table 5a).
    """
    from scipy import stats

    q = float(stats.studentized_range.ppf(1 - LEVEL, n_strategies, np.inf)) / math.sqrt(2)
    return q * math.sqrt(n_strategies * (n_strategies + 1) / (6 * n_blocks))


def _groups(average: Mapping[str, float], distance: float | None) -> tuple[tuple[str, ...], ...]:
    """Return the longest runs of strategies, by rank, whose ends are closer than `distance`."""
    names = sorted(average, key=lambda name: (average[name], name))
    if distance is None:
        return (tuple(names),)
    found: list[tuple[str, ...]] = []
    for i, first in enumerate(names):
        group = tuple(name for name in names[i:] if average[name] - average[first] < distance)
        if not found or not set(group) <= set(found[-1]):
            found.append(group)
    return tuple(found)


# ------------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Pair:
    """Two strategies on the blocks that both have.

    Args:
        wins: blocks in which `a` scores higher.
        difference: mean score of `a` minus that of `b`, with its interval; None = no block in common.
        p_value: two-sided, of the sign-flip test over the blocks.
        p_holm: corrected for all pairs of the comparison.
        verdict: of `a` against `b`, by `p_holm` at level .05.
        smallest_p: the smallest `p_holm` that so many blocks can give; above .05 they can prove nothing.
    """

    a: str
    b: str
    n_blocks: int
    wins: int
    ties: int
    losses: int
    difference: Estimate | None
    p_value: float
    p_holm: float
    verdict: Verdict
    smallest_p: float


def pairs(rows: Mapping[str, Mapping[Block, Row]], *, are_data: bool) -> tuple[Pair, ...]:
    """Return every pair of strategies with a paired test over the blocks, Holm-corrected.

    The test is exact: if two strategies are alike on these data sets, then in each block their two scores could as
    well be exchanged, so each difference is as likely to have the opposite sign. It assumes that blocks are
    independent given the test examples, which other seeds and other data sets are. The interval of the difference
    is another method's (see `estimate`) and uncorrected, so close to the level the two may disagree; the verdict
    follows `p_holm`.
    References: Fisher (1935) section 21; Holm, Scandinavian J. of Statistics 6 (1979) 65-70.

    Args:
        rows: scores of each strategy by block and example.
        are_data: whether blocks are data sets; else data sets and seeds.
    """
    names = list(rows)
    drafts = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            gaps = difference(rows[a], rows[b])
            deltas = list(blocks_of(gaps, are_data=are_data).values())
            signs = [(delta > SAME) - (delta < -SAME) for delta in deltas]
            drafts.append((a, b, signs, estimate(gaps, least=-1.0), sign_flip_p(deltas) if deltas else 1.0))
    corrected = holm([draft[-1] for draft in drafts])
    return tuple(
        Pair(
            *(a, b, len(signs), signs.count(1), signs.count(0), signs.count(-1), found, p, p_holm),
            verdict=_verdict(p_holm, found),
            smallest_p=min(1.0, len(drafts) * 2.0 ** (1 - len(signs))) if signs else 1.0,
        )
        for (a, b, signs, found, p), p_holm in zip(drafts, corrected, strict=True)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, so that at level .05 any false one has a chance of at most .05.

    Nothing is assumed of how the tests hang together.
    Reference: Holm, Scandinavian J. of Statistics 6 (1979) 65-70.
    """
    corrected, most = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = most
    return corrected


def _verdict(p_holm: float, found: Estimate | None) -> Verdict:
    if found is None or p_holm > LEVEL or found.value == 0:
        return "undecided"
    return "better" if found.value > 0 else "worse"
