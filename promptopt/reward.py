"""Rewards of a prompt from the log-probabilities of the labels, for searches over tokens.

Glossary: `logprobs` is float[..., E, L], the natural log-probabilities of L labels on E examples, normalised
over the labels; a row of NaN is an answer that is missing or names no label, and counts as fully wrong.
`gold` is int[E], the index of each example's right label, -1 if it is none of them (fully wrong as well).
The *gap* of an example is the probability of its right label minus that of the best wrong one, in [-1, 1].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# RLPrompt's coefficients (Deng et al. 2022, arXiv 2205.12548), which PromptQuine and ClaPS take over.
IF_RIGHT = 200.0
IF_WRONG = 180.0
# The least natural log-probability that counts: one in a million. Below it, endpoints report rounding errors.
LEAST = float(np.log(1e-6))


def gap(logprobs: Floats, gold: NDArray[np.intp]) -> Floats:
    """Return float[..., E]: how far the right label is ahead of the best wrong one, in [-1, 1]."""
    p = np.exp(logprobs)
    is_gold = np.arange(p.shape[-1]) == gold[:, None]
    right = np.where(is_gold, p, 0.0).sum(axis=-1)
    wrong = np.where(is_gold, -np.inf, p).max(axis=-1)
    is_unusable = np.isnan(logprobs).any(axis=-1) | (gold < 0)
    ahead: Floats = np.where(is_unusable, -1.0, right - wrong)
    return ahead


def gap_reward(
    logprobs: Floats,
    gold: NDArray[np.intp],
    *,
    if_right: float = IF_RIGHT,
    if_wrong: float = IF_WRONG,
    is_wrong: NDArray[np.bool_] | None = None,
) -> Floats:
    """Return float[..., E]: the gap times `if_right` where it is positive, else times `if_wrong`.

    Args:
        if_right: coefficient of right answers; the reward is at most this.
        if_wrong: coefficient of wrong ones; the reward is at least minus this.
        is_wrong: bool[..., E], replies that scored nothing, such as one that cannot be read though it begins
            with the right label; there a positive gap counts as negative. None = none.
    """
    ahead = gap(logprobs, gold)
    if is_wrong is not None:
        ahead = np.where(is_wrong, -np.abs(ahead), ahead)
    reward: Floats = np.where(ahead > 0, if_right * ahead, if_wrong * ahead)
    return reward


def cross_entropy(logprobs: Floats, gold: NDArray[np.intp]) -> Floats:
    """Return float[..., E]: the natural log-probability of the right label, in [ln 1e-6, 0].

    An unusable row counts as ln 1e-6.
    """
    is_gold = np.arange(logprobs.shape[-1]) == gold[:, None]
    found = np.where(is_gold, logprobs, 0.0).sum(axis=-1)
    is_unusable = np.isnan(logprobs).any(axis=-1) | (gold < 0)
    reward: Floats = np.maximum(np.where(is_unusable, LEAST, found), LEAST)
    return reward


def double_softmax(logprobs: Floats, gold: NDArray[np.intp]) -> Floats:
    """Return float[..., E]: cross-entropy as ClaPS's published code has it, a softmax of probabilities again.

    It is squashed: with two labels it lies between -1.31 and -0.31. An unusable row counts as the least.
    """
    p = np.exp(np.nan_to_num(logprobs, nan=LEAST))
    again = p - np.logaddexp.reduce(p, axis=-1)[..., None]
    worst = np.array([0.0] * (p.shape[-1] - 1) + [1.0])
    least = float((worst - np.logaddexp.reduce(worst))[0])
    is_gold = np.arange(p.shape[-1]) == gold[:, None]
    is_unusable = np.isnan(logprobs).any(axis=-1) | (gold < 0)
    reward: Floats = np.where(is_unusable, least, np.where(is_gold, again, 0.0).sum(axis=-1))
    return reward


def negative_entropy(logprobs: Floats) -> Floats:
    """Return float[..., E]: minus the entropy of the labels in nats, in [-ln L, 0]; it needs no right labels.

    An unusable row counts as -ln L.
    """
    known = np.nan_to_num(logprobs, nan=-np.log(logprobs.shape[-1]))
    reward: Floats = (np.exp(known) * np.maximum(known, LEAST)).sum(axis=-1)
    return reward


def divergence(logprobs: Floats, reference: Floats) -> Floats:
    """Return float[..., E]: KL(P || Q) in nats, at least 0, of `logprobs` from `reference`, float[E, L].

    0 where either row is unusable: nothing is known to have changed.
    """
    is_unusable = np.isnan(logprobs).any(axis=-1) | np.isnan(reference).any(axis=-1)
    floored = (np.maximum(np.nan_to_num(rows, nan=LEAST), LEAST) for rows in (logprobs, reference))
    p, q = (rows - np.logaddexp.reduce(rows, axis=-1)[..., None] for rows in floored)
    found: Floats = np.where(is_unusable, 0.0, np.maximum((np.exp(p) * (p - q)).sum(axis=-1), 0.0))
    return found


def standardised(logprobs: Floats, reference: Floats) -> Floats:
    """Return float[..., E, L]: each label's log-probabilities as z-scores, which takes a bias to labels away.

    Args:
        reference: float[R, L], the answers that give each label's mean and standard deviation; rows of NaN are
            left out. A label whose values are all the same is only centred.
    """
    known = reference[~np.isnan(reference).any(axis=-1)]
    if not len(known):
        return logprobs
    spread = known.std(axis=0)
    z: Floats = (logprobs - known.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return z
